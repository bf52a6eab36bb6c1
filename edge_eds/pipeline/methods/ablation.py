"""`ablation`: the false-refusal direction, made orthogonal to the true-refusal direction, taken out of the states.

Wang et al. 2025 ("Surgical, Cheap, and Flexible: Mitigating False Refusal in Language Models via Single Vector
Ablation"). One direction, from one layer's states, is ablated at every row of every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_eds.errors import InputError
from edge_eds.pipeline.methods.method import Context, Family, Method, Shape
from edge_eds.pipeline.methods.states import FloatArray, States, unit, windows
from edge_eds.pipeline.methods.steerer import InterventionSteerer, Steerer
from edge_eds.pipeline.train import MIN_CLASS
from edge_eds.runtime.interventions import AblateDirection

AMOUNTS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class AblationFamily(Family):
    """Shapes say which layer's states give the direction, and from which layer on it is ablated."""

    states: States

    def shapes(self) -> Sequence[Shape]:
        sources = [window[0] for window in windows(self.states.collection, (1,))][::2]
        return [{"source": il, "from": first} for il in sources for first in sorted({0, il})]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return AMOUNTS

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        direction = self.direction(shape["source"])
        layers = [il for il in self.states.collection.layers if il >= shape["from"]]
        return InterventionSteerer({il: AblateDirection(direction, strength) for il in layers})

    def direction(self, il: int) -> FloatArray:
        """False refusal minus its part along true refusal, (n_embd,).

        Both are mean differences against what is answered as a matter of course: the ordinary prompts.
        """
        states, labels = self.states, self.states.labels
        answered = labels.train & labels.ordinary & labels.answered
        refused = states.harmful & labels.refused
        for what, mask in (("ordinary training prompts were answered", answered), ("harmful ones refused", refused)):
            if mask.sum() < MIN_CLASS:
                raise InputError(f"{int(mask.sum())} {what}; ablation needs at least {MIN_CLASS}")
        calm = states.mean(il, answered)
        true_refusal = unit(states.mean(il, refused) - calm)
        false_refusal = states.mean(il, states.refused_benign) - calm
        return false_refusal - (false_refusal @ true_refusal) * true_refusal


def prepare(context: Context) -> AblationFamily:
    family = AblationFamily(States(context.collection))
    family.direction(family.states.collection.layers[-1])  # a class that is missing is missing in all layers
    return family


ABLATION = Method("ablation", "single-vector ablation", prepare)
