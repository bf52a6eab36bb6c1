"""What starting costs, as text. Takes the document of `bench --start --json`."""

from __future__ import annotations

from edge_eds.files import size_text
from edge_eds.reports.bench import Document, Rows, conditions, formats, run_columns, table
from edge_eds.reports.numerals import NOTHING

_MB = 1e6


def markdown(document: Document) -> str:
    """A table for people."""
    rows = []
    for row in document["start"]:
        seconds = "{:.3f} ({:.3f} to {:.3f})".format(*row["extra_seconds"])
        memory = NOTHING
        if row["extra_bytes"] is not None:
            memory = "{:.1f} ({:.1f} to {:.1f})".format(*(value / _MB for value in row["extra_bytes"]))
        rows.append((row["variant"], row["peer"], f"{row['seconds']:.3f}", seconds, memory))
    first, size = document["start"][0], document["energy_bytes"]
    heads = ("program", "beside", "seconds to the first byte", "more than beside", "more memory, MB")
    return "\n".join(
        [
            f"{document['model']}, {conditions(document)}",
            "",
            *table(heads, rows, n_left=2),
            "",
            f"Medians of {first['pairs']} interleaved pairs; in brackets the {100 * first['confidence']:.0f} % "
            f"interval of the median. Energies: {size_text(size) if size else 'none'}.",
        ]
    )


def rows(document: Document) -> Rows:
    """A flat mapping for each program."""
    flat = []
    for row in document["start"]:
        seconds, memory = row["extra_seconds"], row["extra_bytes"] or [None] * 3
        flat.append(
            {
                "model": document["model"],
                **run_columns(document),
                **{key: value for key, value in row.items() if key not in ("extra_seconds", "extra_bytes")},
                **dict(zip(("extra_seconds", "extra_seconds_low", "extra_seconds_high"), seconds, strict=True)),
                **dict(zip(("extra_bytes", "extra_bytes_low", "extra_bytes_high"), memory, strict=True)),
                "energy_bytes": document["energy_bytes"],
            }
        )
    return flat


START_FORMATS = formats(markdown, rows, "edge_eds_start")
