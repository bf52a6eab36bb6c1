"""An evaluation as text for people: per suite, plain against steered, with intervals."""

from __future__ import annotations

from edge_eds.pipeline.eval_report import Comparison, EvalReport, Measure, SuiteReport
from edge_eds.pipeline.judge import LABELS
from edge_eds.pipeline.statistics import Rate

_NAME_WIDTH, _RATE_WIDTH = 9, 17


def table(report: EvalReport) -> str:
    """A block a suite, no line wider than 80 columns as long as names are short.

    Rates are percentages with their 95 % intervals. Of the steered answers the block also says how many refusals went
    and came, with McNemar's exact p and the paired difference; the divergence from the plain model at the first token,
    in nats, also over the prompts that the plain model answered; length, usefulness and perplexity, plain -> steered;
    what the gate took the prompts for; and the mean number of tokens of an answer that were touched.
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
        lines += [f"  {line}" for line in _changes(suite.plain, suite.steered, suite.comparison)]
    foreign = max(measure.not_english for measure in (suite.plain, suite.steered) if measure is not None)
    if foreign:
        lines.append(f"  {foreign} of {suite.n} answers are not English: the judge was not made for them")
    return "\n".join(lines)


def _changes(plain: Measure, steered: Measure, change: Comparison) -> list[str]:
    difference = change.difference
    points = " to ".join(f"{100 * end:+.1f}".replace("-0.0", "+0.0") for end in (difference.low, difference.high))
    answered = change.kl_answered
    where = "" if answered is None else f"; {answered['mean']:.3f} on the {answered['n']} that plain answers"
    if change.gate["ungated"]:
        gate = "no gate"
    else:
        gate = "gate: " + ", ".join(f"{n} {name}" for name, n in change.gate.items() if name != "ungated")
    lines = [
        f"refusals: {change.refusals_removed} gone, {change.refusals_added} new (p = {change.mcnemar_p:.2g}); "
        f"{100 * difference.value:+.1f} points ({points})",
        f"first-token KL: mean {change.kl['mean']:.3f}, median {change.kl['p50']:.3f}{where}",
        f"tokens {plain.mean_tokens:.1f} -> {steered.mean_tokens:.1f}, usefulness {plain.usefulness:.2f} -> "
        f"{steered.usefulness:.2f}",
        f"{gate}; {change.touched_tokens:.1f} tokens touched an answer",
    ]
    fluency = change.perplexity
    if fluency.plain is not None and fluency.steered is not None:
        lines.insert(3, f"perplexity of {fluency.n} changed answers {fluency.plain:.2f} -> {fluency.steered:.2f}")
    return lines


def _line(name: str, cells: tuple[str, ...]) -> str:
    return f"  {name:{_NAME_WIDTH}}" + "".join(f"{cell:{_RATE_WIDTH}}" for cell in cells).rstrip()


def _rates(measure: Measure) -> tuple[str, ...]:
    return tuple(_rate(measure.rates[label]) for label in LABELS)


def _rate(rate: Rate) -> str:
    value, low, high = (f"{100 * part:.1f}".replace("100.0", "100") for part in (rate.value, rate.low, rate.high))
    return f"{value} ({low}-{high})"
