"""The tokens that a chat turns into, as llama-cpp-python's own chat handler makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import TemplateError

from edge_eds.errors import ChatTemplateError

if TYPE_CHECKING:
    from edge_eds.runtime.session import EdgeLlama

Message = Mapping[str, str]  # {"role": ..., "content": ...}


class _Rendered(BaseException):
    """Carries the prompt out of the chat handler, before it would be decoded."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__()
        self.tokens = tokens


class _Recorder:
    """Stands in for the Llama that a chat handler is given: it tokenizes, and keeps the prompt."""

    def __init__(self, llm: EdgeLlama) -> None:
        self._llm = llm
        self.verbose = False

    def tokenize(self, *args: Any, **kwargs: Any) -> list[int]:
        return self._llm.tokenize(*args, **kwargs)

    def create_completion(self, prompt: list[int], **_: Any) -> NoReturn:
        raise _Rendered(prompt)


def render_chat(llm: EdgeLlama, messages: Sequence[Message]) -> list[int]:
    """Tokens of a conversation in the model's chat format, up to where the assistant's answer begins.

    Raises:
        ModelError: the GGUF has no chat template and no chat_format was chosen.
        ChatTemplateError: the template refuses the conversation, or breaks on it.
    """
    handler = llm.chat_handler_in_use()
    try:
        handler(llama=_Recorder(llm), messages=list(messages))
    except _Rendered as rendered:
        return rendered.tokens
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:  # a template may do anything
        raise ChatTemplateError(str(error) or type(error).__name__) from error
    raise AssertionError("the chat handler did not ask for a completion")
