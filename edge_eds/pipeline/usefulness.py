"""Cheap proxies for how useful an answer is, since refusals gone and gibberish come is the known failure.

Takes prompts with judged answers, or log-probabilities of tokens; gives numbers:

    uptake      the share of the prompt's content words that come up in the answer, by their stems
                (near_copies.reduce); 1 for a prompt without content words
    usefulness  uptake of what is an answer or a partial one, 0 for refusals and broken text
    perplexity  exp of the mean negative log-probability that the plain model gives to the tokens of an answer
                from the fifth on: steering turns the first tokens on purpose, and what comes after them
                should be as likely as the model's own words

None of them sees whether an answer is true.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_eds.pipeline.near_copies import reduce

SKIPPED_TOKENS = 4  # at the beginning of an answer, of which perplexity takes no account
_USEFUL_LABELS = ("answer", "partial")


def uptake(prompt: str, answer: str) -> float:
    """0 (no content word of the prompt comes up in the answer) to 1 (all do)."""
    asked = reduce(prompt).stems
    return len(asked & reduce(answer).stems) / len(asked) if asked else 1.0


def usefulness(label: str, uptake_: float) -> float:
    """An answer's uptake if its label says that it is one, at least in part."""
    return uptake_ if label in _USEFUL_LABELS else 0.0


def perplexity(log_probs: Sequence[npt.NDArray[np.float32]]) -> float | None:
    """Of all answers together, each as its tokens' log-probabilities; None if all are too short."""
    tails = [tokens[SKIPPED_TOKENS:] for tokens in log_probs if len(tokens) > SKIPPED_TOKENS]
    return float(np.exp(-np.concatenate(tails).mean(dtype=np.float64))) if tails else None
