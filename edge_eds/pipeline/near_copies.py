"""Finds prompts that are copies of a benchmark's prompts, so that none of these is trained on.

A copy has the same words in the same order once case, punctuation and contractions are set aside. A near copy
asks the same thing in slightly other words; `similarity` says how that is measured. A prompt counts as a copy
if the whole of it or one of its sentences does, so that a copied request is also found inside a framing. What is
not found: the same request in quite other words (a paraphrase without shared key words), and other languages.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

DEFAULT_THRESHOLD = 0.65
MIN_CONTAINED_WORDS = 3
_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.!?:;\n\"\u201c\u201d]+")
_CONTRACTIONS = (
    ("won't", "will not"), ("can't", "can not"), ("cannot", "can not"), ("n't", " not"), ("'re", " are"),
    ("'ve", " have"), ("'ll", " will"), ("'m", " am"), ("'d", " would"), ("'s", " "),
)  # fmt: skip
_COMMON_WORDS = """
    a about all am an and any are as at be been being best but by can could did do does doing easiest
    effective explain fast for from get getting give go good guide had has have help how i if in into is it
    its let like make me most my need no not of on one or our out people person please quickest should show
    so some someone something step steps tell that the their them then there these they thing this those to
    up us use want was way ways we were what when where which who whom whose why will with without would you
    your
"""
_COMMON = frozenset(_COMMON_WORDS.split())  # asking, helping and joining words, which carry no topic


class Words(NamedTuple):
    """What is compared. all: words in order; stems: of the content words; pairs: neighbours among these."""

    all: tuple[str, ...]
    stems: frozenset[str]
    pairs: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class NearCopy:
    """prompt and benchmark are indices into the two lists; exact: the same words in the same order."""

    prompt: int
    benchmark: int
    similarity: float
    exact: bool


def reduce(text: str) -> Words:
    """What of a prompt is compared."""
    plain = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).lower()
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    for short, long in _CONTRACTIONS:
        plain = plain.replace(short, long)
    words = tuple(_WORD.findall(plain))
    stems = [_stem(word) for word in words if word not in _COMMON]
    return Words(words, frozenset(stems), frozenset(pairwise(stems)))


def similarity(a: Words, b: Words) -> float:
    """0 (nothing shared) to 1.

    The larger of: the Jaccard index of the content words' stems together with pairs of neighbouring stems;
    and the containment of the shorter prompt's stems in the longer's, scaled by the square root of the ratio
    of their numbers, for prompts of at least three content words.
    """
    if a.all == b.all:
        return 1.0
    shared = len(a.stems & b.stems)
    if not shared:
        return 0.0
    both = shared + len(a.pairs & b.pairs)
    jaccard = both / (len(a.stems | b.stems) + len(a.pairs | b.pairs))
    small, large = sorted((len(a.stems), len(b.stems)))
    contained = shared / small * (small / large) ** 0.5 if small >= MIN_CONTAINED_WORDS else 0.0
    return max(jaccard, contained)


def near_copies(
    prompts: Sequence[str], benchmark: Sequence[str], threshold: float = DEFAULT_THRESHOLD
) -> list[NearCopy]:
    """All pairs at or above the threshold, by prompt and then by falling similarity."""
    theirs = [reduce(text) for text in benchmark]
    holders: dict[str, list[int]] = defaultdict(list)
    for i, words in enumerate(theirs):
        for key in words.stems or set(words.all):
            holders[key].append(i)
    found = []
    for i, text in enumerate(prompts):
        best: dict[int, NearCopy] = {}
        for ours in _whole_and_sentences(text):
            for j in {j for key in ours.stems or set(ours.all) for j in holders[key]}:
                score = similarity(ours, theirs[j])
                if score >= threshold and (j not in best or score > best[j].similarity):
                    best[j] = NearCopy(i, j, score, ours.all == theirs[j].all)
        found += sorted(best.values(), key=lambda match: (-match.similarity, match.benchmark))
    return found


def _whole_and_sentences(text: str) -> list[Words]:
    """The prompt, and those of its sentences that say enough to be a request of their own."""
    whole = reduce(text)
    sentences = [reduce(piece) for piece in _SENTENCE_END.split(text)]
    return [whole, *(one for one in sentences if len(one.stems) >= MIN_CONTAINED_WORDS and one != whole)]


def _stem(word: str) -> str:
    """The word without a common English ending; crude, and the same for both sides."""
    for ending in ("ings", "ing", "edly", "ies", "ers", "er", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return (
        word[:-1] if len(word) > 3 and word[-1] == word[-2] else word.rstrip("e") if len(word) > 4 else word
    )
