"""The line after an answer, and pictures of what steering did: text from reports, nothing is printed here."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

from edge_eds.apps.answer import Answer
from edge_eds.runtime.trace import TokenTrace

_BAR = 16  # columns of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SHOWN_TOKENS = 48


def status_line(answer: Answer, steerable: bool) -> str:
    """Speed, the gate's decision, energies before and after, and how many tokens were touched."""
    if not answer.pieces and answer.finish_reason == "interrupted":
        return "stopped before the answer began; your message was taken back"
    parts = [f"{len(answer.pieces)} tokens, {answer.tokens_per_second:.1f} tokens/s"]
    if not steerable:
        parts.append("no energies: unsteered")
    elif answer.strength == 0:
        parts.append("steering off")
    else:
        report = answer.steering
        if report.gate is not None:
            score = "" if report.gate_score is None else f" ({report.gate_score:+.2f})"
            parts.append(f"gate {report.gate}{score}")
        if report.refusal_in_sight is not None:
            parts.append("a refusal in sight" if report.refusal_in_sight else "no refusal in sight")
        if report.touched_tokens and report.energy_before is not None and report.energy_after is not None:
            parts.append(f"energy {report.energy_before:.2f} -> {report.energy_after:.2f}")
            parts.append(f"{_count(report.touched_tokens, 'token')} touched")
        else:
            parts.append("nothing touched")
    ending = {
        "length": "cut at --max-tokens",
        "context": "cut: the context is full",
        "interrupted": "stopped",
    }.get(answer.finish_reason)
    return " | ".join(parts if ending is None else [*parts, ending])


def energy_picture(answer: Answer, blocks: bool = True) -> str:
    """The trace of an answer as bars over its tokens.

    blocks: draw with block characters; else with #, for terminals that cannot show them.
    """
    report = answer.steering
    if answer.strength == 0:
        return "The last answer was not steered."
    gate = "" if report.gate is None else f"gate {report.gate}"
    if report.gate_score is not None:
        gate += f", score {report.gate_score:+.3f}"
    if not report.tokens:
        why = "the gate let it be" if report.gate == "uncertain" else "no energy was read"
        return f"{gate}: {why}, nothing was touched." if gate else f"{why.capitalize()}, nothing was touched."
    shown = report.tokens[:_SHOWN_TOKENS]
    low = min(min(token.energy_before, token.energy_after) for token in shown)
    high = max(max(token.energy_before, token.energy_after) for token in shown)
    lines = [gate] if gate else []
    lines.append(f"energy from {low:.2f} (empty bar) to {high:.2f} (full bar), lower is better; * = touched")
    labels = [_label(token.offset, answer.pieces) for token in shown]
    width = max(len(label) for label in labels)
    for token, label in zip(shown, labels, strict=True):
        lines.append(_energy_row(token, label.ljust(width), low, high, blocks))
    if len(report.tokens) > len(shown):
        rest = report.tokens[len(shown) :]
        n_touched = sum(token.touched for token in rest)
        lines.append(f"... and {_count(len(rest), 'token')} more, {n_touched} touched")
    n_quiet = len(answer.pieces) - (report.tokens[-1].offset)
    if n_quiet > 0:
        lines.append(f"the other {_count(n_quiet, 'token')} went by unsteered")
    return "\n".join(lines)


def side_by_side(left: tuple[str, str], right: tuple[str, str], width: int) -> str:
    """Two titled texts in columns, wrapped to `width` columns in all."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3), expand=True)
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    table.add_row(*(Text(title) for title, _ in (left, right)))
    table.add_row(*(Text("-" * len(title)) for title, _ in (left, right)))
    table.add_row(*(Text(text.strip()) for _, text in (left, right)))
    page = io.StringIO()
    Console(file=page, width=width, color_system=None, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def bar(fraction: float, blocks: bool = True) -> str:
    """A bar of up to 16 columns for a fraction 0..1."""
    eighths = round(min(max(fraction, 0.0), 1.0) * _BAR * 8)
    if not blocks:
        return "#" * round(eighths / 8)
    return _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _energy_row(token: TokenTrace, label: str, low: float, high: float, blocks: bool) -> str:
    def drawn(energy: float) -> str:
        fraction = (energy - low) / (high - low) if high > low else 1.0
        return f"{energy:8.2f} {bar(fraction, blocks):{_BAR}}"

    if not token.touched:
        return f"  {label} {drawn(token.energy_before)}".rstrip()
    before, after = drawn(token.energy_before), drawn(token.energy_after)
    return f"* {label} {before} -> {after}  moved {token.shift:.0%} of |h|"


def _label(offset: int, pieces: Sequence[str]) -> str:
    if offset == 0:
        return "(end of prompt)"
    text = pieces[offset - 1] if offset <= len(pieces) else ""
    return json.dumps(text, ensure_ascii=False)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
