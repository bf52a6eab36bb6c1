"""The document of a bench in the formats that llama-bench has: md, csv, json, jsonl, sql; and beside an earlier one.

Takes documents as `bench --json` prints them; gives text. A row of csv, jsonl and sql has everything that is needed to
tell runs apart, so that files of many runs can be put together.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_eds.reports.numerals import NOTHING

Document = Mapping[str, Any]
Rows = list[dict[str, Any]]


def markdown(document: Document) -> str:
    """A table for people, with what was measured on, what was left out, and the peers' cost."""
    heads = ("variant", "test", "tokens/s", "median ms", "ratio to plain", "extra")
    rows = [
        (
            row["variant"],
            row["test"],
            f"{row['tokens_per_second']:.2f}",
            f"{row['median_ms']:.1f} ({' to '.join(f'{value:.1f}' for value in row['quartiles_ms'])})",
            _ratio(row),
            _extra(row),
        )
        for row in document["results"]
    ]
    lines = [_machine(document), "", *table(heads, rows, n_left=2), ""]
    if document["results"]:
        first = document["results"][0]
        lines += [
            f"Medians of {first['pairs']} interleaved pairs; in brackets the middle half of the times, and the "
            f"{100 * first['confidence']:.0f} % interval of the median. Extra: microseconds a new token, or a prompt."
        ]
    for peer, costs in document["cost_of_ours_to"].items():
        lines += [_cost(peer, test, cost) for test, cost in costs.items()]
    lines += [f"{variant} is left out: {reason}" for variant, reason in document["left_out"].items()]
    return "\n".join(lines)


def comparison(document: Document, earlier: Document) -> str:
    """This run's ratios beside those of an earlier one; "slower" and "faster" where their intervals are apart."""
    known = {(row["variant"], row["test"]): row for row in earlier["results"]}
    rows = []
    for row in document["results"]:
        then = known.get((row["variant"], row["test"]))
        ratio_then = NOTHING if then is None else _ratio(then)
        rows.append((row["variant"], row["test"], ratio_then, _ratio(row), _change(row, then)))
    before, now = (f"version {each['versions']['edge-eds']}" for each in (earlier, document))
    lines = [f"now:  {_machine(document)}", f"then: {_machine(earlier)}", ""]
    if any(document[key] != earlier[key] for key in ("model", "threads", "clock", "machine")):
        lines += ["These are not the same model, threads, clock and machine: the ratios need not agree.", ""]
    heads = ("variant", "test", f"ratio then, {before}", f"ratio now, {now}", "")
    return "\n".join([*lines, *table(heads, rows, n_left=2)])


def flat_rows(document: Document) -> Rows:
    """A flat mapping for each result, the same keys in each."""
    rows = []
    for row in document["results"]:
        floor = row.get("floor", {})
        rows.append(
            {
                "model": document["model"],
                "energies": document["energies"],
                **run_columns(document),
                **{key: value for key, value in row.items() if not isinstance(value, (list, dict))},
                **dict(zip(("quartile_low_ms", "quartile_high_ms"), row["quartiles_ms"], strict=True)),
                **dict(zip(("extra_us", "extra_us_low", "extra_us_high"), row["extra_us"], strict=True)),
                "floor_bytes": floor.get("bytes"),
                "floor_multiply_adds": floor.get("multiply_adds"),
            }
        )
    return rows


def run_columns(document: Document) -> dict[str, Any]:
    """What tells rows of one run from those of another, beside the model."""
    return {
        "threads": document["threads"],
        "clock": document["clock"],
        "cpu": document["machine"]["cpu"],
        "edge_eds": document["versions"]["edge-eds"],
        "llama_cpp_python": document["versions"]["llama-cpp-python"],
    }


def csv_text(rows: Rows) -> str:
    """With a line of names."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().removesuffix("\n")


def json_lines(rows: Rows) -> str:
    """A line for each row."""
    return "\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)


def sql(rows: Rows, table_name: str) -> str:
    """Statements that make the table where there is none, and add the rows."""
    if not rows:
        return ""
    columns = ", ".join(f"{name} {_sql_type(rows, name)}" for name in rows[0])
    names = ", ".join(rows[0])
    lines = [f"CREATE TABLE IF NOT EXISTS {table_name} ({columns});"]
    for row in rows:
        lines.append(f"INSERT INTO {table_name} ({names}) VALUES ({', '.join(map(_sql_value, row.values()))});")
    return "\n".join(lines)


def formats(
    for_people: Callable[[Document], str], rows: Callable[[Document], Rows], table_name: str
) -> dict[str, Callable[[Document], str]]:
    """Every format, by its name."""
    return {
        "md": for_people,
        "csv": lambda document: csv_text(rows(document)),
        "json": lambda document: json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False),
        "jsonl": lambda document: json_lines(rows(document)),
        "sql": lambda document: sql(rows(document), table_name),
    }


FORMATS = formats(markdown, flat_rows, "edge_eds_bench")


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], n_left: int) -> list[str]:
    """Lines of a Markdown table that is aligned for readers of plain text, too; n_left columns hold words."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]

    def line(cells: tuple[str, ...]) -> str:
        padded = (
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    ruler = "|".join("-" * (width + 2) if i < n_left else "-" * (width + 1) + ":" for i, width in enumerate(widths))
    return [line(heads), f"|{ruler}|", *map(line, rows)]


def conditions(document: Document) -> str:
    """One line: threads, machine, load and versions."""
    machine, busy = document["machine"], document["busy_cpus_of_others"]["during"]
    load = "not known" if busy is None else f"{busy:.2f} CPUs"
    threads = f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}"
    return (
        f"{threads}, {document['clock']} time, {machine['cpu']} ({machine['cpus']} CPUs), load of others {load}, "
        f"edge-eds {document['versions']['edge-eds']}, llama-cpp-python {document['versions']['llama-cpp-python']}"
    )


def _machine(document: Document) -> str:
    return f"{document['model']}, {conditions(document)}, energies {document['energies']}"


def _ratio(row: Mapping[str, Any]) -> str:
    return f"{row['ratio_to_plain']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"


def _extra(row: Mapping[str, Any]) -> str:
    value, low, high = row["extra_us"]
    return f"{value:.0f} ({low:.0f} to {high:.0f})"


def _change(row: Mapping[str, Any], then: Mapping[str, Any] | None) -> str:
    if then is None:
        return "new"
    if row["ratio_low"] > then["ratio_high"]:
        return "slower"
    return "faster" if row["ratio_high"] < then["ratio_low"] else "the same within the noise"


def _cost(peer: str, test: str, cost: Mapping[str, float | None]) -> str:
    value, low, high = cost["value"], cost["low"], cost["high"]
    if value is None:
        return f"What steering costs beside {peer} at {test}: not told apart from nothing."
    least = "0" if low is None else f"1/{1 / low:.0f}"
    most = "not bounded" if high is None else f"1/{1 / high:.0f}"
    return f"Steering by steer-15x3 costs 1/{1 / value:.0f} of what {peer} takes at {test} (from {least} to {most})."


def _sql_type(rows: Rows, name: str) -> str:
    kinds = {type(row[name]) for row in rows} - {type(None)}
    if kinds <= {int}:
        return "INTEGER"
    return "REAL" if kinds <= {int, float} else "TEXT"


def _sql_value(value: object) -> str:
    if value is None:
        return "NULL"
    return repr(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"
