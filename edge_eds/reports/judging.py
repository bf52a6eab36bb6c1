"""What `edge-eds judge` found, as text for people: rates of each group, and the agreement with people's labels."""

from __future__ import annotations

from collections.abc import Mapping

from edge_eds.pipeline.judge import LABELS
from edge_eds.pipeline.judging import Agreement, GroupReport
from edge_eds.pipeline.statistics import Rate

_WIDTH = 18


def judging_table(groups: Mapping[str, GroupReport]) -> str:
    """A line a group with the rates in %, then what has to be said about language and people's labels."""
    names = max(len("answers"), *map(len, groups)) + 2
    lines = ["".ljust(names) + "     n  " + "".join(label.ljust(_WIDTH) for label in LABELS).rstrip()]
    for name, group in groups.items():
        cells = "".join(_percent(group.rate(label)).ljust(_WIDTH) for label in LABELS).rstrip()
        lines.append(f"{name:{names}}{group.n:6}  {cells}")
    lines.append("Rates in % (95 % interval).")
    if n := sum(group.not_english for group in groups.values()):
        total = sum(group.n for group in groups.values())
        lines.append(f"Not English: {n} of {total} answers; the judge was made for English.")
    for name, group in groups.items():
        if group.agreement is not None:
            lines += ["", *_agreement(name, group.agreement)]
    return "\n".join(lines)


def _agreement(name: str, agreement: Agreement) -> list[str]:
    same = _percent(agreement.accuracy)
    lines = [f"{name}: {agreement.n} answers have a label of people; the judge gives the same to {same} %."]
    if agreement.f1 is not None:
        f1 = f"{agreement.f1.value:.3f} ({agreement.f1.low:.3f}-{agreement.f1.high:.3f})"
        lines.append(f"F1 of refusals among {agreement.n_clear} full refusals and answers: {f1}.")
    lines.append("people \\ judge".ljust(_WIDTH) + "".join(f"{label:>12}" for label in LABELS))
    for human, row in agreement.confusion.items():
        lines.append(f"{human:{_WIDTH}}" + "".join(f"{row[label]:12}" for label in LABELS))
    return lines


def _percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f}-{100 * rate.high:.1f})"
