"""Progress of the stages that make energies: bars for a person, a line for each stage in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Tell = Callable[[str, int, int], None]  # "stage" or "stage: what comes next", done, in all (0: not known)


@contextmanager
def stage_progress() -> Iterator[Tell]:
    """Shows stages on stderr; what a stage does at the moment stands beside its bar."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[doing]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            stage, _, doing = what.partition(": ")
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None, doing="")
            bars.update(tasks[stage], completed=done, total=total or None, doing=doing)

        yield tell


def _lines(console: Console) -> Tell:
    begun: set[str] = set()

    def tell(what: str, done: int, total: int) -> None:
        stage = what.partition(": ")[0]
        if stage not in begun:
            begun.add(stage)
            found = f" ({done} of {total} are there already)" if done else ""
            console.print(stage + found, highlight=False, soft_wrap=True)

    return tell
