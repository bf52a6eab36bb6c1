"""What the server does for each kind of request, without HTTP: from a checked request to documents.

Each method runs on a thread of its request and waits for the worker there. A stream is given piece by piece to `emit`:
None once, when the request has been taken into the queue, then chunks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from llama_cpp.llama_grammar import LlamaGrammar

from edge_eds.apps.server import documents
from edge_eds.apps.server.errors import ApiError, invalid, too_long
from edge_eds.apps.server.readings import Reader, answer_tokens
from edge_eds.apps.server.requests import (
    ChatRequest,
    CompletionRequest,
    EdsOptions,
    EmbeddingRequest,
    EnergyRequest,
    Message,
    SamplingFields,
    StreamOptions,
)
from edge_eds.apps.server.schema import check_schema, json_grammar, schema_grammar
from edge_eds.apps.server.settings import ServerSettings
from edge_eds.apps.server.stand_in import StandIn, Wish
from edge_eds.apps.server.worker import Claim, Job, Worker
from edge_eds.apps.settings import MAX_SEED
from edge_eds.energy.settings import Steering, SteeringSpec
from edge_eds.errors import ChatTemplateError, EdgeError, PromptTooLongError, SettingsError
from edge_eds.runtime.chat_prompt import render_chat
from edge_eds.runtime.message import NO_MESSAGE
from edge_eds.runtime.sampling import TokenSampling

PLAIN = ":plain"  # NAME:plain is the model NAME without steering
_WHOLE_CHOICE = "chatml-function-calling"  # the format that answers in one piece where it chooses among tools
Emit = Callable[[dict[str, Any] | None], None]


class Service:
    """The model `name` behind a worker. strength: how hard an answer is steered whose request does not say."""

    def __init__(self, worker: Worker, name: str, strength: float, settings: ServerSettings) -> None:
        self._worker, self._settings = worker, settings
        self.name, self.strength = name, strength
        self._created = int(time.time())

    @property
    def steerable(self) -> bool:
        """Whether there are energies."""
        return self._worker.slots.session.energy_file is not None

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken."""
        return self._worker.is_alive

    def models(self) -> list[dict[str, Any]]:
        """What /v1/models lists."""
        strengths = {self.name: self.strength, **({self.name + PLAIN: 0.0} if self.steerable else {})}
        return documents.models(strengths, self._created, self._spec)

    def model(self, name: str) -> dict[str, Any]:
        """One of them.

        Raises:
            ApiError: 404; there is no such model here.
        """
        strength = 0.0 if self._is_plain(name) else self.strength
        return documents.models({name: strength}, self._created, self._spec)[0]

    def chat(self, request: ChatRequest, claim: Claim, emit: Emit) -> dict[str, Any] | None:
        """/v1/chat/completions: the document, or None for a stream.

        Raises:
            EdgeError: what is wrong with the request, or went wrong.
        """
        wish = self._wish(request, request.max_completion_tokens or request.max_tokens)
        if request.logprobs:
            wish = replace(wish, n_logprobs=request.top_logprobs or 0)
        elif request.top_logprobs:
            raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
        stand_in = StandIn(self._worker, claim, wish, lambda: emit(None))
        with _template_errors(lambda: stand_in.asked):
            answer = self._ask_handler(request, stand_in, wish)
            if not request.stream:
                choice = answer["choices"][0]
                choice["message"] = documents.tool_call_message(choice["message"])
                if request.logprobs:
                    choice["logprobs"] = self._chat_logprobs(stand_in)
                return self._complete(answer, request, stand_in)
            begun: set[int] = set()
            for chunk in answer:
                choice = chunk["choices"][0]
                choice["delta"] = documents.tool_call_delta(choice["delta"], begun)
                if request.logprobs and ("content" in choice["delta"] or "tool_calls" in choice["delta"]):
                    choice["logprobs"] = self._chat_logprobs(stand_in)
                self._emit_chunk(chunk, request, stand_in, emit)
            self._emit_usage(chunk, request.stream_options, stand_in, emit)
        return None

    def complete(self, request: CompletionRequest, claim: Claim, emit: Emit) -> dict[str, Any] | None:
        """/v1/completions: the document, or None for a stream.

        Raises:
            EdgeError: what is wrong with the request, or went wrong.
        """
        wish = replace(self._wish(request, request.max_tokens or 16), n_logprobs=request.logprobs)
        stand_in = StandIn(self._worker, claim, wish, lambda: emit(None))
        arguments = {**wish.handler_arguments(), "logit_bias": self._logit_bias(request)}
        prompt = self._prompt_tokens(request.prompt)
        with _too_long_is("prompt"):
            answer = stand_in.create_completion(prompt, stream=bool(request.stream), **arguments)
        if not request.stream:
            if request.logprobs is not None:
                answer["choices"][0]["logprobs"] = self._text_logprobs(stand_in, 0)
            return self._complete(answer, request, stand_in)
        n_letters = 0
        for chunk in answer:
            choice = chunk["choices"][0]
            if request.logprobs is not None and choice["finish_reason"] is None:
                choice["logprobs"] = self._text_logprobs(stand_in, n_letters)
            n_letters += len(choice["text"])
            self._emit_chunk(chunk, request, stand_in, emit)
        self._emit_usage(chunk, request.stream_options, stand_in, emit)
        return None

    def comparison(self, request: ChatRequest) -> tuple[ChatRequest, ChatRequest]:
        """/v1/eds/compare: the requests for the plain and for the steered answer, with one seed.

        Raises:
            ApiError: there is nothing to compare.
        """
        if request.stream:
            raise invalid("a comparison is not streamed; ask for two streams, of NAME and NAME:plain", "stream")
        self._is_plain(request.model)
        strength = self.strength if request.eds.strength is None else request.eds.strength
        if not self.steerable or strength == 0:
            raise invalid("there is nothing to compare: the steered answer would not be steered", "eds.strength")
        seed = self._seed(request)

        def at(strength: float, model: str) -> ChatRequest:
            eds = EdsOptions(strength=strength, trace=request.eds.trace)
            return request.model_copy(update={"model": model, "eds": eds, "seed": seed})

        return at(0.0, self.name + PLAIN), at(strength, self.name)

    def energy(self, request: EnergyRequest, claim: Claim) -> dict[str, Any]:
        """/v1/eds/energy: what the energies say of a conversation, and of an answer to it that is there already.

        Raises:
            EdgeError: there are no energies; the conversation cannot be used.
        """
        self._is_plain(request.model)
        slots, spec, reader = self._worker.slots, self._spec, self._reader
        if spec is None or reader is None:
            raise invalid("there are no energies: the server was started with --energy none", "model")
        self._check_count(request.messages)
        with _template_errors():
            prompt = render_chat(slots.session, [message.document() for message in request.messages])
        tokens, pieces = answer_tokens(slots, request.answer or "")
        n_tokens = len(prompt) + len(tokens)
        if n_tokens > slots.n_ctx:
            raise too_long(
                f"the conversation takes {n_tokens} tokens and the context holds {slots.n_ctx}", "messages"
            )
        reads_message = spec.gate is not None and spec.gate.reads_message
        asked = slots.session.message_in(prompt) if reads_message else NO_MESSAGE
        energies = reader.read(claim, prompt, asked, tokens)
        by_layer = {il: {head: float(values[0]) for head, values in heads.items()} for il, heads in energies.items()}
        outlook = spec.outlook
        in_sight = None if outlook is None else self._run(claim, lambda slots: slots.refuses(prompt, outlook))
        document = documents.energies(len(prompt), by_layer, in_sight, spec, self.name)
        if request.answer is not None:
            document["tokens"] = documents.readings(pieces, energies, spec)
        return document

    def embed(self, request: EmbeddingRequest, claim: Claim) -> dict[str, Any]:
        """/v1/embeddings: the mean of the model's last states over each text, of length 1, never steered.

        Raises:
            EdgeError: a text that cannot be used; a model without embeddings.
        """
        self._is_plain(request.model)
        found, n_tokens = [], 0
        for i, text in enumerate(request.input):
            tokens = self._prompt_tokens(text, param="input")
            with _too_long_is("input"):
                values = self._run(claim, lambda slots, tokens=tokens: slots.embed(tokens))  # type: ignore[misc]
            found.append(documents.embedding(i, values, request.encoding_format == "base64"))
            n_tokens += len(tokens)
        counts = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        return {"object": "list", "data": found, "model": request.model or self.name, "usage": counts}

    # -- from requests to what the worker takes

    @cached_property
    def _reader(self) -> Reader | None:
        file = self._worker.slots.session.energy_file
        return None if file is None else Reader(self._worker, file)

    @property
    def _spec(self) -> SteeringSpec | None:
        file = self._worker.slots.session.energy_file
        return None if file is None else file.spec

    def _is_plain(self, model: str | None) -> bool:
        if model not in (None, self.name, self.name + PLAIN):
            there = " and ".join(entry["id"] for entry in self.models())
            message = f"the model {model[:200]!r} does not exist here; this server has {there}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return model == self.name + PLAIN

    def _strength(self, model: str | None, eds: EdsOptions) -> float:
        plain = self._is_plain(model)
        if eds.strength is None:
            return 0.0 if plain else self.strength
        try:
            Steering(strength=eds.strength)
        except SettingsError as error:
            raise invalid(str(error), "eds.strength") from error
        if eds.strength > 0 and not self.steerable:
            raise invalid("there are no energies to steer with (--energy none); expected 0", "eds.strength")
        if plain and eds.strength != 0:
            raise invalid(f"the model {model} is not steered; ask for {self.name}", "eds.strength")
        return eds.strength

    def _wish(self, request: SamplingFields, max_tokens: int | None) -> Wish:
        fields = (
            "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty",
        )  # fmt: skip
        given = {name: getattr(request, name) for name in fields if getattr(request, name) is not None}
        sampling = TokenSampling(**{"temperature": self._settings.temperature, **given, "seed": self._seed(request)})
        limit = self._settings.max_tokens
        return Wish(
            model=request.model or self.name,
            sampling=sampling,
            strength=self._strength(request.model, request.eds),
            max_tokens=min(max_tokens or limit, limit),
            stop=tuple(request.stop or ()),
        )

    def _seed(self, request: SamplingFields) -> int:
        seed = self._settings.seed if request.seed is None else request.seed
        return random.randrange(MAX_SEED) if seed is None else seed

    def _logit_bias(self, request: SamplingFields) -> dict[int, float] | None:
        if not request.logit_bias:
            return None
        n_vocab = self._worker.slots.session.n_vocab()
        for token in request.logit_bias:
            if not (token.isascii() and token.isdigit() and len(token) < 10 and int(token) < n_vocab):
                named = f"logit_bias names {token[:40]!r}"
                raise invalid(f"{named}, expected the number of a token, 0 to {n_vocab - 1}", "logit_bias")
        return {int(token): bias for token, bias in request.logit_bias.items()}

    def _prompt_tokens(self, prompt: str | list[int], param: str = "prompt") -> list[int]:
        session = self._worker.slots.session
        tokens = session.tokenize(prompt.encode(), special=param == "prompt") if isinstance(prompt, str) else prompt
        n_vocab = session.n_vocab()
        if not tokens:
            raise invalid(f"{param} is empty", param)
        if not all(0 <= token < n_vocab for token in tokens):
            raise invalid(f"{param} has a token that the model does not have, expected 0 to {n_vocab - 1}", param)
        return tokens

    def _check_count(self, messages: Sequence[Message]) -> None:
        """Every message takes a token or more, so too many need not be looked at."""
        n_ctx = self._worker.slots.n_ctx
        if len(messages) >= n_ctx:
            raise too_long(f"there are {len(messages)} messages and the context holds {n_ctx} tokens", "messages")

    def _ask_handler(self, request: ChatRequest, stand_in: StandIn, wish: Wish) -> Any:
        """What llama-cpp-python's chat handler makes of the request."""
        self._check_count(request.messages)
        arguments = {**wish.handler_arguments(), "logit_bias": self._logit_bias(request)}
        grammar = self._grammar(request)
        if grammar is not None:
            arguments["grammar"] = LlamaGrammar.from_string(grammar, verbose=False)
        session, tools = self._worker.slots.session, self._tools(request)
        is_whole = session.chat_format == _WHOLE_CHOICE and tools.get("tool_choice") == "auto"
        answer = session.chat_handler_in_use()(
            llama=stand_in,
            messages=[message.document() for message in request.messages],
            stream=bool(request.stream) and not is_whole,
            **tools,
            **arguments,
        )
        return documents.chunks_of(answer) if request.stream and is_whole else answer

    @staticmethod
    def _grammar(request: ChatRequest) -> str | None:
        form = request.response_format
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return json_grammar()
        if form.json_schema is None:
            raise invalid("response_format of type json_schema needs json_schema", "response_format.json_schema")
        return schema_grammar(form.json_schema.schema_, "response_format.json_schema.schema")

    @staticmethod
    def _tools(request: ChatRequest) -> dict[str, Any]:
        """Tools and the choice of one, as handlers take them."""
        if not request.tools:
            if request.tool_choice not in (None, "none", "auto"):
                raise invalid("tool_choice needs tools", "tool_choice")
            return {}
        choice = request.tool_choice or "auto"
        names = [tool.function.name for tool in request.tools]
        for i, tool in enumerate(request.tools):
            check_schema(tool.function.parameters, f"tools.{i}.function.parameters")
        if choice == "none":
            return {}
        if choice == "required":
            if len(names) > 1:
                raise invalid("tool_choice required needs a single tool here; name the one to call", "tool_choice")
            choice = {"type": "function", "function": {"name": names[0]}}
        if isinstance(choice, dict) and choice["function"]["name"] not in names:
            raise invalid(f"tool_choice names {choice['function']['name']!r}, which is not in tools", "tool_choice")
        return {"tools": [tool.model_dump(exclude_none=True) for tool in request.tools], "tool_choice": choice}

    def _run(self, claim: Claim, work: Callable[[Any], Any]) -> Any:
        job = Job(claim, work)
        self._worker.submit(job)
        return job.wait()

    # -- from answers to documents

    def _chat_logprobs(self, stand_in: StandIn) -> dict[str, Any]:
        return documents.chat_logprobs(stand_in.take_tokens(), self._worker.slots.piece)

    def _text_logprobs(self, stand_in: StandIn, offset: int) -> dict[str, Any]:
        return documents.text_logprobs(stand_in.take_tokens(), self._worker.slots.piece, offset)

    def _complete(self, document: dict[str, Any], request: SamplingFields, stand_in: StandIn) -> dict[str, Any]:
        self._say_if_cut(document["choices"][0], stand_in)
        document["usage"] = documents.usage(stand_in.results)
        if request.eds.trace:
            document["eds"] = documents.steering(stand_in.results[-1], self._spec)
        return document

    @staticmethod
    def _say_if_cut(choice: dict[str, Any], stand_in: StandIn) -> None:
        """Handlers call a tool call complete whose arguments were cut."""
        if any(result.finish_reason == "length" for result in stand_in.results):
            choice["finish_reason"] = "length"

    def _emit_chunk(self, chunk: dict[str, Any], request: SamplingFields, stand_in: StandIn, emit: Emit) -> None:
        choice = chunk["choices"][0]
        if choice["finish_reason"] is not None:
            self._say_if_cut(choice, stand_in)
        if request.eds.trace and choice["finish_reason"] is not None:
            chunk["eds"] = documents.steering(stand_in.results[-1], self._spec)
        if request.stream_options is not None and request.stream_options.include_usage:
            chunk["usage"] = None
        emit(chunk)

    @staticmethod
    def _emit_usage(last: dict[str, Any], options: StreamOptions | None, stand_in: StandIn, emit: Emit) -> None:
        if options is not None and options.include_usage:
            head = {name: last[name] for name in ("id", "object", "created", "model")}
            emit({**head, "choices": [], "usage": documents.usage(stand_in.results)})


@contextmanager
def _too_long_is(param: str) -> Iterator[None]:
    """Name the field that a prompt which is too long came in.

    Raises:
        ApiError: 400, it is.
    """
    try:
        yield
    except PromptTooLongError as error:
        raise too_long(str(error), param) from error


@contextmanager
def _template_errors(asked: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """What a chat template cannot take is the request's fault; once the model has been `asked` it is a bug.

    Raises:
        ApiError: 400, with what the template says.
    """
    try:
        yield
    except ChatTemplateError as error:
        raise _refused_by_template(error.reason) from error
    except EdgeError:
        raise
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        if asked():
            raise
        raise _refused_by_template(str(error) or type(error).__name__) from error


def _refused_by_template(reason: str) -> ApiError:
    return invalid(f"the model's chat template cannot take this conversation: {reason}", "messages")
