"""What steering did to one answer: per token and layer, the energy before and after.

Filled by the session while it decodes; read through `EdgeLlama.last_trace`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np

from edge_eds.energy.network import GATE_HEADS, HEADS

_GATE_NUMBERS = [HEADS.index(head) for head in GATE_HEADS]
DECISIONS = ("uncertain", "benign", "harmful", "ungated")  # by the native core's decision number 0..3

Records = np.ndarray[Any, np.dtype[Any]]
TRACE_DTYPE = np.dtype(  # trace_record of native/src/trace.h
    [
        ("slot", "i4"),
        ("offset", "i4"),  # 0 = the prompt's last token, 1 = the first new token
        ("layer", "i4"),
        ("head", "i4"),  # index into HEADS
        ("energy_before", "f4"),
        ("energy_after", "f4"),
        ("steps", "i4"),
        ("shift", "f4"),  # |h_after - h_before| / |h_before|
    ]
)


@dataclass(frozen=True)
class TokenTrace:
    """The descent at one token: mean energies over the steered layers."""

    offset: int
    energy_before: float
    energy_after: float
    shift: float  # largest over the layers
    touched: bool  # any layer was written


@dataclass(eq=False)
class Trace:
    """The trace of one answer.

    taken: what `take_trace` gave so far.
    gate: "benign" (E_fr is descended), "harmful" (E_jb is descended), "uncertain" (nothing is), "ungated", or None
    while it has not been read.
    gate_score: what the gate compared with its thresholds; None without a gate.
    refusal_in_sight: whether the plain model was about to refuse; None where nothing asked.
    """

    taken: InitVar[bytes] = b""
    gate: str | None = None
    gate_score: float | None = None
    refusal_in_sight: bool | None = None
    _taken: list[bytes] = field(init=False, repr=False)  # of each decode; records when asked for, not at each token

    def __post_init__(self, taken: bytes) -> None:
        self._taken = [taken]

    @property
    def records(self) -> Records:
        """Every reading and descent: (n,) of TRACE_DTYPE."""
        self._taken = [b"".join(self._taken)]
        return records_of(self._taken[0])

    def append(self, taken: bytes) -> None:
        """Add what `take_trace` gave after one decode."""
        self._taken.append(taken)

    def rewind(self, offset: int) -> None:
        """Forget the tokens from this offset on: their rows are decoded again, perhaps as other tokens."""
        records = self.records
        self._taken = [records[records["offset"] < offset].tobytes()]

    def note_gate(self, read: bool, score: float, decision: int) -> None:
        """Take over what the hook says of the gate: an index into DECISIONS, and the score if it was read."""
        if DECISIONS[decision] == "ungated":
            self.gate = "ungated"
        elif read:
            self.gate, self.gate_score = DECISIONS[decision], score

    @property
    def descents(self) -> Records:
        """Records of descents, without the gate's readings."""
        records: Records = self.records[~np.isin(self.records["head"], _GATE_NUMBERS)]
        return records

    @property
    def touched_tokens(self) -> int:
        """Tokens at which at least one layer was written."""
        descents = self.descents
        return len(np.unique(descents["offset"][descents["steps"] > 0]))

    @property
    def energy_before(self) -> float | None:
        """Mean energy before the descent over everything that was written; None if nothing was."""
        return self._mean("energy_before")

    @property
    def energy_after(self) -> float | None:
        """Mean energy after the descent over everything that was written; None if nothing was."""
        return self._mean("energy_after")

    def tokens(self) -> list[TokenTrace]:
        """One entry for each token at which an energy was read, in order."""
        descents = self.descents
        return [
            self._token(descents[descents["offset"] == offset]) for offset in np.unique(descents["offset"])
        ]

    def _mean(self, name: str) -> float | None:
        written = self.descents[self.descents["steps"] > 0]
        return float(written[name].mean()) if len(written) else None

    @staticmethod
    def _token(records: Records) -> TokenTrace:
        return TokenTrace(
            offset=int(records["offset"][0]),
            energy_before=float(records["energy_before"].mean()),
            energy_after=float(records["energy_after"].mean()),
            shift=float(records["shift"].max()),
            touched=bool((records["steps"] > 0).any()),
        )


def records_of(taken: bytes) -> Records:
    """What `take_trace` gave as records (n,)."""
    return np.frombuffer(taken, TRACE_DTYPE)


def taken_of(rows: Iterable[tuple[Any, ...]]) -> bytes:
    """What `take_trace` gives for records as tuples in TRACE_DTYPE's order."""
    return np.array(list(rows), dtype=TRACE_DTYPE).tobytes()
