"""A made-up collection of a tiny model, for the tests of the methods: states that carry intent and refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from runtime_examples import N_EMBD, N_LAYER

from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.pipeline.collect import Collection, Example

N_PAIRS = 60
INTENT, REFUSAL = 0, 1  # the coordinates that carry them


def make_collection(path: Path, *, n_pairs: int = N_PAIRS, seed: int = 0) -> Collection:
    """Pairs and ordinary prompts; half of the benign ones refused, four of five harmful ones, no ordinary one."""
    rng = np.random.default_rng(seed)
    examples, states = [], []
    for i in range(n_pairs):
        split = "train" if i % 3 else "validation"
        for intent in ("benign", "harmful", "ordinary"):
            refused = rng.random() < {"benign": 0.5, "harmful": 0.8, "ordinary": 0.0}[intent]
            h = 0.3 * rng.normal(size=(N_LAYER - 1, N_EMBD)) + 1
            h[:, INTENT] += 1.5 if intent == "harmful" else -1.5
            h[:, REFUSAL] += 1.5 if refused else -1.5
            label = "refusal" if refused else "answer"
            examples.append(
                Example(f"{i}-{intent}", str(i), "c", split, intent, f"{intent} question {i}", "", label, 1)
            )
            states.append(h)
    return Collection(
        ModelFingerprint.from_gguf(path),
        "hash",
        tuple(range(N_LAYER - 1)),
        tuple(examples),
        np.asarray(states, dtype=np.float16),
        np.asarray(states, dtype=np.float16),
    )
