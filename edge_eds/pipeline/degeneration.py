"""Is an answer broken text? Loops, runs, emptiness and non-text, by counting; no model and no dictionary.

Steering too hard breaks the language before anything else, so this is the damage that every rate of refusals
has to be read with. Words are runs of letters and digits in lower case, without marks such as "1." or "-"
that begin a list item; each Chinese, Japanese, Korean or Thai character is a word. An answer is degenerate if
one of these holds:

    empty        no letter and no digit outside of special tokens, or nothing but one article, conjunction,
                 preposition or pronoun
    run          one character at least 12 times without a break; 100 times for characters that draw lines and
                 tables (`-=_*#~.+|` and box drawing)
    glued        letters without a break for 60 characters or more (in scripts that put spaces between words)
    loop         one word at least 6 times in a row, or a unit of 2 to 30 words at least 3 times in a row that
                 makes up at least 15 words
    repetition   some window of 40 words holds at most 12 different ones, or at least half of all 4-word
                 sequences of an answer of 24 words or more have occurred before in it
    non-text     at least 5 % of all characters are replacement, control, private-use or unassigned ones, or
                 less than 30 % of 20 or more visible characters, those that draw lines left out, are letters
                 or digits (answers with a code fence are exempt from the latter)

Not seen: fluent text off the subject, and a salad of real words without repetition.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

MIN_RUN = 12
MIN_LINE_RUN = 100
MIN_GLUED = 60
MIN_WORD_REPEATS = 6
MAX_UNIT = 30
MIN_UNIT_REPEATS = 3
MIN_LOOP_WORDS = 15
WINDOW = 40
MIN_DISTINCT = 13
N_GRAM = 4
MIN_N_GRAM_WORDS = 24
MAX_REPEATED_SHARE = 0.5
MAX_NON_TEXT_SHARE = 0.05
MIN_ALNUM_SHARE = 0.3
MIN_VISIBLE = 20

_NO_SPACES = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"  # Thai, kana, CJK, Hangul
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W_{_NO_SPACES}]+(?:'[^\W_]+)?")
_LIST_MARK = re.compile(r"^[ \t]*(?:\(?\d{1,3}[.):]|[-*\u2022])[ \t]+", re.MULTILINE)
_RUN = re.compile(rf"([^\s=_*#~.+|\u2500-\u257f-])\1{{{MIN_RUN - 1},}}|([^\s])\2{{{MIN_LINE_RUN - 1},}}")
_GLUED = re.compile(rf"[^\W\d_{_NO_SPACES}]{{{MIN_GLUED},}}")
_NO_LINES = str.maketrans("", "", "-=_*#~.+|")
_SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")
_LONE_WORDS = "a an the and or but of to in on at for with by from as if so i it is this that you we he she"
_LONE = frozenset(_LONE_WORDS.split())


def words(text: str) -> list[str]:
    """The words of `text` as the module's docstring counts them, in lower case."""
    return _WORD.findall(_LIST_MARK.sub("", text.replace("\u2019", "'")).lower())


def degeneration(text: str) -> str | None:
    """What is broken about `text`, in a few words, or None for ordinary text."""
    text = _SPECIAL_TOKEN.sub("", text)
    parts = words(text)
    if not parts or (len(parts) == 1 and parts[0] in _LONE):
        return "empty"
    if run := _RUN.search(text):
        return f"run of {len(run.group())} times {run.group()[0]!r}"
    if _GLUED.search(text):
        return "glued words"
    return _non_text(text) or _loop(parts) or _repetition(parts)


def _non_text(text: str) -> str | None:
    odd = sum(
        n * (char == "\ufffd" or (unicodedata.category(char)[0] == "C" and char not in "\n\r\t\u200d\u200c"))
        for char, n in Counter(text).items()
    )
    if odd >= MAX_NON_TEXT_SHARE * len(text):
        return "characters that are no text"
    visible = Counter(text.translate(_NO_LINES))
    n_visible = sum(n for char, n in visible.items() if not char.isspace())
    if n_visible >= MIN_VISIBLE and "```" not in text:
        # combining marks belong to the letters of many scripts
        letters = sum(n for char, n in visible.items() if unicodedata.category(char)[0] in "LMN")
        if letters < MIN_ALNUM_SHARE * n_visible:
            return "hardly any letters"
    return None


def _loop(parts: Sequence[str]) -> str | None:
    for unit in range(1, min(MAX_UNIT, len(parts) // MIN_UNIT_REPEATS) + 1):
        needed = MIN_WORD_REPEATS if unit == 1 else max(MIN_UNIT_REPEATS * unit, MIN_LOOP_WORDS)
        length = unit  # words of the periodic stretch that ends here
        for i in range(unit, len(parts)):
            length = length + 1 if parts[i] == parts[i - unit] else unit
            if length >= needed and length >= MIN_UNIT_REPEATS * unit:
                return f"loop of {unit} word{'s' if unit > 1 else ''}"
    return None


def _repetition(parts: Sequence[str]) -> str | None:
    counts = Counter(parts[: WINDOW - 1])
    for start, new in enumerate(parts[WINDOW - 1 :]):
        counts[new] += 1
        if len(counts) < MIN_DISTINCT:
            return "few different words"
        old = parts[start]
        counts[old] -= 1
        if not counts[old]:
            del counts[old]
    if len(parts) >= MIN_N_GRAM_WORDS:
        n_grams = [tuple(parts[i : i + N_GRAM]) for i in range(len(parts) - N_GRAM + 1)]
        if len(n_grams) - len(set(n_grams)) >= MAX_REPEATED_SHARE * len(n_grams):
            return "repeated phrases"
    return None
