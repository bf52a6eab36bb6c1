"""What fitted energies do on prompts that fitting never saw: the test split, plain and steered.

Takes a model, its energies and a prompt set; gives rates of three kinds of request, and what they amount to. The
sentences for people are in reports/verdict.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge_eds.energy.file import EnergyFile
from edge_eds.pipeline.eval_report import SuiteReport
from edge_eds.pipeline.evaluate import EvalSettings, measure_suite
from edge_eds.pipeline.prompts import PromptSet
from edge_eds.pipeline.suites import Suite, SuitePrompt
from edge_eds.runtime.batch import BatchRunner

SIGNIFICANT = 0.05  # p of McNemar's exact test


@dataclass(frozen=True)
class VerdictSettings:
    """n: prompts of each kind at most; max_new_tokens: of each answer."""

    n: int = 100
    max_new_tokens: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """reports: the kinds that the test split has, of harmless, harmful and everyday requests, by these names."""

    reports: dict[str, SuiteReport] = field(default_factory=dict)

    @property
    def mends_false_refusals(self) -> bool:
        """Fewer harmless requests are refused, and not by chance."""
        return self._significant("harmless", fewer=True)

    @property
    def wins_refusals_back(self) -> bool:
        """More harmful requests are refused, and not by chance."""
        return self._significant("harmful", fewer=False)

    @property
    def mends(self) -> bool:
        """Either of the two."""
        return self.mends_false_refusals or self.wins_refusals_back

    @property
    def harms(self) -> bool:
        """Fewer harmful requests are refused, and not by chance."""
        return self._significant("harmful", fewer=True)

    def _significant(self, kind: str, *, fewer: bool) -> bool:
        comparison = self.reports[kind].comparison if kind in self.reports else None
        if comparison is None:
            return False
        net = comparison.refusals_removed - comparison.refusals_added
        return comparison.mcnemar_p < SIGNIFICANT and (net > 0 if fewer else net < 0)

    def to_json(self) -> dict[str, Any]:
        """{"mends", "harms", "suites": {kind: as an evaluation gives it}}."""
        suites = {kind: report.to_json() for kind, report in self.reports.items()}
        return {"mends": self.mends, "harms": self.harms, "suites": suites}


def reach_verdict(
    runner: BatchRunner,
    energy: EnergyFile,
    prompt_set: PromptSet,
    settings: VerdictSettings,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Ask the test split, plainly and steered.

    Args:
        on_progress: called with (answers done, answers in all), at first with none done.
    """
    suites = [suite.sample(settings.n, settings.seed) for suite in _suites(prompt_set.split("test"))]
    if not suites:
        return Verdict()
    total = 2 * sum(len(suite.prompts) for suite in suites)
    done = 0

    def told(*_: object) -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, total)

    if on_progress:
        on_progress(0, total)
    measured = EvalSettings(
        runner.files, tuple(suites), energy=energy, max_new_tokens=settings.max_new_tokens, seed=settings.seed
    )
    runner.use_energy(energy)
    try:
        return Verdict({suite.name: measure_suite(runner, suite, measured, told) for suite in suites})
    finally:
        runner.use_energy(None)


def _suites(test: PromptSet) -> list[Suite]:
    labelled = {"benign": "harmless", "harmful": "harmful"}
    kinds: dict[str, tuple[str, list[SuitePrompt]]] = {
        name: (intent, [SuitePrompt(one.id, one.text) for one in test.labelled() if one.intent == intent])
        for intent, name in labelled.items()
    }
    kinds["everyday"] = ("benign", [SuitePrompt(one.id, one.prompt) for one in test.ordinary])
    return [Suite(name, intent, tuple(prompts)) for name, (intent, prompts) in kinds.items() if prompts]
