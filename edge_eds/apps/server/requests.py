"""What a client may ask, checked field by field, without a model.

Takes the bytes of a request; gives one of the request classes, or an ApiError that names the field. Fields of OpenAI's
API that change nothing here (IGNORED) are dropped; every other unknown field is refused, so that nothing that was asked
for is left out in silence.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from edge_eds.apps.server.errors import ApiError, invalid
from edge_eds.runtime.sampling import MAX_SEED

IGNORED = frozenset({
    "user", "store", "metadata", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "reasoning_effort", "verbosity", "prediction",
})  # fmt: skip
MAX_STOP = 16
MAX_INPUTS = 256  # texts of one request for embeddings
_EXPECTED = {  # as JSON has it, and not Python
    "int_type": "an integer", "float_type": "a number", "bool_type": "true or false", "string_type": "a string",
    "list_type": "an array", "dict_type": "an object", "model_type": "an object",
}  # fmt: skip
_CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}

Request = TypeVar("Request", bound="Base")


class Base(BaseModel):
    """No field but those that are declared, and no 1 for true."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def parse(kind: type[Request], body: bytes) -> Request:
    """The request in a body.

    Raises:
        ApiError: 400; not JSON, a field that is unknown, missing or has a wrong value.
    """
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(document, dict):
        raise ApiError(400, f"the body is {_json_kind(document)}, expected an object", code="invalid_json")
    try:
        return kind.model_validate({key: value for key, value in document.items() if key not in IGNORED})
    except ValidationError as error:
        raise _first_problem(error.errors(include_url=False)[0]) from error


def _first_problem(problem: ErrorDetails) -> ApiError:
    param = ".".join(map(str, problem["loc"]))
    kind = problem["type"]
    if kind == "extra_forbidden":
        message = f"Unknown parameter: '{param}'."
    elif kind == "missing":
        message = f"Missing required parameter: '{param}'."
    else:
        message = f"Invalid value for '{param}': {_expectation(problem)}"
    return invalid(message, param, _CODES.get(kind, "invalid_type" if kind.endswith("_type") else "invalid_value"))


def _expectation(problem: ErrorDetails) -> str:
    """What was expected, and what was found: of a text, which may be a prompt, its kind alone, unless it is a name."""
    message, found = problem["msg"].removeprefix("Value error, "), problem["input"]
    if not message.startswith("Input should be "):
        return message
    expected = _EXPECTED.get(problem["type"], message.removeprefix("Input should be "))
    is_name = problem["type"] == "literal_error" and isinstance(found, str)
    shown = json.dumps(found)[:40] if is_name or isinstance(found, int | float) else _json_kind(found)
    return f"expected {expected.replace('None', 'null').replace('False', 'false')}, found {shown}"


def _json_kind(value: object) -> str:
    kinds = {list: "an array", dict: "an object", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _text(value: object) -> object:
    """Text, or the texts of a list of parts."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"expected a string or parts of type text, found a part of type {kind!r}")
        texts.append(part["text"])
    return "".join(texts)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _one_prompt(value: object) -> object:
    """A text or a list of tokens; in a list of one, too."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str) or (isinstance(value, list) and all(type(token) is int for token in value)):
        return value
    raise ValueError("expected one text, or one list of token numbers")


def _inputs(value: object) -> object:
    """Texts, or lists of tokens."""
    if isinstance(value, str) or (isinstance(value, list) and value and type(value[0]) is int):
        value = [value]
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_INPUTS:
        raise ValueError(f"expected a text or 1 to {MAX_INPUTS} of them")
    return [_one_prompt(item) for item in value]


def _tool_choice(value: object) -> object:
    if value is None or value in ("none", "auto", "required"):
        return value
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError('expected "none", "auto", "required" or {"type": "function", "function": {"name": NAME}}')
    return {"type": "function", "function": {"name": function["name"]}}


Text = Annotated[str, BeforeValidator(_text)]
Stop = Annotated[Annotated[list[str], Field(max_length=MAX_STOP)] | None, BeforeValidator(_as_list)]
Unset = Literal[None]


class EdsOptions(Base):
    """How this one answer is steered. strength None: as the server was started."""

    strength: float | None = None
    trace: bool = False


class StreamOptions(Base):
    """include_usage: a last chunk says how many tokens were used."""

    include_usage: bool = False
    include_obfuscation: bool | None = None  # OpenAI's padding of chunks; there is none here


class FunctionCall(Base):
    """A call that the model made in an earlier answer."""

    name: str
    arguments: str


class ToolCall(Base):
    """One call among those of an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class Message(Base):
    """One message of a conversation. What clients send back of an answer and the template does not know is dropped."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text = ""
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: Any = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None

    def document(self) -> dict[str, Any]:
        """As chat templates take it."""
        kept = {"name", "tool_calls", "tool_call_id"}
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content, **self.model_dump(include=kept, exclude_none=True)}


class FunctionDefinition(Base):
    """A function that the model may call."""

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


class Tool(Base):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class JsonSchema(Base):
    """A schema that the answer has to fit."""

    name: str = "schema"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Base):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class SamplingFields(Base):
    """What completions and chats have in common. None: as the server was started, or OpenAI's default."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repeat_penalty: float | None = Field(None, ge=0.1, le=10)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: Stop = None
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    eds: EdsOptions = Field(default_factory=EdsOptions)


class ChatRequest(SamplingFields):
    """/v1/chat/completions and /v1/eds/compare."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Annotated[Any, BeforeValidator(_tool_choice)] = None
    modalities: list[Literal["text"]] | None = None


class CompletionRequest(SamplingFields):
    """/v1/completions."""

    prompt: Annotated[Any, BeforeValidator(_one_prompt)]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: str | None = Field(None, max_length=0)


class EmbeddingRequest(Base):
    """/v1/embeddings."""

    input: Annotated[Any, BeforeValidator(_inputs)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Unset = None


class EnergyRequest(Base):
    """/v1/eds/energy. answer: what the assistant said to the messages, to be read token by token."""

    messages: list[Message] = Field(min_length=1)
    answer: str | None = None
    model: str | None = None
