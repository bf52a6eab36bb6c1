"""An evaluation as text for people: per suite, plain against steered, with intervals."""

from __future__ import annotations

from edge_eds.pipeline.eval_report import Comparison, EvalReport, Measure, SuiteReport
from edge_eds.pipeline.judge import LABELS
from edge_eds.pipeline.statistics import Rate

_NAME_WIDTH, _RATE_WIDTH = 9, 17


def table(report: EvalReport) -> str:
    """A block a suite, no line wider than 80 columns as long as names are short.

    Rates are percentages with their 95 % intervals. Of the steered answers the block also says how many
    refusals went and came, with McNemar's exact p; the divergence from the plain model at the first token, in
    nats; what the gate took the prompts for; and the mean number of tokens of an answer that were touched.
    """
    blocks = [_block(suite) for suite in report.suites]
    by = "unsteered" if report.energy is None else f"steered by {report.energy}"
    return "\n\n".join([*blocks, f"{report.model}, {by}. Rates in % (95 % interval)."])


def _block(suite: SuiteReport) -> str:
    lines = [
        f"{suite.name}: {suite.n} {suite.intent} prompts",
        _line("", LABELS),
        _line("plain", _rates(suite.plain)),
    ]
    if suite.steered is not None and suite.comparison is not None:
        lines.append(_line("steered", _rates(suite.steered)))
        lines += [f"  {line}" for line in _changes(suite.comparison)]
    return "\n".join(lines)


def _changes(change: Comparison) -> list[str]:
    kl = ", ".join(f"{name} {nats:.3f}" for name, nats in change.kl.items())
    if change.gate["ungated"]:
        gate = "no gate"
    else:
        gate = "gate: " + ", ".join(f"{n} {name}" for name, n in change.gate.items() if name != "ungated")
    return [
        f"refusals: {change.refusals_removed} gone, {change.refusals_added} new (p = {change.mcnemar_p:.2g})",
        f"first-token KL: {kl}",
        f"{gate}; {change.touched_tokens:.1f} tokens touched an answer",
    ]


def _line(name: str, cells: tuple[str, ...]) -> str:
    return f"  {name:{_NAME_WIDTH}}" + "".join(f"{cell:{_RATE_WIDTH}}" for cell in cells).rstrip()


def _rates(measure: Measure) -> tuple[str, ...]:
    return tuple(_rate(measure.rates[label]) for label in LABELS)


def _rate(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f}-{100 * rate.high:.1f})"
