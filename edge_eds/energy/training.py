"""Training one energy: states and labels in, weights out. The only module of energy/ that needs torch.

    subspace = fit_subspace(H, rank=64)                            # principal directions of real states
    rows = split_rows(bad, groups, validation=0.3, seed=0)
    head = train_head(Z[rows.train], bad[rows.train], Z[rows.valid], bad[rows.valid], HeadRecipe(), seed=0)
    weights = calibrate(head.weights, Z[rows.valid], bad[rows.valid])      # calibration.py

bad (n,) bool: True is high energy. The epoch with the best AUC on the validation rows is kept, not the last
one. Dropout acts in training only. Seeded: the same rows, recipe and seed give the same bits on one machine;
the state of torch's own generator is left as it was. Left out: which states are collected, how good and bad
are told apart, and the choice of layers and steps (the pipeline).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edge_eds.energy.calibration import BoolArray, auc, require_both
from edge_eds.energy.network import LAYER_NORM_EPS, FloatArray, HeadWeights, HiddenLayer, Subspace
from edge_eds.errors import InputError, SettingsError

LOSSES = ("logistic", "infonce")
SMALLEST_SPREAD = 1e-6  # of a principal direction, relative to the widest: below it the states do not vary


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is built and trained.

    hidden: widths of the hidden blocks, () makes a linear head. loss: "logistic", log(1 + exp(E_good -
    E_bad)) over all pairs of a batch, or "infonce", for each good state the cross entropy of exp(-E / tau)
    against all bad ones of the batch. batch: rows in each step. patience: epochs without a better AUC before
    training stops.
    """

    hidden: tuple[int, ...] = (64,)
    layer_norm: bool = False
    dropout: float = 0.1
    loss: str = "logistic"
    tau: float = 0.1
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    batch: int = 32
    epochs: int = 60
    patience: int = 15

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        counts = {"batch": self.batch, "epochs": self.epochs, "patience": self.patience}
        counts.update({f"hidden width {i}": width for i, width in enumerate(self.hidden)})
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise SettingsError(f"{name} is {count!r}, expected a whole number above 0")
        for name, above, below in (
            ("dropout", -1e-9, 1.0),
            ("weight_decay", -1e-9, math.inf),
            ("learning_rate", 0.0, math.inf),
            ("tau", 0.0, math.inf),
        ):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not above < value < below:  # refuses NaN too
                raise SettingsError(f"{name} is {value!r}, out of its range")
        if self.loss not in LOSSES:
            raise SettingsError(f"loss is {self.loss!r}, expected one of {', '.join(LOSSES)}")


def paper_recipe(small: bool = False) -> HeadRecipe:
    """The published form (arXiv 2510.08646), on raw h: d -> 2048 -> 1024 -> 1024 -> 512 -> 1, batch InfoNCE,
    tau 0.1.

    `small` is the smaller published net, d -> 512 -> 256 -> 1. What differs from the published code: the best
    epoch is kept, dropout is off after training, everything is seeded.
    """
    return HeadRecipe(
        hidden=(512, 256) if small else (2048, 1024, 1024, 512),
        layer_norm=True,
        dropout=0.15,
        loss="infonce",
        tau=0.1,
        learning_rate=5e-5,
        weight_decay=0.0,
        batch=64,
        epochs=120,
        patience=120,
    )


class TrainedHead(NamedTuple):
    """A trained head, not calibrated, with what it reached on the validation rows."""

    weights: HeadWeights
    auc: float
    epoch: int  # 1-based: the epoch that was kept
    epochs_run: int


class Rows(NamedTuple):
    """Row indices of a split, ascending."""

    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]


