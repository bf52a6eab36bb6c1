"""The outlook of an answer: whether the plain model is about to refuse, by the logits of its first new token.

Takes the tokens that a model's refusals begin with; says what the logits at the prompt's end hold out. Leaves out who
acts on it: steering does nothing where a request is judged benign and no refusal is in sight.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_eds.energy.checks import integer, number
from edge_eds.errors import SettingsError

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class OutlookSpec:
    """tokens: ids that refusals begin with, ascending. bound: the lead from which on a refusal is in sight: with 0,
    where the likeliest token begins one.
    """

    tokens: tuple[int, ...]
    bound: float = 0.0

    def __post_init__(self) -> None:
        tokens = self.tokens
        if isinstance(tokens, str) or not isinstance(tokens, Collection) or not tokens:
            raise SettingsError(f"outlook tokens are {tokens!r}, expected a list of token ids")
        ids = {integer("an outlook token", token, 0) for token in tokens}
        object.__setattr__(self, "tokens", tuple(sorted(ids)))
        object.__setattr__(self, "bound", number("the outlook's bound", self.bound))

    def refuses(self, logits: FloatArray) -> bool:
        """Whether a refusal is in sight, logits (n_vocab,) of the first new token."""
        return self.lead(logits) >= self.bound

    def lead(self, logits: FloatArray) -> float:
        """log p(the likeliest token that begins a refusal) - log p(the likeliest other one), logits (n_vocab,)."""
        others = logits.copy()
        others[list(self.tokens)] = -np.inf
        return float(logits[list(self.tokens)].max() - others.max())

    def log_odds(self, logits: FloatArray) -> float:
        """log p(refusal) - log p(anything else) for the next token, logits (n_vocab,)."""
        values = logits.astype(np.float64)
        mask = np.zeros(len(values), dtype=bool)
        mask[list(self.tokens)] = True
        return float(np.logaddexp.reduce(values[mask]) - np.logaddexp.reduce(values[~mask]))
