"""What a fit found, as sentences and a small table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_eds.pipeline.gate_front import OPEN, thinned
from edge_eds.pipeline.statistics import Rate, wilson
from edge_eds.pipeline.tune import MIN_TUNED, HeadReport
from edge_eds.pipeline.verdict import Verdict
from edge_eds.reports.numerals import interval, p_value, percent

_REQUESTS = {"harmless": "harmless requests", "harmful": "harmful requests", "everyday": "everyday requests"}
_FRONT_POINTS = 9
_HEADS = {
    "fr": ("refused harmless answered", "refused harmful lost"),
    "jb": ("answered harmful refused", "answered harmless lost"),
}


def verdict_text(verdict: Verdict) -> str:
    """What steering does on the test split: the conclusion, then a line for each kind of request."""
    if not verdict.reports:
        return "No prompts were left to test on: give some with the split test, or more of them."
    lines = [_conclusion(verdict), "On prompts that it never saw, refused without and with steering:"]
    for kind, report in verdict.reports.items():
        assert report.steered is not None and report.comparison is not None  # a verdict has both
        plain, steered = report.plain.rates["refusal"], report.steered.rates["refusal"]
        broken = [percent(measure.rates["degenerate"].value) for measure in (report.plain, report.steered)]
        lines.append(
            f"  {report.n} {_REQUESTS[kind]}: {_rate(plain)} -> {_rate(steered)}, "
            f"p {p_value(report.comparison.mcnemar_p)}; broken answers {broken[0]} -> {broken[1]} %"
        )
    return "\n".join(lines)


def front_table(report: HeadReport) -> str:
    """The trade of one head, from the safest point on; the chosen one is marked."""
    mended, lost = _HEADS[report.head]
    shown = {*thinned(report.front, _FRONT_POINTS), report.chosen}
    points = sorted(shown, key=lambda point: (point.lost, point.mended))
    lines = [f"E_{report.head}: {mended} (of {report.n_wrong}), {lost} (of {report.n_right}), bound of the gate"]
    for point in points:
        mark = "*" if point == report.chosen else " "
        bound = "none" if abs(point.bound) >= OPEN else f"{point.bound:+.2f}"
        lines.append(f"  {mark} {point.mended:6.1%} {point.lost:6.1%}  {bound}")
    return "\n".join(lines)


def nothing_found(model: str, labels: Mapping[str, Mapping[str, int]], tuned: Sequence[HeadReport]) -> str:
    """One line: that nothing steers this model to the better, and why, with the numbers of its own answers."""
    parts = []
    for intent, what in (("benign", "harmless"), ("harmful", "harmful")):
        counts = labels.get(intent, {})
        n = sum(counts.values())
        if n:
            parts.append(f"of {n} {what} requests it refuses {_rate(wilson(counts.get('refusal', 0), n))}")
    refused = labels.get("benign", {}).get("refusal", 0)
    if refused < MIN_TUNED:
        reason = "there are no false refusals to mend"
        if labels.get("harmful", {}).get("refusal", 0) < MIN_TUNED:
            reason += " and no true ones to learn from"
    elif not tuned:
        reason = "no steering was found that helps"
    else:
        reason = "no steering was found that helps: what mends false refusals costs true ones"
    return f"{model}: {', '.join(parts)}; {reason}, and nothing was written"


def harm_found(model: str, verdict: Verdict) -> str:
    """One line: that steering costs true refusals, so that it was not written."""
    report = verdict.reports["harmful"]
    assert report.steered is not None and report.comparison is not None
    plain, steered = report.plain.rates["refusal"], report.steered.rates["refusal"]
    return (
        f"{model}: on {report.n} harmful requests that it never saw refusals fell from {percent(plain.value)} to "
        f"{percent(steered.value)} % (p {p_value(report.comparison.mcnemar_p)}), so nothing was written; "
        "choose a safer point with --max-lost"
    )


def _conclusion(verdict: Verdict) -> str:
    if not verdict.mends:
        return "Steering makes no difference that can be told from chance."
    does = []
    if verdict.mends_false_refusals:
        does.append("mends false refusals")
    if verdict.wins_refusals_back:
        does.append("turns answers to harmful requests into refusals")
    elif "harmful" in verdict.reports:
        does.append("keeps true refusals")
    return f"Steering {' and '.join(does)}."


def _rate(rate: Rate) -> str:
    return f"{percent(rate.value)} % ({interval(rate)})"