def fit_subspace(H: FloatArray, rank: int) -> Subspace:
    """The `rank` principal directions of states H (n, n_embd), with their mean and standard deviations.

    Eigenvectors in float64 of the covariance, or of the Gram matrix when there are fewer states than
    dimensions. The largest component of each direction is positive. InputError when the states vary in fewer
    directions.
    """
    n, n_embd = H.shape
    if not 1 <= rank <= n_embd:
        raise SettingsError(f"rank is {rank}, expected at least 1 and at most n_embd = {n_embd}")
    if not np.isfinite(H).all():
        raise InputError("the states have NaN or infinite values; collect them again")
    mu = H.mean(axis=0, dtype=np.float64)
    X = H - mu
    if n >= n_embd:
        variance, vectors = np.linalg.eigh(X.T @ X / n)
        P = vectors[:, ::-1][:, :rank].T
    else:
        variance, vectors = np.linalg.eigh(X @ X.T / n)
        top = vectors[:, ::-1][:, :rank]
        P = np.linalg.qr(X.T @ top)[0].T  # QR takes the rounding of small directions out
    spread = np.sqrt(np.maximum(variance[::-1], 0))
    n_directions = int((spread > SMALLEST_SPREAD * spread[0]).sum()) if spread[0] > 0 else 0
    if n_directions < rank:
        raise InputError(
            f"{n} states vary in {n_directions} directions, expected {rank}: collect more, or lower the rank"
        )
    P = P * np.sign(P[np.arange(rank), np.abs(P).argmax(axis=1)])[:, None]
    return Subspace(mu.astype(np.float32), P.astype(np.float32), spread[:rank].astype(np.float32))


