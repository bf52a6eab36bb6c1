"""The HTML page of an evaluation: complete, escaped, self-contained, well formed, and true to the report's numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from runtime_examples import make_energies
from test_evaluate import ANSWER, BROKEN, PARTIAL, REFUSAL, FakeRunner

from edge_eds.pipeline.eval_report import EvalReport, SuiteReport
from edge_eds.pipeline.evaluate import EvalSettings, measure_suite
from edge_eds.pipeline.statistics import mcnemar, paired_difference, wilson
from edge_eds.pipeline.suites import Suite, SuitePrompt
from edge_eds.reports.eval_page import MAX_TEXT, page
from edge_eds.reports.eval_summary import N_EXAMPLES, examples, groups
from edge_eds.runtime.energies import ModelFiles

EVIL = '<script>alert("x")</script> & \'so\' \x1b[2J </p></div>'
VOID = {"meta", "br"}
GATE = {"steering": {"gate": {"benign": 0.3, "harmful": 0.8}, "layers": [3, 4]}, "max_new_tokens": 8, "limit": None}


class Page(HTMLParser):
    """Collects text and tags, and checks that every tag is closed by its own."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += data


@pytest.fixture
def settings(tiny: Callable[..., Path]) -> EvalSettings:
    gguf = tiny("llama", n_layer=6)
    suite = Suite("any", "benign", (SuitePrompt("0", "How about 0"),))
    return EvalSettings(ModelFiles(gguf), (suite,), energy=make_energies(gguf))


def measured(
    settings: EvalSettings, name: str, intent: str, plain: Sequence[str], steered: Sequence[str], **changes: Any
) -> SuiteReport:
    prompts = tuple(SuitePrompt(f"id{i}", f"How about {i}", "ab"[i % 2]) for i in range(len(plain)))
    suite = Suite(name, intent, prompts, "file.csv", **changes)
    return measure_suite(FakeRunner(plain, steered), suite, settings)


def reported(*suites: SuiteReport, energy: str | None = "x/m.energy.onnx", **settings: Any) -> EvalReport:
    return EvalReport(suites, "m.gguf", energy, {**GATE, **settings}, {"edge-eds": "0.0.7"})


@pytest.fixture
def report(settings: EvalSettings) -> EvalReport:
    return reported(
        measured(settings, "safe", "benign", [REFUSAL] * 6 + [ANSWER] * 4, [ANSWER] * 5 + [REFUSAL] * 2 + [ANSWER] * 3),
        measured(settings, "unsafe", "harmful", [REFUSAL] * 5, [REFUSAL] * 3 + [ANSWER, BROKEN]),
        measured(settings, "unsafe+story", "harmful", [ANSWER, PARTIAL], [REFUSAL, REFUSAL], jailbroken=True),
    )


def test_the_page_says_what_the_report_says(report: EvalReport) -> None:
    words = " ".join(Page(page(report)).words.split())
    for part in (
        "Refusals of m.gguf", "steered by m.energy.onnx", "17 prompts in 3 suites",
        "Of 6 false refusals 5 went and 1 came; of 5 true refusals 2 went and 0 came; of 0 refusals of jailbroken",
        "60 → 20 %", "100 → 60 %", "0 → 100 %", "file.csv", "0.0.7", "steering.gate.harmful 0.8", "3, 4",
        "False refusal gone (5 of 5 shown)", "True refusal lost (2 of 2 shown)",
        "E_fr (false refusals): 6 rows written",         "8 read as uncertain",
    ):  # fmt: skip
        assert re.sub(r"\s+", "", part) in re.sub(r"\s+", "", words), part
    for rate in (wilson(6, 10), wilson(2, 10)):
        assert f"{100 * rate.low:.1f} to {100 * rate.high:.1f}" in words


def test_groups_take_suites_together_prompt_by_prompt(report: EvalReport, settings: EvalSettings) -> None:
    more = measured(settings, "more", "benign", [REFUSAL, ANSWER], [ANSWER, ANSWER])
    benign, harmful, jailbroken = groups(replace(report, suites=(*report.suites, more)))
    before, after = [True] * 6 + [False] * 4 + [True, False], [False] * 5 + [True] * 2 + [False] * 5
    assert (benign.n, benign.plain, benign.steered) == (12, wilson(7, 12), wilson(2, 12))
    assert (benign.p, benign.difference) == (mcnemar(before, after), paired_difference(before, after))
    assert (benign.removed, benign.added) == (6, 1)
    assert [suite.name for suite in harmful.suites + jailbroken.suites] == ["unsafe", "unsafe+story"]


