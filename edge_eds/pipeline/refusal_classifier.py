"""The trained part of the judge: a linear classifier. Its weights are package data (edge_eds/judge/refusal_judge.json).

Takes the features of refusal_features.py; gives the probabilities of answer, refusal and partial, and what spoke most
for a refusal. models/train_judge.py makes the file. It holds a name and two weights for every feature, against the
label answer, whose weights are 0: words and pairs of words that occur in many answers, and no text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FORMAT = 1
CLASSES = ("answer", "refusal", "partial")  # the first one is the reference, with weights 0


@dataclass(frozen=True)
class RefusalClassifier:
    """weights: {feature: its logits for refusal and partial}. made: what it was trained on, for the record."""

    weights: Mapping[str, tuple[float, float]]
    bias: tuple[float, float]
    made: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> RefusalClassifier:
        """Read the file that models/train_judge.py writes."""
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"{path}: is of format {data['format']}, expected {FORMAT}")
        weights = {name: (refusal, partial) for name, (refusal, partial) in data["weights"].items()}
        refusal, partial = data["bias"]
        return cls(weights, (refusal, partial), data["made"])

    def to_json(self) -> dict[str, Any]:
        """What load reads."""
        return {"format": FORMAT, "made": self.made, "bias": self.bias, "weights": self.weights}

    def probabilities(self, features: Mapping[str, float]) -> dict[str, float]:
        """{label: probability} for CLASSES."""
        logits = [0.0, *self.bias]
        for name, value in features.items():
            if (weights := self.weights.get(name)) is not None:
                logits[1] += value * weights[0]
                logits[2] += value * weights[1]
        highest = max(logits)
        powers = [math.exp(logit - highest) for logit in logits]
        return {label: power / sum(powers) for label, power in zip(CLASSES, powers, strict=True)}

    def strongest(self, features: Mapping[str, float], n: int) -> list[str]:
        """The names of the n features that speak most for a refusal, whole or partial, against an answer."""
        votes = {name: value * max(self.weights[name]) for name, value in features.items() if name in self.weights}
        return [name for name in sorted(votes, key=lambda name: (-votes[name], name))[:n] if votes[name] > 0]


def builtin_path() -> Path:
    """Where the fitted judge lies in the package."""
    return Path(__file__).resolve().parents[1] / "judge" / "refusal_judge.json"


@lru_cache(maxsize=1)
def builtin_classifier() -> RefusalClassifier:
    """The judge that the package ships, read once."""
    return RefusalClassifier.load(builtin_path())
