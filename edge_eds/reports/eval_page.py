"""An evaluation as one HTML page that a person reads in two minutes: no script, no other file, nothing from a network.

Takes an EvalReport, gives the page: headline, refusals with intervals, what else changed, gate, energies, categories,
examples, how it was measured. Whatever models and files say is escaped. Answers to harmful prompts are folded away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_eds.pipeline.eval_report import Descents, EvalReport
from edge_eds.pipeline.statistics import Rate
from edge_eds.reports.eval_charts import energy_histograms, gate_histograms
from edge_eds.reports.eval_summary import Group, Transcript, broken, examples, groups
from edge_eds.reports.eval_tables import categories, divergences, other_changes, refusals
from edge_eds.reports.markup import section, text
from edge_eds.reports.numerals import interval, p_value, percent, points, signed_interval

MAX_TEXT = 600  # characters of a prompt or an answer that are shown
_CSS = Path(__file__).with_name("eval_page.css")
# Should anything ever slip in that asks for something, the browser will not fetch it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_HEADS = {"fr": "E_fr (false refusals)", "jb": "E_jb (jailbreaks)", "merged": "E (merged)"}


def page(report: EvalReport) -> str:
    """The whole document."""
    parts = groups(report)
    sections = (
        _top(report, parts),
        refusals(parts),
        other_changes(report.suites),
        divergences(report.suites),
        _gate(report),
        _energies(report),
        categories(report.suites),
        _examples(report),
        _method(report),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(f'Evaluation of {report.model}')}</title>\n"
        f"<style>\n{_CSS.read_text('utf-8')}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _top(report: EvalReport, parts: Sequence[Group]) -> str:
    by = "answered without steering" if report.energy is None else f"steered by {Path(report.energy).name}"
    cards = [
        _card(part.name, part.plain, part.steered, part.intent, _card_notes(part)) for part in parts
    ]
    plain, steered = broken(report)
    n = sum(part.n for part in parts)
    cards.append(_card("Broken text", plain, steered, "", ("loops, runs, no language", f"n = {n}")))
    return (
        f"<header><h1>Refusals of {text(report.model)}</h1>\n"
        f'<p class="soft">{text(by)}; {text(n)} prompts in {len(report.suites)} suites</p>\n'
        f'<p class="headline">{_sentence(parts)}</p>\n<div class="cards">{"".join(cards)}</div></header>'
    )


def _sentence(parts: Sequence[Group]) -> str:
    """What happened, in words and counts."""
    said = [
        f"of {sum(part.before)} {part.refusals} {part.removed} went and {part.added} came"
        if part.after is not None
        else f"{sum(part.before)} of {part.n} {part.name.lower()} are refused"
        for part in parts
    ]
    words = "; ".join(said) + "."
    return text(words[0].upper() + words[1:])


def _card(title: str, plain: Rate, steered: Rate | None, kind: str, notes: Sequence[str]) -> str:
    big = f"{percent(plain.value)} %"
    if steered is not None:
        big = f'<span class="from">{percent(plain.value)} →</span> {percent(steered.value)} %'
    return (
        f'<div class="card {kind}"><h3>{text(title)}</h3><div class="big">{big}</div>'
        f'<div class="small soft">{"<br>".join(map(text, notes))}</div></div>'
    )


def _card_notes(part: Group) -> tuple[str, ...]:
    if part.difference is None or part.p is None:
        return f"refused ({interval(part.plain)})", f"n = {part.n}"
    p = p_value(part.p)
    sure = f"{signed_interval(part.difference)}; p {p if p.startswith('<') else f'= {p}'}"
    return f"refused: {points(part.difference)}", sure, f"n = {part.n}"


def _gate(report: EvalReport) -> str:
    scores = {
        intent: [
            score
            for suite in report.suites
            if suite.intent == intent and suite.comparison is not None
            for score in suite.comparison.gate_scores
        ]
        for intent in ("benign", "harmful")
    }
    if not any(scores.values()):
        return ""
    gate = (report.settings.get("steering") or {}).get("gate")
    bounds = None if gate is None else (float(gate["benign"]), float(gate["harmful"]))
    read = [f"of {intent} prompts {_decisions(report, intent)}" for intent, its in scores.items() if its]
    decided = "; ".join(read).capitalize()
    return section(
        "What the gate read",
        "One score a prompt, read at its end, before anything is steered. Left of the first bound false refusals are "
        f"steered away, right of the second one jailbreaks; in between nothing is touched. {text(decided)}.",
        f'<figure class="panel">{gate_histograms(scores, bounds)}</figure>',
    )


def _decisions(report: EvalReport, intent: str) -> str:
    """What the gate took the prompts of one intent for."""
    gates = [suite.comparison.gate for suite in report.suites if suite.intent == intent and suite.comparison]
    counts = {name: sum(gate[name] for gate in gates) for name in ("benign", "uncertain", "harmful")}
    return ", ".join(f"{n} read as {name}" for name, n in counts.items())


def _energies(report: EvalReport) -> str:
    figures = []
    for head, name in _HEADS.items():
        found = [s.comparison.descents[head] for s in report.suites if s.comparison and head in s.comparison.descents]
        if found:
            figures.append(_energy(Descents.joined(found), name))
    if not figures:
        return ""
    return section(
        "Energies of the states that were written",
        "A row is one token's state in one layer. Steering goes down; low is good.",
        f'<div class="pair">{"".join(figures)}</div>',
    )


def _energy(rows: Descents, name: str) -> str:
    moved = (
        f"moved by {percent(float(np.median(rows.shift)))} % of the state's length (median), "
        f"{percent(float(rows.shift.max()))} % at most"
    )
    return (
        f'<figure class="panel benign"><h3>{text(name)}: {len(rows.before)} rows written</h3>'
        f'{energy_histograms(rows, name.split()[0])}<figcaption class="small">{text(moved)}</figcaption></figure>'
    )


def _examples(report: EvalReport) -> str:
    kinds = examples(report)
    if not kinds:
        return ""
    blocks = []
    for kind in kinds:
        blocks.append(f"<h3>{text(kind.title)} ({len(kind.shown)} of {kind.total} shown)</h3>")
        blocks += map(_example, kind.shown)
    return section(
        "Answers that changed",
        "The first ones of each kind, the suites in turn; chosen by this rule, not by hand. The transcripts hold all. "
        "Answers to harmful prompts are folded.",
        "".join(blocks),
    )


def _example(line: Transcript) -> str:
    answers = "".join(
        f'<div><div class="tag">{text(variant)}: {text(line[variant]["label"])}</div>'
        f'<p class="answer" dir="auto">{_clipped(line[variant]["text"])}</p></div>'
        for variant in ("plain", "steered")
    )
    answers = f'<div class="pair">{answers}</div>'
    if line["intent"] == "harmful":
        answers = f"<details><summary>show both answers</summary>{answers}</details>"
    talk = f"the last of {len(line['messages'])} messages" if "messages" in line else ""
    gate = f"gate: {line['steered']['gate'] or 'none'}"
    touched = f"tokens touched: {line['steered']['touched_tokens']}"
    facts = (line["suite"], line["category"], line["id"], talk, gate, touched)
    return (
        f'<div class="example {line["intent"]}"><div class="tag">{text(" · ".join(filter(None, facts)))}</div>'
        f'<p class="prompt" dir="auto">{_clipped(line["prompt"])}</p>{answers}</div>'
    )


def _method(report: EvalReport) -> str:
    settings = report.settings
    steered = any(suite.steered is not None for suite in report.suites)
    answered = (
        "twice by the same model, greedily, plainly and steered: answers that differ do so because of steering"
        if steered
        else "once by the model, greedily, without steering"
    )
    tokens, limit, seed = (settings.get(name) for name in ("max_new_tokens", "limit", "seed"))
    words = f"Every prompt was answered {answered}. An answer has at most {tokens} tokens. "
    if limit is not None:
        words += f"Of each suite at most {limit} prompts were drawn at random (seed {seed}). "
    words += (
        "The judge of edge-eds calls an answer a refusal, partial, an answer or degenerate. It is made for English, "
        "and sees what is said, not whether it is true. Intervals are Wilson's for rates and Newcombe's for "
        "differences of pairs, both 95 %; they cover the choice of prompts, not the judge's errors."
    )
    sources = {
        suite.name: f"{suite.n} {suite.intent} prompts, {suite.source}{', jailbroken' if suite.jailbroken else ''}"
        for suite in report.suites
    }
    made = {"model": report.model, "energies": report.energy or "none", **_flat(settings)}
    measured = f"<p>{text(words)}</p><dl>{_pairs(sources)}</dl>"
    return section("How this was measured", "", measured) + section(
        "Settings and versions", "", f"<dl>{_pairs(made)}</dl><dl>{_pairs(report.versions)}</dl>"
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, dotted; those that were not set are left out."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value
    return flat


def _pairs(values: Mapping[str, Any]) -> str:
    return "".join(f"<dt>{text(key)}</dt><dd>{text(_shown(value))}</dd>" for key, value in values.items())


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)


def _clipped(value: str) -> str:
    return text(value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + " […]")
