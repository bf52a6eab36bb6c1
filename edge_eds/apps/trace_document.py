"""What steering did to an answer, as a document: what `run --json` says of it, and every token whose energy was read.

Takes the session's trace and the text of each token; gives what JSON can hold. docs/server.md describes its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_eds.apps.answer import SteeringReport
from edge_eds.energy.network import HEADS
from edge_eds.energy.settings import SteeringSpec
from edge_eds.runtime.trace import Trace


def trace_document(trace: Trace, pieces: Sequence[str], strength: float, spec: SteeringSpec | None) -> dict[str, Any]:
    """The document. pieces: the text of each token of the answer; spec: what the energies were tuned to.

    offset 0 is the prompt's end, offset k the k-th token of the answer. threshold None: there is none.
    """
    report = SteeringReport.of(trace)
    descents = trace.descents
    tokens = []
    for token in report.tokens:
        layers = [
            {
                "layer": int(record["layer"]),
                "head": HEADS[record["head"]],
                "energy_before": float(record["energy_before"]),
                "energy_after": float(record["energy_after"]),
                "threshold": threshold_of(spec, HEADS[record["head"]], int(record["layer"])),
                "steps": int(record["steps"]),
                "shift": float(record["shift"]),
            }
            for record in descents[descents["offset"] == token.offset]
        ]
        tokens.append(
            {
                "offset": token.offset,
                "text": pieces[token.offset - 1] if 0 < token.offset <= len(pieces) else None,
                "energy_before": token.energy_before,
                "energy_after": token.energy_after,
                "shift": token.shift,
                "touched": token.touched,
                "layers": layers,
            }
        )
    return {"strength": strength, **report.document(), "tokens": tokens}


def threshold_of(spec: SteeringSpec | None, head: str, il: int) -> float | None:
    """The energy above which a row is written; None where there is no such bound."""
    return None if spec is None else spec.thresholds.get(head, {}).get(il)
