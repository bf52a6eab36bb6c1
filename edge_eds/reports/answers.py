"""How fast many prompts are answered, as text. Takes the document of `bench --answers N --json`."""

from __future__ import annotations

from edge_eds.reports.bench import Document, Rows, conditions, formats, run_columns, table


def markdown(document: Document) -> str:
    """A table for people."""
    rows = []
    for row in document["answers"]:
        value, low, high = row["times_as_many"]
        times = f"{value:.2f} ({low:.2f} to {high:.2f})"
        same = f"{row['same_as_loop']} of {row['of']}"
        rows.append((row["variant"], f"{row['answers_per_minute']:.0f}", row["beside"], times, same))
    first = document["answers"][0]
    return "\n".join(
        [
            f"{document['model']}, {conditions(document)}",
            "",
            *table(("variant", "answers a minute", "beside", "times as many", "the same answers"), rows, n_left=1),
            "",
            f"{document['prompts']} prompts, {document['new_tokens']} new tokens at most. Medians of {first['pairs']} "
            f"interleaved pairs; in brackets the {100 * first['confidence']:.0f} % interval of the median.",
        ]
    )


def rows(document: Document) -> Rows:
    """A flat mapping for each variant."""
    return [
        {
            "model": document["model"],
            "prompts": document["prompts"],
            "new_tokens": document["new_tokens"],
            **run_columns(document),
            **{key: value for key, value in row.items() if not isinstance(value, list)},
            **dict(zip(("times_as_many", "times_low", "times_high"), row["times_as_many"], strict=True)),
        }
        for row in document["answers"]
    ]


ANSWERS_FORMATS = formats(markdown, rows, "edge_eds_answers")
