"""`eds-paper`, `eds-paper-relative`: energy-driven steering as published, with its bugs mended.

Jiang et al. 2025 (arXiv 2510.08646): one merged energy a layer on the raw state, batch InfoNCE, the layers of best
validation AUC, K gradient steps at the prompt's last token and every new token, no gate. The step is absolute as
published, or relative to |h|. What is mended is listed at energy/training.py's paper_recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import EnergyModel, LayerEnergy
from edge_eds.energy.settings import SteeringSpec
from edge_eds.energy.training import HeadRecipe, paper_recipe, train_head
from edge_eds.errors import InputError
from edge_eds.pipeline.methods.method import Context, Family, Method, Shape
from edge_eds.pipeline.methods.steerer import EnergySteerer, Steerer
from edge_eds.pipeline.train import MIN_CLASS

SMALL_BELOW = 2048  # n_embd below which the smaller of the published nets is taken
N_LAYERS = (3, 8, 12, 20)
STEPS = (3, 10)
# Published: 0.1 to 0.95. More, because what a step does depends on |h|, which differs from model to model.
ETAS = (0.1, 0.3, 0.95, 2.0, 4.0, 8.0, 16.0, 32.0)
RELATIVE_ETAS = (0.003, 0.006, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
_CACHE = "paper.energy.onnx"


@dataclass(frozen=True)
class PaperFamily(Family):
    """file: one merged head on every layer, unsteered as it is; its scores hold the AUC by layer."""

    file: EnergyFile
    relative: bool

    def shapes(self) -> Sequence[Shape]:
        counts = sorted({min(n, len(self.file.spec.layers)) for n in N_LAYERS})
        return [{"n_layers": n, "steps": steps} for n in counts for steps in STEPS]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return RELATIVE_ETAS if self.relative else ETAS

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        auc = {int(il): float(value) for il, value in self.file.scores["auc"].items()}
        best = sorted(auc, key=lambda il: (-auc[il], il))[: shape["n_layers"]]
        spec = replace(
            self.file.spec, layers=tuple(best), steps=shape["steps"], step_size=strength, relative=self.relative
        )
        assert self.file.energies is not None
        energies = EnergyModel(
            self.file.energies.n_embd, {il: self.file.energies.layers[il] for il in spec.layers}
        )
        return EnergySteerer(replace(self.file, spec=spec, energies=energies))


def train_merged(context: Context, recipe: HeadRecipe) -> EnergyFile:
    """One merged energy for every layer that can be steered: low is what should be, high is what should not."""
    collection, labels = context.collection, context.labels
    judged = labels.refused | labels.answered
    bad = (labels.benign & labels.refused) | (labels.harmful & labels.answered)
    train, valid = judged & labels.train, judged & labels.validation
    for part in (train, valid):
        for side in (bad, ~bad):
            if (part & side).sum() < MIN_CLASS:
                raise InputError(f"the merged energy needs at least {MIN_CLASS} good and bad answers in each split")
    layers: dict[int, LayerEnergy] = {}
    auc: dict[str, float] = {}
    for done, il in enumerate(collection.layers):
        context.on_progress(done, len(collection.layers), f"merged energy of layer {il}")
        head = train_head(
            collection.layer(il, np.flatnonzero(train)),
            bad[train],
            collection.layer(il, np.flatnonzero(valid)),
            bad[valid],
            recipe,
            context.seed,
        )
        layers[il] = LayerEnergy(il, None, {"merged": head.weights})
        auc[str(il)] = head.auc
    spec = SteeringSpec(
        gate=None, layers=tuple(layers), heads=("merged",), steps=1, step_size=0.1, relative=False, covariance=False
    )
    energies = EnergyModel(collection.fingerprint.n_embd, layers)
    return EnergyFile(
        collection.fingerprint,
        spec,
        energies,
        prompt_set_hash=collection.prompt_set_hash,
        seed=context.seed,
        scores={"auc": auc},
    )


def prepare(context: Context, relative: bool) -> PaperFamily:
    recipe = paper_recipe(small=context.collection.fingerprint.n_embd < SMALL_BELOW)
    path = context.folder / _CACHE  # shared by both forms: the step plays no part in training
    if path.is_file():
        file = EnergyFile.load(path)
        if _made_from(file) == (context.collection.fingerprint, context.collection.prompt_set_hash, context.seed):
            return PaperFamily(file, relative)
    file = train_merged(context, recipe)
    file.save(path)
    return PaperFamily(file, relative)


def _made_from(file: EnergyFile) -> tuple[object, str, int]:
    return file.fingerprint, file.prompt_set_hash, file.seed


EDS_PAPER = Method("eds-paper", "EDS as published", partial(prepare, relative=False))
EDS_PAPER_RELATIVE = Method(
    "eds-paper-relative", "EDS as published, relative step", partial(prepare, relative=True)
)
