"""Everything that a user could do to a GGUF against false refusals, by name, behind one interface.

`load_method(name)` gives a Method (method.py): it turns a collection into a family of steerers, of which
search.py finds the best within a budget that is the same for all. A method's module is imported when it is asked
for. What each took from its publication and what differs is in docs/methods.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from edge_eds.errors import InputError

if TYPE_CHECKING:
    from edge_eds.pipeline.methods.method import Method

_HOMES = {
    "ours": ("ours", "OURS"),
    "frozen-gradient": ("frozen_gradient", "FROZEN_GRADIENT"),
    "eds-paper": ("eds_paper", "EDS_PAPER"),
    "eds-paper-relative": ("eds_paper", "EDS_PAPER_RELATIVE"),
    "control-vector": ("control_vector", "CONTROL_VECTOR"),
    "ablation": ("ablation", "ABLATION"),
    "conditional-vector": ("conditional_vector", "CONDITIONAL_VECTOR"),
    "alphasteer": ("alphasteer", "ALPHASTEER"),
    "system-prompt": ("system_prompt", "SYSTEM_PROMPT"),
    "lora-sft": ("lora_sft", "LORA_SFT"),
}  # name -> (module, the Method in it)
METHODS = tuple(_HOMES)
NEED_TORCH = ("eds-paper", "eds-paper-relative")
NEED_ENERGIES = ("ours", "frozen-gradient")
NEED_ADAPTER = ("lora-sft",)  # a fine-tuned one


def check_name(name: str) -> None:
    """InputError unless there is a method of this name; nothing is imported."""
    if name not in _HOMES:
        raise InputError(f"unknown method {name!r}; expected one of {', '.join(METHODS)}")


def load_method(name: str) -> Method:
    """The method of this name.

    Raises:
        InputError: there is none.
    """
    check_name(name)
    module, constant = _HOMES[name]
    method: Method = getattr(importlib.import_module(f"{__name__}.{module}"), constant)
    return method
