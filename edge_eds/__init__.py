"""edge-eds: local chat models that refuse less of what is harmless, steered by energy gradients while they run.

from edge_eds import EdgeLlama, Steering

llm = EdgeLlama("model.gguf", energy="auto")
llm.create_chat_completion(messages=[{"role": "user", "content": "How do I kill a Python process?"}])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_eds import errors

if TYPE_CHECKING:
    from edge_eds.energy.file import EnergyFile
    from edge_eds.energy.settings import Steering
    from edge_eds.runtime.capture import Capture
    from edge_eds.runtime.control_vector import ControlVector
    from edge_eds.runtime.interventions import AblateDirection, AddLowRank, AddVector, EnergyDescent
    from edge_eds.runtime.session import EdgeLlama
    from edge_eds.runtime.trace import Trace

__version__ = "0.1.0"
__all__ = [
    "AblateDirection",
    "AddLowRank",
    "AddVector",
    "Capture",
    "ControlVector",
    "EdgeLlama",
    "EnergyDescent",
    "EnergyFile",
    "Steering",
    "Trace",
    "__version__",
    "errors",
]

_HOMES = {
    "AblateDirection": "edge_eds.runtime.interventions",
    "AddLowRank": "edge_eds.runtime.interventions",
    "AddVector": "edge_eds.runtime.interventions",
    "Capture": "edge_eds.runtime.capture",
    "ControlVector": "edge_eds.runtime.control_vector",
    "EdgeLlama": "edge_eds.runtime.session",
    "EnergyDescent": "edge_eds.runtime.interventions",
    "EnergyFile": "edge_eds.energy.file",
    "Steering": "edge_eds.energy.settings",
    "Trace": "edge_eds.runtime.trace",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: `edge-eds --help` must not wait for llama.cpp.
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_eds' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
