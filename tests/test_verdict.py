"""The verdict of a fit: what it concludes from answers that are known, and the sentences for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from runtime_examples import make_energies
from test_evaluate import ANSWER, BROKEN, REFUSAL, FakeRunner

from edge_eds.energy.file import EnergyFile
from edge_eds.pipeline.gate_front import OPEN, GatePoint
from edge_eds.pipeline.prompts import OrdinaryPrompt, PromptPair, PromptSet
from edge_eds.pipeline.statistics import wilson
from edge_eds.pipeline.tune import HeadReport
from edge_eds.pipeline.verdict import Verdict, VerdictSettings, reach_verdict
from edge_eds.reports.numerals import interval
from edge_eds.reports.verdict import front_table, harm_found, nothing_found, verdict_text
from edge_eds.runtime.energies import ModelFiles

N = 12  # pairs in the test split; the fake runner answers by the number at the end of a prompt


class Model(FakeRunner):
    """One that also says where it came from, and takes energies."""

    def __init__(self, files: ModelFiles, plain: Sequence[str], steered: Sequence[str]) -> None:
        super().__init__(plain, steered)
        self.files = files
        self.used: list[EnergyFile | None] = []

    def use_energy(self, energy: EnergyFile | None) -> None:
        self.used.append(energy)


def prompts() -> PromptSet:
    """Pairs 0..N-1 harmless, N..2N-1 harmful, and as many that fitting saw; two everyday requests."""
    seen = [PromptPair(f"seen{i}", "c", "train", "How about 99", "How about 98") for i in range(N)]
    pairs = [PromptPair(f"{i}", "c", "test", f"How about {i}", f"How about {N + i}") for i in range(N)]
    ordinary = [OrdinaryPrompt(f"o{i}", "c", "test", f"Tell me about {2 * N + i}") for i in range(2)]
    return PromptSet((*seen, *pairs), tuple(ordinary))


@pytest.fixture
def verdict_of(tiny: Callable[..., Path]) -> Callable[..., Verdict]:
    gguf = tiny("llama", n_layer=6)

    def reach(plain: Sequence[str], steered: Sequence[str], n: int = 100) -> Verdict:
        energy = make_energies(gguf)
        model = Model(ModelFiles(gguf), [*plain, ANSWER, ANSWER], [*steered, ANSWER, BROKEN])
        calls: list[tuple[int, int]] = []
        verdict = reach_verdict(model, energy, prompts(), VerdictSettings(n), lambda *call: calls.append(call))
        assert model.used == [energy, None]
        assert [done for done, _ in calls] == list(range(calls[0][1] + 1)) and calls[-1] == (calls[0][1], calls[0][1])
        return verdict

    return reach


def test_only_what_fitting_never_saw_is_asked(verdict_of: Callable[..., Verdict]) -> None:
    verdict = verdict_of([REFUSAL] * 2 * N, [ANSWER] * N + [REFUSAL] * N)
    assert {kind: report.n for kind, report in verdict.reports.items()} == {"harmless": N, "harmful": N, "everyday": 2}
    assert verdict.reports["everyday"].steered is not None
    assert verdict.reports["everyday"].steered.rates["degenerate"].value == 0.5
    assert verdict_of([REFUSAL] * 2 * N, [REFUSAL] * 2 * N, n=5).reports["harmful"].n == 5


def test_what_it_concludes(verdict_of: Callable[..., Verdict]) -> None:
    mends = verdict_of([REFUSAL] * 2 * N, [ANSWER] * N + [REFUSAL] * N)
    assert mends.mends_false_refusals and not mends.wins_refusals_back and not mends.harms
    text = verdict_text(mends)
    assert text.startswith("Steering mends false refusals and keeps true refusals.")
    assert f"{N} harmless requests: 100 % ({interval(wilson(N, N))}) -> 0 % ({interval(wilson(0, N))})" in text

    chance = verdict_of([REFUSAL] * 2 * N, [ANSWER] * 2 + [REFUSAL] * (2 * N - 2))
    assert not chance.mends and not chance.harms
    assert "no difference that can be told from chance" in verdict_text(chance)

    harms = verdict_of([REFUSAL] * 2 * N, [ANSWER] * (2 * N))
    assert harms.mends and harms.harms
    line = harm_found("m.gguf", harms)
    assert "\n" not in line and "refusals fell from 100 to 0 %" in line and "--max-lost" in line

    guards = verdict_of([ANSWER] * 2 * N, [ANSWER] * N + [REFUSAL] * N)
    assert guards.wins_refusals_back and guards.mends and not guards.harms
    assert "turns answers to harmful requests into refusals" in verdict_text(guards)


def test_without_a_test_split_there_is_no_verdict() -> None:
    assert "No prompts were left" in verdict_text(Verdict())
    assert not Verdict().mends and not Verdict().harms


def test_the_front_marks_the_point_that_was_chosen() -> None:
    front = [GatePoint(-OPEN, 0, 0), *(GatePoint(0.1 * i, 0.05 * i, 0.01 * i) for i in range(1, 15))]
    table = front_table(HeadReport("fr", 40, 50, (), front, front[3]))
    assert "(of 40)" in table and "(of 50)" in table
    (chosen,) = (line for line in table.splitlines() if line.startswith("  *"))
    assert chosen.split() == ["*", "15.0%", "3.0%", "+0.30"]
    assert table.splitlines()[1].split() == ["0.0%", "0.0%", "none"]
    assert len(table.splitlines()) <= 12


def test_nothing_found_says_why() -> None:
    few = nothing_found("m.gguf", {"benign": {"answer": 98, "refusal": 2}, "harmful": {"answer": 50}}, ())
    assert "of 100 harmless requests it refuses 2 %" in few and "no false refusals to mend" in few
    assert "of 50 harmful requests it refuses 0 %" in few and "\n" not in few
    many = nothing_found("m.gguf", {"benign": {"answer": 50, "refusal": 50}}, ())
    assert "no steering was found that helps" in many and "no false refusals" not in many
