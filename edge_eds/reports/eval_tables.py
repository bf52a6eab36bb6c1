"""The tables of an evaluation's page: refusals, what else changed, the first token's divergence, categories.

Takes reports of suites, gives sections as markup. What is drawn in a row comes from eval_charts.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge_eds.pipeline.eval_report import CategoryReport, Comparison, SuiteReport
from edge_eds.pipeline.usefulness import SKIPPED_TOKENS
from edge_eds.reports.eval_charts import divergence_axis, divergence_row, rate_axis, rate_bars
from edge_eds.reports.eval_summary import Group
from edge_eds.reports.markup import head_row, number, section, text
from edge_eds.reports.numerals import NOTHING, change, interval, p_value, percent, signed_interval

_WISHES = {
    "Benign prompts": "should be answered: further left is better",
    "Harmful prompts": "should be refused: further right is better",
    "Jailbroken prompts": "harmful ones in framings that ask to ignore it: further right is better",
}


def refusals(parts: Sequence[Group]) -> str:
    """Every suite's rate of refusals, plain and steered, with intervals."""
    steered = any(part.after is not None for part in parts)
    heads = ("Suite", "", "Plain %", *(("Steered %", "Change", "p") if steered else ()))
    body = []
    for part in parts:
        body.append(
            f'<tr class="group"><td colspan="{len(heads)}">{text(part.name)} '
            f"<span>{text(_WISHES[part.name])}</span></td></tr>"
        )
        body += map(_refusal_row, part.suites)
    body.append(_axis_row(rate_axis()))
    keys = '<span class="key hollow"></span> plain'
    if steered:
        keys += (
            ', <span class="key full benign"></span> <span class="key full harmful"></span> steered. '
            "p: McNemar's exact test on the same prompts"
        )
    introduction = f"Share of prompts that were fully refused, with 95 % intervals. {keys}."
    return section("Refusals", introduction, _drawn_table(heads, body))


def other_changes(suites: Sequence[SuiteReport]) -> str:
    """Partial and broken answers, lengths, usefulness, perplexity and speed."""
    heads = ("Suite", "Partial %", "Broken %", "Tokens", "Usefulness", "Perplexity", "Tokens/s")
    rows = []
    for suite in suites:
        both = [measure for measure in (suite.plain, suite.steered) if measure is not None]
        cells = (
            change(percent(measure.rates["partial"].value) for measure in both),
            change(percent(measure.rates["degenerate"].value) for measure in both),
            change(f"{measure.mean_tokens:.1f}" for measure in both),
            change(f"{measure.usefulness:.2f}" for measure in both),
            _perplexity(suite.comparison),
            f"{suite.tokens_per_second:.0f}",
        )
        rows.append(f"<tr>{_named(suite.name, suite.n)}{''.join(map(number, cells, heads[1:]))}</tr>")
    introduction = (
        "Plain → steered. Usefulness: how many of the prompt's content words an answer takes up (0 for a refusal or "
        "broken text), 0 to 1. Perplexity: of changed answers, and of the plain ones in their place, under the plain "
        f"model, from token {SKIPPED_TOKENS + 1} on. Neither says whether an answer is true."
    )
    table = f'<table class="folding many">{head_row(heads, 1)}<tbody>{"".join(rows)}</tbody></table>'
    return section("What else changed", introduction, f'<div class="panel">{table}</div>{_foreign(suites)}')


def divergences(suites: Sequence[SuiteReport]) -> str:
    """How far the distribution of the first token moved; "" where nothing was steered."""
    rows = [_divergence_row(suite, suite.comparison) for suite in suites if suite.comparison is not None]
    if not rows:
        return ""
    introduction = (
        "KL(plain ‖ steered) of the next-token distribution after the prompt, in nats: the line runs from the median "
        "to the 99th percentile, the dot is the mean. A refusal that turns into an answer has to move; ordinary "
        "prompts that were answered anyway should not."
    )
    heads = ("Suite", "", "Mean", "Median", "Mean where plain answered")
    rows.append(_axis_row(divergence_axis()))
    return section("How far the first token moves", introduction, _drawn_table(heads, rows))


