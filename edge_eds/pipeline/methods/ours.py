"""`ours`: the fitted energy file. Its curve are bounds of its gate.

Where, how hard and when to steer was found by `edge-eds fit`, with a budget of its own, and is not searched again: the
gate has been trained on all prompts of the collection, so that only fit, which scores each prompt with a gate that has
not seen it, can choose a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_eds.energy.file import EnergyFile
from edge_eds.errors import InputError
from edge_eds.pipeline.methods.energy_forms import with_benign_bound
from edge_eds.pipeline.methods.method import Context, Family, Method, Shape
from edge_eds.pipeline.methods.steerer import EnergySteerer, Steerer

# Added to the bound that fit chose, in log-odds of harm: below it, prompts count as benign.
SHIFTS = (-4.0, -2.5, -1.5, -0.75, 0.0, 0.75, 1.5, 3.0)


@dataclass(frozen=True)
class GatedFamily(Family):
    """An energy file with a gate. Its bound is the strength; shapes are other forces, where they are searched."""

    file: EnergyFile
    forces: tuple[float, ...] = (1.0,)

    def shapes(self) -> Sequence[Shape]:
        return [{"force": force} for force in self.forces]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return SHIFTS

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        assert self.file.spec.gate is not None
        file = with_benign_bound(self.file, self.file.spec.gate.benign + strength)
        spec = replace(file.spec, step_size=file.spec.step_size * shape["force"])
        return EnergySteerer(replace(file, spec=spec))

    def given_strength(self) -> float | None:
        return 0.0


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
    return GatedFamily(fitted_file(context))


OURS = Method("ours", "edge-eds", prepare, ("energy",))
