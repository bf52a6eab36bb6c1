"""Evaluation: numbers from a fake model whose answers are known, then the command on a small real one."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command_line import assert_one_line, edge_eds
from runtime_examples import make_energies

from edge_eds.energy.network import HEADS
from edge_eds.energy.settings import Steering
from edge_eds.errors import PromptTooLongError, SettingsError
from edge_eds.pipeline import evaluate as evaluate_module
from edge_eds.pipeline.eval_report import EvalReport
from edge_eds.pipeline.evaluate import EvalSettings, evaluate, measure_suite
from edge_eds.pipeline.statistics import mcnemar, paired_difference, wilson
from edge_eds.pipeline.suites import Suite, SuitePrompt
from edge_eds.pipeline.usefulness import perplexity, uptake
from edge_eds.reports.evaluation import table
from edge_eds.runtime.batch_run import Generation
from edge_eds.runtime.chat_prompt import Message
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.trace import Trace, taken_of

REFUSAL = "I'm sorry, but I can't assist with that."
PARTIAL = "I can't assist with that. However, here are some tips: 1. Rest."
ANSWER = "Open the window, and the wasp leaves by itself."
BROKEN = "open open open open open open open open"


class FakeRunner:
    """Answers by a table: the prompt's tokens are its number, and each variant has its answers.

    The plain model finds the tokens of a text less likely one by one: -1, -2, ...
    """

    def __init__(self, plain: Sequence[str], steered: Sequence[str]) -> None:
        self.answers = {"plain": plain, "steered": steered}
        self.calls: list[tuple[int, Steering | None, bool]] = []
        self.scored: list[int] = []

    def chat_tokens(self, prompt: str | Sequence[Message]) -> list[int]:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return [int(text.split()[-1])]

    def log_probs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[npt.NDArray[np.float32]]:
        self.scored += [number for (number,) in prompts]
        return [-np.arange(1, len(answer) + 1, dtype=np.float32) for answer in answers]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        steering: Steering | None = None,
        want_logits: bool = False,
        on_done: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        self.calls.append((len(prompts), steering, want_logits))
        variant = "plain" if steering is None else "steered"
        generations = []
        for i, (number,) in enumerate(prompts):
            text = self.answers[variant][number]
            logits = np.array([0.0, float(steering is not None and number == 0)], np.float32)
            generation = Generation(
                tokens=[hash(word) for word in text.split()],
                text=text,
                finish_reason="stop",
                n_prompt=1,
                first_logits=logits if want_logits else None,
                trace=self._trace(number) if steering is not None else Trace(),
                n_decoded=1,
                log_probs=None if steering else -np.arange(1, len(text.split()) + 1, dtype=np.float32),
            )
            generations.append(generation)
            if on_done is not None:
                on_done(i, generation)
        return generations

    def generate_both(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        steering: Steering,
        want_logits: bool = False,
        on_done: Callable[[str], None] | None = None,
    ) -> tuple[list[Generation], list[Generation]]:
        def told(variant: str) -> Callable[..., None]:
            return lambda *_: on_done(variant) if on_done else None

        plain = self.generate(prompts, max_new_tokens=max_new_tokens, want_logits=want_logits, on_done=told("plain"))
        steered = self.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            steering=steering,
            want_logits=want_logits,
            on_done=told("steered"),
        )
        return plain, steered

    @staticmethod
    def _trace(number: int) -> Trace:
        # two touched tokens for the first prompt, and nothing for the others
        touched = [(0, offset, 5, HEADS.index("fr"), 2.0, 1.0, 3, 0.1) for offset in (0, 1)]
        records = taken_of(touched if number == 0 else [])
        return Trace(
            records, gate=("benign", "harmful", "uncertain")[min(number, 2)], gate_score=0.5 * number
        )


def suite_of(n: int, name: str = "mine") -> Suite:
    return Suite(
        name, "benign", tuple(SuitePrompt(f"id{i}", f"How about {i}", "c") for i in range(n)), "file.csv"
    )


@pytest.fixture
def energy(tiny: Callable[..., Path]) -> EvalSettings:
    """Settings with an energy file, which is only looked at for its settings where the runner is a fake."""
    gguf = tiny("llama", n_layer=6)
    return EvalSettings(ModelFiles(gguf), (suite_of(1),), energy=make_energies(gguf))


def test_rates_and_the_paired_test_are_those_of_the_judged_answers(energy: EvalSettings) -> None:
    plain = [REFUSAL] * 6 + [ANSWER] * 3 + [BROKEN]
    steered = [ANSWER] * 4 + [PARTIAL, REFUSAL, ANSWER, ANSWER, REFUSAL, BROKEN]
    report = measure_suite(FakeRunner(plain, steered), suite_of(10), energy)
    assert (report.name, report.intent, report.n, report.source) == ("mine", "benign", 10, "file.csv")
    assert report.steered is not None and report.comparison is not None
    assert report.plain.rates["refusal"] == wilson(6, 10)
    assert report.plain.rates["answer"] == wilson(3, 10)
    assert report.plain.rates["degenerate"] == report.steered.rates["degenerate"] == wilson(1, 10)
    assert report.steered.rates["refusal"] == wilson(2, 10)
    assert report.steered.rates["partial"] == wilson(1, 10)
    comparison = report.comparison
    assert (comparison.refusals_removed, comparison.refusals_added) == (5, 1)
    before, after = ([text == REFUSAL for text in answers] for answers in (plain, steered))
    assert comparison.mcnemar_p == mcnemar(before, after)
    assert comparison.difference == paired_difference(before, after)
    assert comparison.gate == {"benign": 1, "harmful": 1, "uncertain": 8, "ungated": 0}
    assert comparison.touched_tokens == 0.2
    assert report.plain.mean_tokens == pytest.approx(np.mean([len(text.split()) for text in plain]))


def test_divergences_are_of_the_first_token_and_from_plain_to_steered(energy: EvalSettings) -> None:
    report = measure_suite(FakeRunner([ANSWER] * 100, [ANSWER] * 100), suite_of(100), energy)
    assert report.comparison is not None
    odds = np.exp(1) / (1 + np.exp(1))
    largest = 0.5 * np.log(0.5 / (1 - odds)) + 0.5 * np.log(0.5 / odds)
    only_one = {"p50": 0, "p90": 0, "p95": 0, "p99": 0.01 * largest, "max": largest}
    assert report.comparison.kl == pytest.approx({"mean": largest / 100, **only_one})
    assert report.comparison.mcnemar_p == 1.0


def test_divergences_where_the_plain_model_answered_leave_its_refusals_out(energy: EvalSettings) -> None:
    # the first prompt is the one whose distribution moves
    for first, n, largest in ((REFUSAL, 3, 0.0), (ANSWER, 4, 0.11)):
        report = measure_suite(FakeRunner([first] + [ANSWER] * 3, [ANSWER] * 4), suite_of(4), energy)
        assert report.comparison is not None and report.comparison.kl_answered is not None
        assert report.comparison.kl_answered["n"] == n
        assert report.comparison.kl_answered["max"] == pytest.approx(largest, abs=0.02)
    report = measure_suite(FakeRunner([REFUSAL, BROKEN], [ANSWER] * 2), suite_of(2), energy)
    assert report.comparison is not None and report.comparison.kl_answered is None
    json.dumps(report.to_json(), allow_nan=False)


def test_only_changed_answers_are_scored_against_the_plain_ones_in_their_place(energy: EvalSettings) -> None:
    runner = FakeRunner([REFUSAL, ANSWER, "Short one", ANSWER], [ANSWER, ANSWER, ANSWER, "Short one"])
    report = measure_suite(runner, suite_of(4), energy)
    assert report.comparison is not None
    assert runner.scored == [0, 2, 3]
    # what the fake gives to the 5th to 8th or 9th token
    assert (report.comparison.perplexity.plain, report.comparison.perplexity.steered) == pytest.approx(
        (np.exp(np.mean([5, 6, 7, 8, 5, 6, 7, 8, 9])), np.exp(np.mean([5, 6, 7, 8, 9] * 2)))
    )
    assert report.comparison.perplexity.n == 3
    same = measure_suite(FakeRunner([ANSWER], [ANSWER]), suite_of(1), energy)
    assert same.comparison is not None
    assert same.comparison.perplexity.to_json() == {"n": 0, "plain": None, "steered": None}


def test_lengths_are_compared_answer_by_answer_and_limits_are_counted(energy: EvalSettings) -> None:
    report = measure_suite(FakeRunner([ANSWER, "Short one"], ["Short one", "Short one"]), suite_of(2), energy)
    assert report.comparison is not None
    shift = {"mean": -3.5, "p5": -6.65, "p50": -3.5, "p95": -0.35}
    assert report.comparison.length_shift == pytest.approx(shift)
    assert report.plain.cut == wilson(0, 2)


def test_usefulness_is_what_answers_take_up_of_the_prompt(energy: EvalSettings) -> None:
    def suite(answers: Sequence[str]) -> float:
        return measure_suite(FakeRunner(answers, answers), wasps, energy).plain.usefulness

    wasps = Suite("wasps", "benign", tuple(SuitePrompt(str(i), f"Do wasps fear windows {i}") for i in range(2)))
    assert suite([REFUSAL, REFUSAL]) == 0
    assert 0 < suite([REFUSAL, ANSWER]) < suite([ANSWER, ANSWER]) < 1
    assert measure_suite(FakeRunner([REFUSAL] * 2, [REFUSAL] * 2), wasps, energy).plain.uptake is None


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("How do I sharpen pencils?", "Sharpening a pencil needs a blade.", 1.0),
        ("How do I sharpen pencils?", "A pencil is nice.", 0.5),
        ("How do I sharpen pencils?", "Bread is nice.", 0.0),
        ("How do I do this?", "Like that.", 1.0),
        ("How do I sharpen pencils?", "", 0.0),
    ],
)
def test_uptake_is_the_share_of_content_words(prompt: str, answer: str, expected: float) -> None:
    assert uptake(prompt, answer) == expected


def test_perplexity_skips_the_tokens_that_steering_turns() -> None:
    log_probs = np.log(np.array([1e-9] * 4 + [0.5, 0.125], np.float32))
    assert perplexity([log_probs, log_probs[:4]]) == pytest.approx(4)
    assert perplexity([log_probs[:4]]) is None


def test_refusals_by_category(energy: EvalSettings) -> None:
    prompts = [SuitePrompt(str(i), f"How about {i}", category) for i, category in enumerate(("b", "a", "", "b"))]
    runner = FakeRunner([REFUSAL, REFUSAL, ANSWER, ANSWER], [ANSWER, REFUSAL, ANSWER, ANSWER])
    report = measure_suite(runner, Suite("mine", "benign", tuple(prompts)), energy)
    assert [(c.name, c.n, c.plain, c.steered) for c in report.categories] == [
        ("(none)", 1, wilson(0, 1), wilson(0, 1)),
        ("a", 1, wilson(1, 1), wilson(1, 1)),
        ("b", 2, wilson(1, 2), wilson(0, 2)),
    ]
    bare = Suite("mine", "benign", tuple(SuitePrompt(str(i), f"How about {i}") for i in range(2)))
    assert measure_suite(runner, bare, energy).categories == ()


def test_energies_and_gate_scores_are_counted_in_bins(energy: EvalSettings) -> None:
    report = measure_suite(FakeRunner([ANSWER] * 4, [ANSWER] * 4), suite_of(4), energy)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert list(data["energies"]) == ["fr"]
    descents = data["energies"]["fr"]
    assert descents["rows"] == 2
    assert (descents["before"]["mean"], descents["after"]["mean"]) == (2.0, 1.0)
    assert descents["before"]["histogram"]["edges"] == descents["after"]["histogram"]["edges"]
    assert sum(descents["after"]["histogram"]["counts"]) == 2
    assert descents["shift"]["max"] == pytest.approx(0.1)
    assert sum(data["gate_scores"]["histogram"]["counts"]) == 4
    assert data["gate_scores"]["p50"] == 0.75


def test_conversations_are_asked_as_a_whole_and_judged_by_their_end(energy: EvalSettings) -> None:
    turns = (("user", "Hello"), ("assistant", "Hi"), ("user", "1"))
    talk = tuple({"role": role, "content": content} for role, content in turns)
    suite = Suite("talk", "benign", (SuitePrompt("a", "1", messages=talk),))
    report = measure_suite(FakeRunner([REFUSAL, ANSWER], [REFUSAL, ANSWER]), suite, energy)
    assert report.plain.rates["answer"] == wilson(1, 1)
    assert report.transcripts[0]["messages"] == list(talk)


def test_progress_counts_each_variant_over_the_whole_suite(energy: EvalSettings) -> None:
    runner = FakeRunner([ANSWER] * 100, [ANSWER] * 100)
    seen: list[tuple[str, str, int, int]] = []
    measure_suite(runner, suite_of(100), energy, lambda *args: seen.append(args))
    for variant in ("plain", "steered"):
        assert [done for _, which, done, _ in seen if which == variant] == list(range(1, 101))
    assert {total for *_, total in seen} == {100}
    # in pieces, since the logits of all prompts at once could fill the memory
    assert max(n for n, _, _ in runner.calls) < 100
    assert sum(n for n, steering, _ in runner.calls if steering is not None) == 100


def test_without_energies_only_the_plain_model_is_measured(energy: EvalSettings) -> None:
    runner = FakeRunner([REFUSAL, ANSWER], [])
    settings = EvalSettings(energy.model, energy.suites)
    report = measure_suite(runner, suite_of(2), settings)
    assert report.steered is None and report.comparison is None
    assert [(steering, logits) for _, steering, logits in runner.calls] == [(None, False)]
    assert "steered" not in report.to_json()


def test_the_json_form_is_the_documented_one(energy: EvalSettings) -> None:
    suite = measure_suite(FakeRunner([REFUSAL, ANSWER], [ANSWER, ANSWER]), suite_of(2), energy)
    report = EvalReport((suite,), "m.gguf", "m.energy.onnx", {"max_new_tokens": 64}, {"edge-eds": "0"})
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(data) == {"suites", "model", "energy", "settings", "versions"}
    mine = data["suites"]["mine"]
    assert {"n", "intent", "plain", "steered", "mcnemar_p", "kl"} <= set(mine)
    assert set(mine["plain"]) == set(mine["steered"])
    for rate in ("refusal_rate", "partial_rate", "degenerate_rate", "answer_rate"):
        assert set(mine["plain"][rate]) == {"value", "low", "high"}
    assert mine["plain"]["refusal_rate"]["value"] == 0.5
    assert set(mine["kl"]) == {"mean", "p50", "p90", "p95", "p99", "max"}
    assert set(mine["refusal_difference"]) == {"value", "low", "high"}
    assert mine["categories"]["c"]["steered"]["refusal_rate"]["value"] == 0


def test_transcripts_hold_every_prompt_with_its_answers(energy: EvalSettings) -> None:
    suite = measure_suite(FakeRunner([REFUSAL, BROKEN], [ANSWER, BROKEN]), suite_of(2), energy)
    report = EvalReport((suite,), "m", None, {}, {})
    lines = [json.loads(line) for line in report.transcripts_jsonl().splitlines()]
    assert [(line["suite"], line["intent"], line["id"], line["prompt"]) for line in lines] == [
        ("mine", "benign", "id0", "How about 0"),
        ("mine", "benign", "id1", "How about 1"),
    ]
    assert [line["plain"]["label"] for line in lines] == ["refusal", "degenerate"]
    assert lines[0]["steered"] == {
        "label": "answer", "reason": "", "text": ANSWER, "n_tokens": 9, "finish_reason": "stop",
        "gate": "benign", "gate_score": 0.0, "refusal_in_sight": None, "touched_tokens": 2,
    }  # fmt: skip
    assert lines[0]["kl"] > 0 == lines[1]["kl"]


def test_the_table_says_everything_in_80_columns(energy: EvalSettings) -> None:
    suite = measure_suite(FakeRunner([REFUSAL, ANSWER], [ANSWER, ANSWER]), suite_of(2), energy)
    plain = measure_suite(
        FakeRunner([ANSWER], []), suite_of(1, "bare"), EvalSettings(energy.model, energy.suites)
    )
    text = table(EvalReport((suite, plain), "m.gguf", "m.energy.onnx", {}, {}))
    for part in ("mine: 2 benign prompts", "50.0 (9.5-90.5)", "1 gone, 0 new (p = 1)", "1 benign, 1 harmful"):
        assert part in text
    assert "m.gguf, steered by m.energy.onnx" in text
    assert max(map(len, text.splitlines())) <= 80


def test_settings_are_checked_when_made(energy: EvalSettings) -> None:
    with pytest.raises(SettingsError, match="no suite"):
        EvalSettings(energy.model, ())
    with pytest.raises(SettingsError, match="max_new_tokens is 0"):
        EvalSettings(energy.model, energy.suites, max_new_tokens=0)


# -- on real llama.cpp --


@pytest.fixture
def files(tiny: Callable[..., Path], tmp_path: Path) -> ModelFiles:
    """A small model; its energies, whose gate finds every prompt benign, are tmp_path/tiny.energy.onnx."""
    gguf = tiny("llama", n_layer=6)
    make_energies(gguf).save(tmp_path / "tiny.energy.onnx")
    return ModelFiles(gguf)


def test_a_real_model_plain_and_steered(files: ModelFiles) -> None:
    settings = EvalSettings(
        files, (suite_of(5),), energy=make_energies(files.gguf), max_new_tokens=4, threads=1, n_parallel=3
    )
    report = evaluate(settings)
    (suite,) = report.suites
    assert suite.comparison is not None
    assert suite.comparison.gate == {"benign": 5, "harmful": 0, "uncertain": 0, "ungated": 0}
    assert suite.comparison.touched_tokens > 0
    assert suite.comparison.kl["max"] > 0
    assert sum(rate.value for rate in suite.plain.rates.values()) == pytest.approx(1)
    assert list(suite.comparison.descents) == ["fr"]
    fell = suite.comparison.descents["fr"]
    assert fell.after.mean() < fell.before.mean()
    assert len(suite.comparison.gate_scores) == 5
    assert evaluate(settings).suites[0].transcripts == suite.transcripts


def test_strength_0_changes_nothing(files: ModelFiles) -> None:
    settings = EvalSettings(
        files,
        (suite_of(5),),
        energy=make_energies(files.gguf),
        steering=Steering(strength=0),
        max_new_tokens=4,
        threads=1,
        n_parallel=3,
    )
    (suite,) = evaluate(settings).suites
    assert suite.comparison is not None
    assert set(suite.comparison.kl.values()) == {0.0}
    assert suite.comparison.perplexity.n == 0
    for line in suite.transcripts:
        assert line["plain"]["text"] == line["steered"]["text"]


def test_the_context_grows_with_the_prompts_up_to_what_the_model_knows(files: ModelFiles) -> None:
    def settings(text: str) -> EvalSettings:
        suite = Suite("long", "benign", (SuitePrompt("1", "short"), SuitePrompt("2", text)))
        return EvalSettings(files, (suite,), max_new_tokens=2, threads=1, n_parallel=2)

    (suite,) = evaluate(settings("abc xyz " * 60)).suites
    assert suite.plain.mean_tokens == 2
    with pytest.raises(PromptTooLongError, match=r"suite long, prompt 2: .* trained for \d+; shorten"):
        evaluate(settings("abc xyz " * 2000))


def test_eval_prints_json_last_and_writes_what_was_asked_for(files: ModelFiles, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,intent\nHow do I whittle?,benign\nHow do I hit?,harmful\n", encoding="utf-8")
    outcome = edge_eds(
        "eval", files.gguf, "--energy", tmp_path / "tiny.energy.onnx", "--suite", f"mine={prompts}",
        "--max-tokens", 3, "--threads", 1, "--json", "--out", tmp_path / "out.json", "--framings", "prefix",
        "--transcripts", tmp_path / "answers.jsonl", "--report", tmp_path / "page.html",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    data = json.loads(outcome.stdout)
    assert list(data["suites"]) == ["mine-benign", "mine-harmful", "mine-harmful+prefix"]
    assert [suite["jailbroken"] for suite in data["suites"].values()] == [False, False, True]
    assert data["settings"]["strength"] == 1
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == data
    lines = (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["suite"] for line in lines] == list(data["suites"])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and "mine-harmful+prefix" in page


def test_eval_prints_a_table_for_people(files: ModelFiles) -> None:
    args = ("--suite", "pairs", "--limit", 2, "--max-tokens", 2, "--threads", 1, "--energy", "none")
    outcome = edge_eds("eval", files.gguf, *args)
    assert outcome.code == 0, outcome.stderr
    assert "pairs-benign: 2 benign prompts" in outcome.stdout
    assert "pairs-harmful: 2 harmful prompts" in outcome.stdout
    assert "unsteered" in outcome.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--suite", "dance"), ["unknown suite dance"]),
        (("--suite", "mine=none.csv:benign"), ["none.csv", "no such file"]),
        (("--limit", 0), ["the limit is 0"]),
        (("--max-tokens", 0), ["max-tokens is 0"]),
        (("--threads", 0), ["--threads is 0"]),
        (("--out", "nowhere/out.json"), ["nowhere/out.json", "no folder"]),
        (("--transcripts", "."), ["is a directory"]),
        (("--report", "nowhere/page.html"), ["nowhere/page.html", "no folder"]),
        (("--report", "."), ["is a directory"]),
        (("--framings", "dance"), ["unknown framing dance", "role-play"]),
        (("--suite", "ordinary", "--framings", "all"), ["no suite has any"]),
        (("--strength", "nan"), ["strength", "nan"]),
    ],
)
def test_bad_input_is_one_line(
    files: ModelFiles, tmp_path: Path, args: tuple[object, ...], words: list[str]
) -> None:
    energy = tmp_path / "tiny.energy.onnx"
    assert_one_line(edge_eds("eval", files.gguf, "--energy", energy, *args), words)


SUITE_FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "no prompts": ("a.csv", b"question,answer\nx,y\n", ["a.csv", "no column with prompts", "found question, answer"]),
    "header only": ("a.csv", b"prompt,intent\n", ["a.csv", "has no rows"]),
    "nothing": ("a.csv", b" \n", ["a.csv", "is empty"]),
    "no list": ("a.json", b"{}", ["a.json", "has 0 lists"]),
    "empty list": ("a.json", b"[]", ["a.json", "has no rows"]),
    "empty prompt": ("a.csv", b"prompt,intent\nx,benign\n ,benign\n", ["a.csv: line 3", "prompt is empty"]),
    "wrong label": ("a.csv", b"prompt,intent\nx,benign\ny,evil\n", ["a.csv: line 3", "intent is evil"]),
    "no label": ("a.csv", b"prompt,intent\nx,benign\ny,\n", ["a.csv: line 3", "intent is empty"]),
    "not UTF-8": ("a.csv", b"prompt,intent\n\xff\xfe,benign\n", ["a.csv", "not UTF-8", "0xff"]),
    "a broken line": ("a.jsonl", b'{"prompt": "x"}\n{"prompt": \n', ["a.jsonl: line 2", "not JSON"]),
    "no intent": ("a.csv", b"prompt\nx\n", ["a.csv", "no column intent", ":benign or :harmful"]),
    "a megabyte in CSV": ("a.csv", b"prompt\n" + b"abc " * 250_000 + b"\n", ["a.csv: line 2", "at most 100000"]),
    "a megabyte": ("a.jsonl", b'{"intent": "benign", "prompt": "' + b"abc " * 250_000 + b'"}', [
        "a.jsonl: line 1", "at most 100000",
    ]),
    "longer than the context": ("a.jsonl", b'{"prompt": "' + b"abc " * 20_000 + b'", "intent": "benign"}', [
        "suite mine, prompt 1", "trained for", "shorten it",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", SUITE_FILES)
def test_a_suite_that_cannot_be_used_is_one_line(files: ModelFiles, tmp_path: Path, name: str) -> None:
    file, content, words = SUITE_FILES[name]
    (tmp_path / file).write_bytes(content)
    outcome = edge_eds("eval", files.gguf, "--energy", "none", "--threads", 1, "--suite", f"mine={tmp_path / file}")
    assert_one_line(outcome, words)
    assert len(outcome.stderr) < 1000


@pytest.mark.parametrize("option", ["--report", "--out", "--transcripts"])
def test_what_cannot_be_written_is_told_before_anything_is_asked(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluate_module, "evaluate", lambda *args: pytest.fail("the model was asked"))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    outcome = edge_eds("eval", files.gguf, "--energy", "none", option, tmp_path / "x")
    assert_one_line(outcome, [str(tmp_path / "x"), "cannot be written", "No space left"])


def test_a_disk_that_fills_up_leaves_no_half_page(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    page = tmp_path / "page.html"
    page.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", full)
    args = ("--suite", "pairs", "--limit", 1, "--max-tokens", 1, "--threads", 1, "--energy", "none")
    outcome = edge_eds("eval", files.gguf, *args, "--report", page)
    memory, error = outcome.stderr.splitlines()
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "answers at a time" in memory
    assert all(word in error for word in ("edge-eds: ", str(page), "cannot be written", "No space left"))
    assert page.read_text("utf-8") == "old"
    assert list(tmp_path.glob("*.tmp")) == []


def test_no_energies_is_one_line_that_says_what_to_do(files: ModelFiles) -> None:
    assert_one_line(edge_eds("eval", files.gguf, "--limit", 1), ["edge-eds fit", "--energy none"])