def test_examples_are_of_every_kind_and_at_most_ten(settings: EvalSettings) -> None:
    safe = measured(settings, "safe", "benign", [REFUSAL] * 9 + [ANSWER] * 3, [ANSWER] * 9 + [REFUSAL, BROKEN, "Other"])
    more = measured(settings, "more", "benign", [REFUSAL] * 2, [PARTIAL] * 2)
    unsafe = measured(settings, "unsafe", "harmful", [REFUSAL] * 5 + [ANSWER], [ANSWER] * 5 + [REFUSAL])
    kinds = examples(reported(safe, more, unsafe))
    assert [(kind.title, len(kind.shown), kind.total) for kind in kinds] == [
        ("False refusal gone", 3, 11), ("True refusal lost", 3, 5), ("New false refusal", 1, 1),
        ("Harmful prompt now refused", 1, 1), ("Broken by steering", 1, 1), ("Other words, same verdict", 1, 1),
    ]  # fmt: skip
    # the suites in turn, each from its beginning
    first = [(line["suite"], line["id"]) for line in kinds[0].shown]
    assert first == [("safe", "id0"), ("more", "id0"), ("safe", "id1")]
    assert sum(len(kind.shown) for kind in examples(reported(safe))) <= N_EXAMPLES
    (alone,) = examples(reported(measured(settings, "safe", "benign", [REFUSAL] * 20, [ANSWER] * 20)))
    assert len(alone.shown) == N_EXAMPLES


def test_nothing_that_was_said_becomes_markup(settings: EvalSettings) -> None:
    suite = measured(settings, EVIL, "benign", [EVIL], [EVIL + "!"])
    (line,) = suite.transcripts
    line = {**line, "prompt": EVIL, "id": EVIL, "category": EVIL}
    category = replace(suite.categories[0], name=EVIL)
    suite = replace(suite, source=EVIL, transcripts=(line,), categories=(category,))
    document = page(EvalReport((suite,), EVIL, EVIL, {EVIL: EVIL}, {EVIL: EVIL}))
    parsed = Page(document)  # </div> from a text would close what it did not open
    assert not any(tag == "script" for tag, _ in parsed.tags)
    assert "\x1b" not in document
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp;" in document


def test_the_page_needs_nothing_else(report: EvalReport) -> None:
    document = page(report)
    assert "http:" not in document and "https:" not in document and "url(" not in document and "@import" not in document
    parsed = Page(document)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    assert all(not name.startswith("on") and name not in ("src", "href") for _, attrs in parsed.tags for name in attrs)
    policy = [attrs["content"] for tag, attrs in parsed.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "prefers-color-scheme: dark" in document


def test_answers_to_harmful_prompts_are_folded(report: EvalReport) -> None:
    document = page(report)
    blocks = document.split('<div class="example ')[1:]
    assert {block.split('"')[0] for block in blocks} == {"benign", "harmful"}
    for block in blocks:
        folded = "<details><summary>show both answers</summary>" in block
        assert folded == block.startswith("harmful")
        if folded:
            assert block.index("<details>") < block.index('class="answer"')


def test_drawings_stay_on_the_page(report: EvalReport) -> None:
    drawn = [attrs for tag, attrs in Page(page(report)).tags if tag in ("line", "circle", "rect", "text")]
    places = [attrs[name] for attrs in drawn for name in ("x", "x1", "x2", "cx") if name in attrs]
    assert len(places) > 50
    assert all(place is not None and 0 <= float(place.removesuffix("%")) <= 100.001 for place in places)


def test_the_bounds_of_the_gate_are_drawn_where_they_can_be_seen(report: EvalReport) -> None:
    # the scores are 0, 0.5, ..., 4.5
    def bounds(gate: Mapping[str, float] | None) -> int:
        steering = None if gate is None else {"gate": gate}
        document = page(reported(*report.suites, steering=steering))
        return sum(attrs.get("class") == "bound" for _, attrs in Page(document).tags)

    assert bounds({"benign": 0.3, "harmful": 0.8}) == 2
    assert bounds({"benign": -1e6, "harmful": 0.8}) == 1
    assert bounds(None) == 0
    document = page(reported(*report.suites, steering={"gate": {"benign": -1e6, "harmful": 0.8}}))
    assert "read as harmful →" in document and "← read as benign" not in document


def test_an_unsteered_report_has_a_page_too(settings: EvalSettings) -> None:
    plain = EvalSettings(settings.model, settings.suites)
    document = page(reported(measured(plain, "safe", "benign", [REFUSAL, ANSWER], []), energy=None, steering=None))
    words = Page(document).words
    assert "answered without steering" in words and "1 of 2 benign prompts are refused" in words
    assert "→" not in words.replace("Plain → steered", "")
    assert "What the gate read" not in words and "Answers that changed" not in words


def test_long_texts_are_cut(settings: EvalSettings) -> None:
    suite = measured(settings, "safe", "benign", [REFUSAL], [ANSWER])
    line = {**suite.transcripts[0], "prompt": "How do I open " + "the window and the door, " * 10**5}
    document = page(reported(replace(suite, transcripts=(line,))))
    assert len(document) < 200_000
    assert "[…]" in document and document.count("the door, ") < MAX_TEXT


def test_answers_in_other_languages_are_warned_of(settings: EvalSettings) -> None:
    german = "Ich kann dir dabei leider nicht helfen, denn das ist nicht erlaubt und kann anderen sehr schaden."
    report = reported(measured(settings, "safe", "benign", [german] * 2, [german, ANSWER]))
    assert "Not English, which the judge was made for: 2 of 2 in safe" in Page(page(report)).words
