"""`lora-sft`: supervised fine-tuning, the offline alternative: a LoRA trained to answer benign twins.

The adapter is trained by models/train_sft_lora.py, which goes on from the model's own adapter. Strengths lie on the
line from the own adapter (0) to the fine-tuned one (1), and a little beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_eds.errors import InputError
from edge_eds.pipeline.methods.adapter_blend import Adapter, blend, read_adapter, write_adapter
from edge_eds.pipeline.methods.method import Context, Family, Method, Shape
from edge_eds.pipeline.methods.steerer import AdapterSteerer, Steerer

STRENGTHS = (0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.25)


@dataclass(frozen=True)
class SftFamily(Family):
    """own: the adapter that the model is used with, if any. folder: where blends are written."""

    own: Adapter | None
    tuned: Adapter
    folder: Path

    def shapes(self) -> Sequence[Shape]:
        return [{}]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return STRENGTHS

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        path = self.folder / f"sft-{strength:g}{AdapterSteerer.suffix}"
        write_adapter(blend(self.own, self.tuned, strength), path)
        return AdapterSteerer(path)


def prepare(context: Context) -> SftFamily:
    if context.tuned_adapter is None:
        raise InputError(
            "this method needs a fine-tuned adapter; make one with models/train_sft_lora.py, and name it with "
            "--sft-lora"
        )
    own = None if context.own_adapter is None else read_adapter(context.own_adapter)
    return SftFamily(own, read_adapter(context.tuned_adapter), context.folder)


LORA_SFT = Method(
    "lora-sft", "supervised fine-tuning (LoRA)", prepare, ("own_adapter", "tuned_adapter")
)