def categories(suites: Sequence[SuiteReport]) -> str:
    """Refusals by category, a folded table for each suite that has them; "" where none has."""
    tables: list[str] = []
    for suite in suites:
        if suite.categories:
            largest_first = sorted(suite.categories, key=lambda category: -category.n)
            rows = [_category_row(category, suite.intent) for category in largest_first]
            opened = "" if tables else " open"
            tables.append(
                f"<details{opened}><summary>{text(suite.name)}: {len(rows)} categories</summary>"
                f"{_drawn_table((), [*rows, _axis_row(rate_axis())])}</details>"
            )
    if not tables:
        return ""
    introduction = "As the suites name them, largest first; intervals of small categories are wide."
    return section("Refusals by category", introduction, "".join(tables))


def _refusal_row(suite: SuiteReport) -> str:
    plain = suite.plain.rates["refusal"]
    steered = None if suite.steered is None else suite.steered.rates["refusal"]
    cells = [number(percent(plain.value), "plain", interval(plain))]
    if steered is not None and suite.comparison is not None:
        difference = suite.comparison.difference
        cells += [
            number(percent(steered.value), "steered", interval(steered)),
            number(f"{100 * difference.value:+.1f}", "change", signed_interval(difference)),
            number(p_value(suite.comparison.mcnemar_p), "p"),
        ]
    bars = rate_bars(plain, steered, suite.intent, suite.name)
    return f"<tr>{_named(suite.name, suite.n)}{_drawn(bars, suite.intent)}{''.join(cells)}</tr>"


def _divergence_row(suite: SuiteReport, comparison: Comparison) -> str:
    kl, answered = comparison.kl, comparison.kl_answered
    where = (NOTHING, "") if answered is None else (f"{answered['mean']:.3f}", f"n = {answered['n']:g}")
    cells = (
        number(f"{kl['mean']:.3f}", "mean"),
        number(f"{kl['p50']:.3f}", "median"),
        number(where[0], "where answered", where[1]),
    )
    row = divergence_row(kl, suite.intent, suite.name)
    return f"<tr>{_named(suite.name, suite.n)}{_drawn(row, suite.intent)}{''.join(cells)}</tr>"


def _category_row(category: CategoryReport, intent: str) -> str:
    bars = rate_bars(category.plain, category.steered, intent, category.name)
    refused = change(percent(rate.value) for rate in (category.plain, category.steered) if rate is not None)
    return f"<tr>{_named(category.name, category.n)}{_drawn(bars, intent)}{number(f'{refused} %')}</tr>"


def _foreign(suites: Sequence[SuiteReport]) -> str:
    """A warning where answers are in a language that the judge was not made for."""
    found = []
    for suite in suites:
        n = max(measure.not_english for measure in (suite.plain, suite.steered) if measure is not None)
        if n:
            found.append(f"{n} of {suite.n} in {suite.name}")
    words = f"Not English, which the judge was made for: {', '.join(found)}. Such labels mean little."
    return f'<p class="warn">{text(words)}</p>' if found else ""


def _perplexity(comparison: Comparison | None) -> str:
    if comparison is None or comparison.perplexity.plain is None or comparison.perplexity.steered is None:
        return NOTHING
    return change(f"{value:.2f}" for value in (comparison.perplexity.plain, comparison.perplexity.steered))


def _drawn_table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """A table whose second column is drawn; on a phone its rows fold."""
    head = head_row(heads, 2) if heads else ""
    return f'<div class="panel"><table class="folding">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _named(name: str, n: int) -> str:
    return f'<td class="wide">{text(name)} <span class="soft">n = {n}</span></td>'


def _drawn(drawing: str, intent: str) -> str:
    return f'<td class="drawn {intent}">{drawing}</td>'


def _axis_row(axis: str) -> str:
    return f'<tr class="axis"><td></td><td class="drawn">{axis}</td></tr>'
