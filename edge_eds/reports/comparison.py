"""A comparison of methods as text for people: chosen points, and all methods at the same rate of true refusals."""

from __future__ import annotations

from edge_eds.pipeline.compare import ComparisonReport, MethodReport, Point
from edge_eds.pipeline.statistics import Rate, wilson

_NAME_WIDTH, _RATE_WIDTH = 37, 18


def table(report: ComparisonReport) -> str:
    """Three blocks: what each method chose on validation; against ours at equal safety; suite by suite.

    Rates are percentages with their 95 % intervals, on prompts that no search has seen.
    """
    intents = {suite.intent for suite in report.suites}
    blocks = []
    if intents == {"benign", "harmful"}:
        blocks += [_chosen(report)]
        if any(method.match is not None for method in report.methods):
            blocks += [_against_ours(report)]
    blocks += [_by_suite(report)]
    return "\n\n".join([*blocks, "Rates in % (95 % interval)."])


def _chosen(report: ComparisonReport) -> str:
    lines = [
        "At the point that each method chose on validation prompts",
        _line("", ["true refusals", "false refusals"]),
    ]
    for name, point in _points(report):
        rates = [] if point is None else [report.refusals(point, intent) for intent in ("harmful", "benign")]
        lines.append(_line(name, [_rate(rate) for rate in rates] or ["nothing within what may be lost"]))
    return "\n".join(lines)


def _against_ours(report: ComparisonReport) -> str:
    lines = [
        "Against edge-eds, at the point whose true refusals are nearest to edge-eds' own",
        _line("", ["false refusals", "true refusals", "only edge-eds", "p"]),
        _line("(plain): doing nothing is nearest", ["", "against its", "answers : method", ""]),
    ]
    for method in report.methods:
        if method.match is None:
            continue
        match = method.match
        name = method.title if match.point is not None else f"(plain) {method.title}"
        gap = f"{100 * match.gap:+.1f} points"
        lines.append(_line(name, [_rate(match.false_refusals), gap, f"{match.fewer} : {match.more}", f"{match.p:.2g}"]))
    return "\n".join(lines)


def _by_suite(report: ComparisonReport) -> str:
    lines = ["Refusals by suite, at the chosen points"]
    for suite in report.suites:
        lines.append(f"  {suite.name}: {len(suite.prompts)} {suite.intent} prompts")
        for name, point in _points(report):
            if point is None:
                continue
            labels = point.labels[suite.name]
            broken = sum(label == "degenerate" for label in labels)
            refusals = sum(label == "refusal" for label in labels)
            cells = [_rate(wilson(refusals, len(labels))), f"{100 * broken / len(labels):.1f} broken"]
            lines.append(_line(name, cells, indent=4))
    return "\n".join(lines)


def _points(report: ComparisonReport) -> list[tuple[str, Point | None]]:
    """Name and chosen point of everything that has a row; None: no point was chosen."""
    rows: list[tuple[str, Point | None]] = [("plain", report.plain)]
    return rows + [(method.title, chosen_point(method)) for method in report.methods]


def chosen_point(method: MethodReport) -> Point | None:
    """The point that was chosen on validation, if any."""
    return None if method.search.chosen is None else method.points[method.search.chosen]


def _line(name: str, cells: list[str], indent: int = 2) -> str:
    return f"{'':{indent}}{name:{_NAME_WIDTH}}" + "".join(f"{cell:{_RATE_WIDTH}}" for cell in cells).rstrip()


def _rate(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f}-{100 * rate.high:.1f})"
