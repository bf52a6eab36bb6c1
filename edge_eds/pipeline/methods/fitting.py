"""A method, fitted: prepared, searched, and its chosen steerer saved; what a preset runs.

Takes a name, what the method may use, the bed of validation prompts and a folder; leaves in the folder

    made_from.json    what the method was made from besides the collection
    trials.jsonl      the search, a line a trial
    search.json       its end: curve and choice
    chosen.*          the chosen steerer (steerer.py), where one was chosen
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_eds.files import write_whole
from edge_eds.pipeline.methods import load_method
from edge_eds.pipeline.methods.answering import RunnerFor
from edge_eds.pipeline.methods.method import Context, Family, Method
from edge_eds.pipeline.methods.records import append, claim, digest_of, made, read_lines
from edge_eds.pipeline.methods.search import Bed, SearchResult, Trial, search, trial_from_json

Progress = Callable[[str, int, int], None]  # "METHOD, stage: what comes next", done, in all


@dataclass(frozen=True)
class FittedMethod:
    """file: the chosen steerer, or None where nothing mends anything within what may be lost."""

    method: Method
    family: Family
    search: SearchResult
    file: Path | None


def fit_method(
    name: str, context: Context, bed: Bed, runner_for: RunnerFor, folder: Path, tell: Progress
) -> FittedMethod:
    """Fit one method; a run that was stopped goes on with the first trial that is missing.

    Raises:
        InputError: no such method; what it needs is missing; the folder was made from something else.
    """
    method = load_method(name)
    family = method.prepare(context)
    claim(made(folder) / "made_from.json", {part: digest_of(getattr(context, part)) for part in method.made_from})
    path = folder / "trials.jsonl"
    known = [trial_from_json(line) for line in read_lines(path)]

    def keep(trial: Trial, done: int, total: int) -> None:
        append(path, asdict(trial))
        tell(f"{name}, searched: {trial.key}", done, total)

    tell(f"{name}, searched", min(len(known), bed.settings.trials), bed.settings.trials)
    result = search(family, bed, runner_for, known, keep)
    write_whole(folder / "search.json", (json.dumps(result.to_json(), indent=1) + "\n").encode())
    file = None
    if result.chosen is not None:
        chosen = result.curve[result.chosen]
        file = family.steerer(chosen.shape, chosen.strength).save(folder / "chosen")
    return FittedMethod(method, family, result, file)