def split_rows(
    bad: BoolArray, groups: Sequence[Hashable] | None = None, *, validation: float = 0.25, seed: int = 0
) -> Rows:
    """Split rows into training and validation, at random and seeded.

    Rows of one group (such as a matched pair of prompts) stay together; without groups each row is its own.
    Groups are drawn evenly from a list sorted by their labels, so that both parts have both labels in like
    proportion. InputError when a part lacks a label all the same.
    """
    if not 0 < validation < 1:
        raise SettingsError(f"validation is {validation!r}, expected a fraction between 0 and 1")
    names = list(range(len(bad))) if groups is None else list(groups)
    if len(names) != len(bad):
        raise ValueError(f"{len(names)} groups for {len(bad)} rows")
    members: dict[Hashable, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    strata: dict[tuple[int, int], list[list[int]]] = {}
    for rows in members.values():
        n_bad = int(bad[rows].sum())
        strata.setdefault((n_bad, len(rows) - n_bad), []).append(rows)
    generator = np.random.default_rng(seed)
    queue = [strata[key][i] for key in sorted(strata) for i in generator.permutation(len(strata[key]))]
    train: list[int] = []
    valid: list[int] = []
    drawn = float(generator.random())
    for rows in queue:
        drawn += validation
        (valid if drawn >= 1 else train).extend(rows)
        drawn %= 1
    for part in (train, valid):
        require_both(bad[part])
    return Rows(np.array(sorted(train)), np.array(sorted(valid)))


def train_head(
    Z: FloatArray,
    bad: BoolArray,
    Z_valid: FloatArray,
    bad_valid: BoolArray,
    recipe: HeadRecipe,
    seed: int = 0,
) -> TrainedHead:
    """Train one head on rows Z (n, n_in) with labels bad (n,); the best epoch on the validation rows is kept.

    Z are projected states, or raw ones for a layer without a subspace. InputError when a class is missing or
    a value is not finite.
    """
    bad, bad_valid = np.asarray(bad, dtype=bool), np.asarray(bad_valid, dtype=bool)
    for rows, labels in ((Z, bad), (Z_valid, bad_valid)):
        require_both(labels)
        if rows.ndim != 2 or rows.shape != (len(labels), Z.shape[1]):
            raise ValueError(
                f"rows of shape {rows.shape} with {len(labels)} labels, expected (n, {Z.shape[1]})"
            )
        if not np.isfinite(rows).all():
            raise InputError("the states have NaN or infinite values; collect them again")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(_tensor(Z), bad, _tensor(Z_valid), bad_valid, recipe, np.random.default_rng(seed))


def _train(
    X: torch.Tensor,
    bad: BoolArray,
    X_valid: torch.Tensor,
    bad_valid: BoolArray,
    recipe: HeadRecipe,
    generator: np.random.Generator,
) -> TrainedHead:
    network = _network(X.shape[1], recipe)
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    best_score, best_epoch, best = (-math.inf, -math.inf), 0, _weights(network)
    epoch = 0
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        for good_rows, bad_rows in _batches(bad, recipe.batch, generator):
            energies = network(X[np.concatenate([good_rows, bad_rows])]).squeeze(1)
            loss = _loss(energies[: len(good_rows)], energies[len(good_rows) :], recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        with torch.no_grad():
            energies = network(X_valid).squeeze(1)
            valid_loss = _loss(energies[~bad_valid], energies[bad_valid], recipe).item()
        if not math.isfinite(valid_loss):
            break
        score = (auc(energies.numpy(), bad_valid), -valid_loss)  # among equal AUCs, the lower loss
        if score > best_score:
            best_score, best_epoch, best = score, epoch, _weights(network)
        elif epoch - best_epoch >= recipe.patience:
            break
    if best_epoch == 0:
        raise InputError("training diverged: the loss is not finite; lower the learning rate")
    return TrainedHead(best, best_score[0], best_epoch, epoch)


def _loss(good: torch.Tensor, bad: torch.Tensor, recipe: HeadRecipe) -> torch.Tensor:
    """Low when every good energy lies under every bad one; unchanged by a constant added to all energies."""
    if recipe.loss == "logistic":
        return nn.functional.softplus(good[:, None] - bad[None, :]).mean()
    # for each good state: -log( e^(-E_g/tau) / (e^(-E_g/tau) + sum over bad of e^(-E_b/tau)) )
    negatives = torch.logsumexp(-bad / recipe.tau, dim=0)
    own = -good / recipe.tau
    return (torch.logaddexp(own, negatives) - own).mean()


def _batches(
    bad: BoolArray, batch: int, generator: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(good rows, bad rows) of each step of an epoch; every step has both, in the proportion of the whole."""
    good_rows = generator.permutation(np.flatnonzero(~bad))
    bad_rows = generator.permutation(np.flatnonzero(bad))
    n_steps = max(1, min(round(len(bad) / batch), len(good_rows), len(bad_rows)))
    yield from zip(np.array_split(good_rows, n_steps), np.array_split(bad_rows, n_steps), strict=True)


def _network(n_in: int, recipe: HeadRecipe) -> nn.Sequential:
    modules: list[nn.Module] = []
    for width in recipe.hidden:
        modules.append(nn.Linear(n_in, width))
        if recipe.layer_norm:
            modules.append(nn.LayerNorm(width, eps=LAYER_NORM_EPS))
        modules.append(nn.SiLU())
        if recipe.dropout > 0:
            modules.append(nn.Dropout(recipe.dropout))
        n_in = width
    last = nn.Linear(n_in, 1)
    if not recipe.hidden:
        nn.init.zeros_(last.weight)  # a linear head then starts along the difference of the class means
    modules.append(last)
    return nn.Sequential(*modules)


def _weights(network: nn.Sequential) -> HeadWeights:
    """A copy of the network's parameters as a head."""
    linear = [module for module in network if isinstance(module, nn.Linear)]
    norms = [module for module in network if isinstance(module, nn.LayerNorm)]
    hidden = [
        HiddenLayer(
            _array(linear[i].weight),
            _array(linear[i].bias),
            _array(norms[i].weight) if norms else None,
            _array(norms[i].bias) if norms else None,
        )
        for i in range(len(linear) - 1)
    ]
    return HeadWeights(tuple(hidden), _array(linear[-1].weight)[0], float(linear[-1].bias.item()))


def _array(parameter: torch.Tensor) -> npt.NDArray[np.float32]:
    return parameter.detach().numpy()


def _tensor(rows: FloatArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
