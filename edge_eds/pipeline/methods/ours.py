"""`ours`: the fitted energy file. Its curve are bounds of its gate, its shapes other strengths.

Where, how hard and when to steer was found by `edge-eds fit`, with a budget of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_eds.energy.file import EnergyFile
from edge_eds.errors import InputError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.methods.energy_forms import bound_for_share, with_benign_bound
from edge_eds.pipeline.methods.method import Context, Method, Shape
from edge_eds.pipeline.methods.steerer import EnergySteerer, Steerer

SHARES = (0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the refused benign prompts that the gate lets through
FORCES = (0.7, 1.0, 1.4)


@dataclass(frozen=True)
class GatedFamily:
    """An energy file with a gate: its force is the shape, the gate's bound is the strength."""

    file: EnergyFile
    collection: Collection

    def shapes(self) -> Sequence[Shape]:
        return [{"force": force} for force in FORCES]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return SHARES

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        bound = bound_for_share(self.file, self.collection, strength)
        file = with_benign_bound(self.file, bound)
        spec = replace(file.spec, step_size=file.spec.step_size * shape["force"])
        return EnergySteerer(replace(file, spec=spec))


def fitted_file(context: Context) -> EnergyFile:
    """The energy file that the context has.

    Raises:
        InputError: none, or one that cannot be taken apart.
    """
    file = context.energy
    if file is None:
        raise InputError("this method needs the model's energies; make them with `edge-eds fit`, or name --energy")
    file.check_fingerprint(context.collection.fingerprint)
    if file.energies is None or file.spec.gate is None or "fr" not in file.spec.heads:
        raise InputError("this method needs an energy file that edge-eds has fitted: with a gate and E_fr")
    return file


def prepare(context: Context) -> GatedFamily:
    return GatedFamily(fitted_file(context), context.collection)


OURS = Method("ours", "edge-eds", prepare, ("energy",))
