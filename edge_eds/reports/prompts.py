"""Prompt files as text for people: how many there are of what, and which ones copy a benchmark's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from edge_eds.pipeline.prompt_inventory import Count, FoundCopy
from edge_eds.pipeline.prompts import SPLITS

_NO_CATEGORY = "(no category)"
_CELL = 12


def table(counts: Sequence[Count]) -> str:
    """A block a file, a line a category and intent; intents that are equally many share a line."""
    files: dict[str, list[Count]] = defaultdict(list)
    for count in counts:
        files[count.file].append(count)
    return "\n\n".join("\n".join(_block(file, of_file)) for file, of_file in files.items())


def copies(found: Sequence[FoundCopy]) -> str:
    """Three lines a copy: where, the prompt, and what it copies."""
    return "\n".join(
        f"{copy.prompt.file}: {copy.prompt.id} ({'same words' if copy.exact else f'{copy.similarity:.2f}'})\n"
        f"  here       {copy.text}\n  benchmark  {copy.benchmark_text}"
        for copy in found
    )


def _block(file: str, counts: Sequence[Count]) -> Iterator[str]:
    yield f"{file}: {sum(count.n for count in counts)} prompts"
    lines = list(_lines(counts))
    names = max(len(category) for category, _, _ in lines)
    intents = max(len(intent) for _, intent, _ in lines)
    yield f"  {'':{names}}  {'':{intents}}" + "".join(f"{split:>{_CELL}}" for split in SPLITS)
    for category, intent, numbers in lines:
        yield f"  {category:{names}}  {intent:{intents}}" + "".join(f"{n:{_CELL}}" for n in numbers)


def _lines(counts: Sequence[Count]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Category, intents and the numbers by split; the last line is the sum."""
    for category in dict.fromkeys(count.category for count in counts):
        for intents, numbers in _by_intent([count for count in counts if count.category == category]):
            yield category or _NO_CATEGORY, intents, numbers
    for intents, numbers in _by_intent(counts):
        yield "all", intents, numbers


def _by_intent(counts: Sequence[Count]) -> Iterator[tuple[str, tuple[int, ...]]]:
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for intent in dict.fromkeys(count.intent for count in counts):
        of_intent = [one for one in counts if one.intent == intent]
        alike[tuple(sum(one.n for one in of_intent if one.split == split) for split in SPLITS)].append(intent)
    for numbers, intents in alike.items():
        yield " and ".join(intents), numbers
