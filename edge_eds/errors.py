"""Every error that edge-eds raises on purpose.

EdgeError                      one clear line: what, where, expected, found, what to do
├── InputError                 a file, flag or prompt that cannot be used
│   ├── ModelError             the GGUF: missing, truncated, not a chat model, cannot be steered
│   ├── EnergyFileError        the energy file: unreadable, not finite, a newer format
│   │   ├── MissingEnergyError there is none for this model yet
│   │   └── FingerprintError   the energy file was made for another model
│   ├── PromptTooLongError     the prompt does not fit the context
│   ├── ChatTemplateError      the model's chat template cannot take the conversation
│   └── SettingsError          a steering setting out of its range
├── SteeringError              steering or capture was asked for and did not happen
├── MissingExtraError          an optional dependency is not installed
└── ApiError                   a request to the server (apps/server/errors.py), with its HTTP status

The command line prints the message of an EdgeError as one line and exits with status 1.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one line for people."""


class InputError(EdgeError):
    """Input that cannot be used as it is."""


class ModelError(InputError):
    """The GGUF cannot be loaded, is no chat model, or cannot be steered."""


class EnergyFileError(InputError):
    """The energy file cannot be used."""


class MissingEnergyError(EnergyFileError):
    """There is no energy file for the model."""


class FingerprintError(EnergyFileError):
    """The energy file was made for another model."""


class PromptTooLongError(InputError, ValueError):
    """The prompt has more tokens than the context holds."""


class ChatTemplateError(InputError):
    """The model's chat template cannot take a conversation; `reason` is what it says itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the model's chat template cannot take this conversation: {reason}; "
            "--chat-format NAME (chat_format= in Python) uses another format"
        )
        self.reason = reason


class SettingsError(InputError, ValueError):
    """A setting is outside its range."""


class SteeringError(EdgeError, RuntimeError):
    """Steering or capture was asked for and did not happen."""


class MissingExtraError(EdgeError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed: it belongs to the extra '{extra}'; pip install 'edge-eds[{extra}]'"
        )
