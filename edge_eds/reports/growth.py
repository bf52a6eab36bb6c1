"""How the cost of steering grows, as text: the table, the model that predicts it, and what it says of larger models.

Takes the document of `bench --growth --json`.
"""

from __future__ import annotations

from edge_eds.reports.bench import Document, Rows, conditions, formats, run_columns, table

AXES = {
    "layers": "steered layers",
    "steps": "steps",
    "rank": "rank of the subspace",
    "n_embd": "n_embd",
    "batch": "rows steered in one decode",
    "prompt": "tokens of the prompt",
}


def markdown(document: Document) -> str:
    """Tables for people."""
    heads = ("what is varied", "value", "extra us a decode", "predicted", "plain ms", "ratio to plain")
    rows = []
    for row in document["growth"]:
        extra, low, high = row["extra_us"]
        ratio, ratio_low, ratio_high = row["ratio_to_plain"]
        rows.append(
            (
                AXES[row["axis"]],
                str(row["value"]),
                f"{extra:.0f} ({low:.0f} to {high:.0f})",
                f"{row['predicted_us']:.0f}",
                f"{row['plain_ms']:.1f}",
                f"{ratio:.3f} ({ratio_low:.3f} to {ratio_high:.3f})",
            )
        )
    return "\n".join(
        [
            conditions(document),
            "",
            *table(heads, rows, n_left=1),
            "",
            formula(document),
            "",
            *table(_PREDICTION_HEADS, _predictions(document), n_left=1),
        ]
    )


def formula(document: Document) -> str:
    """The model in one sentence."""
    cost, speed = document["cost_model"], document["plain_bytes_per_second"] / 1e9
    return (
        f"Extra us of a decode = {cost['us_per_decode']:.3g} + {cost['us_per_layer']:.3g} a steered layer "
        f"+ {cost['us_per_row']:.3g} a row and layer + {cost['us_per_megabyte']:.3g} a megabyte of weights read "
        f"+ {cost['us_per_million_multiply_adds']:.3g} a million multiply-adds. "
        f"Plain decodes read {speed:.3g} GB of weights a second."
    )


_PREDICTION_HEADS = ("predicted for", "layers x steps", "plain ms a token", "extra us a token", "ratio to plain")


def _predictions(document: Document) -> list[tuple[str, ...]]:
    return [
        (
            said["shape"],
            f"{said['layers']} x {said['steps']}",
            f"{said['plain_ms']:.0f}",
            f"{said['extra_us']:.0f}",
            f"{said['ratio_to_plain']:.4f}",
        )
        for said in document["predictions"]
    ]


def flat_rows(document: Document) -> Rows:
    """A flat mapping for each measured point."""
    return [
        {
            **run_columns(document),
            **{key: value for key, value in row.items() if not isinstance(value, list)},
            **dict(zip(("extra_us", "extra_us_low", "extra_us_high"), row["extra_us"], strict=True)),
            **dict(zip(("ratio", "ratio_low", "ratio_high"), row["ratio_to_plain"], strict=True)),
        }
        for row in document["growth"]
    ]


GROWTH_FORMATS = formats(markdown, flat_rows, "edge_eds_growth")
