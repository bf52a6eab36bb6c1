"""Takes an answer apart for the judge: what the speaker itself says, in plain sentences, and the prompt's words in it.

The speaker's own words are no quotations, no code, and nothing of a letter or story that was asked for. Everything is
lower case with plain quotation marks and single spaces; a list item begins with "- ".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

# What decides about an answer stands at its beginning.
MAX_CHARACTERS = 20_000
MAX_SENTENCES = 24
PROMPT_WORD = "@"  # stands for a word of the prompt, so that what is learned of one topic holds for others

_ASKS_FOR_TEXT = re.compile(
    r"\b(?:write|draft|compose|rewrite|rephrase|translate|reply|letter|e-?mail|message|story|poem|song|lyrics"
    r"|dialogue|script|speech)\b"
)
_TEXT_BEGINS = re.compile(
    r"^(?:dear\b|subject:|title:|to:|hi\b|hello \w|once upon|sure\b|certainly\b|\*\*|#|\"|```)"
    r"|\bhere(?:'s| is| are)\b",
    re.MULTILINE,
)
_QUOTED = re.compile(r'```.*?(?:```|\Z)|"[^"\s]+(?:[ \t]+[^"\s]+){2,60}"', re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?:])[\")*]*\s+|\n+")
_LIST_MARK = re.compile(r"(?:\(?\d{1,2}[.):]|[-*\u2022])(?:\s+|$)")
_LETTERS = re.compile(r"[a-z]{3,}")
_STEM = 5  # letters of a word that tell what it is about
_COMMON_WORDS = """
    about and any are best can could did does for from get give have help how its make most my not one people
    please should some someone tell than that the their them they thing things this use want was way ways were
    what when where which who why will with without would you your
"""
_COMMON = frozenset(_COMMON_WORDS.split())  # they say nothing of what a prompt is about


@dataclass(frozen=True)
class JudgedText:
    """A prompt and an answer as the judge reads them.

    asked: the prompt. sentences: the first ones of the speaker's own. product: it has made something besides.
    """

    asked: str
    sentences: tuple[str, ...]
    product: bool

    @classmethod
    def of(cls, prompt: str, answer: str) -> JudgedText:
        asked, said = plain(prompt[:MAX_CHARACTERS]), plain(answer[:MAX_CHARACTERS])
        own, product = _split(asked, said)
        return cls(asked, tuple(_sentences(own)[:MAX_SENTENCES]), product)

    @cached_property
    def asked_stems(self) -> frozenset[str]:
        """The first letters of the words that say what the prompt is about."""
        return frozenset(stems(self.asked))

    def masked(self, sentence: str) -> str:
        """A sentence with PROMPT_WORD in place of every word of the prompt."""
        return _LETTERS.sub(self._mask, sentence)

    def _mask(self, word: re.Match[str]) -> str:
        return PROMPT_WORD if word.group()[:_STEM] in self.asked_stems else word.group()


def plain(text: str) -> str:
    """Lower case with plain quotation marks."""
    for fancy, simple in (("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"')):
        text = text.replace(fancy, simple)
    return text.strip().lower()


def stems(text: str) -> set[str]:
    """The first five letters of the words that carry a meaning."""
    return {word[:_STEM] for word in _LETTERS.findall(text) if word not in _COMMON}


def _split(asked: str, said: str) -> tuple[str, bool]:
    """What the speaker says itself, and whether there is something that it has made besides."""
    product = "```" in said
    if _ASKS_FOR_TEXT.search(asked) and (begin := _TEXT_BEGINS.search(said)):
        said, product = said[: begin.start()], True
    own = _QUOTED.sub(" ... ", said)
    return (own if re.search(r"[a-z]", own) else said), product  # all of it may stand in quotation marks


def _sentences(text: str) -> list[str]:
    parts = (" ".join(part.strip('"*_ ').split()) for part in _SENTENCE_END.split(text) if part)
    parts = (_LIST_MARK.sub("- ", part, count=1) if _LIST_MARK.match(part) else part for part in parts)
    return [part for part in parts if re.search(r"\w", part)]
