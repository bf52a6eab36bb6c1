"""Steering with the energies evaluated by ONNX Runtime: any ONNX file with our inputs and outputs.

The same steering as the native core's, for graphs that the native core does not know and for comparing the
two. The hook calls back into Python for the rows of each layer, so it is slow, and asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edge_eds import _native
from edge_eds.energy.engines import OnnxEngine
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import HEADS, Subspace, descend
from edge_eds.energy.settings import GateSpec, SteeringSpec
from edge_eds.errors import SteeringError
from edge_eds.runtime.trace import DECISIONS, taken_of

_BENIGN, _HARMFUL = DECISIONS.index("benign"), DECISIONS.index("harmful")
_UNGATED, _UNCERTAIN = DECISIONS.index("ungated"), DECISIONS.index("uncertain")
_HEAD_OF_DECISION = {_BENIGN: "fr", _HARMFUL: "jb", _UNGATED: "merged"}
FloatArray = npt.NDArray[np.float32]


class OnnxSteering:
    """One energy file with resolved settings, driven row by row from the hook.

    `begin` is told the listed rows of each decode; the hook then calls the functions of each layer with
    those rows, in order, possibly in several pieces (ubatches): one with the answers' rows, one with the messages'.
    """

    def __init__(self, file: EnergyFile, spec: SteeringSpec, strength: float) -> None:
        self._spec, self._strength = spec, strength
        self._engine = OnnxEngine(file)
        self._subspaces: dict[int, Subspace | None] = {
            il: file.energies.layers[il].subspace if file.energies is not None and spec.covariance else None
            for il in spec.layers
        }
        self._heads = file.heads
        self._steered_heads = {head for il in spec.layers for head in self._heads[il] if head in spec.heads}
        self._slots = np.zeros(0, np.int32)  # of the answers' rows of the running decode, and their offsets
        self._offsets = np.zeros(0, np.int32)
        self._message_slots = np.zeros(0, np.int32)
        self._cursor: dict[tuple[str, int], int] = {}
        self._messages: dict[tuple[int, int], list[float]] = {}  # (slot, layer) -> energies of the message so far
        self._messages_before: dict[tuple[int, int], int] = {}  # how many of them before the running decode
        self._scores: dict[int, float] = {}
        self._decisions: dict[int, int] = {}
        self._held: set[int] = set()
        self._records: list[tuple[int, int, int, int, float, float, int, float]] = []

    def fill(self, program: _native.Program) -> None:
        """Register this object's layer functions with a native program."""
        for il in self._spec.gate.message_weights if self._spec.gate else ():
            program.host_function(il, self._message_function(il), "message")
        for il, function in self.layer_functions().items():
            program.host_function(il, function, "planned")

    def layer_functions(self) -> dict[int, Callable[[FloatArray], None]]:
        """For each layer that is read or written, what to call with the answers' rows there; it edits them in place."""
        gate_layers = self._spec.gate.layers if self._spec.gate else ()
        return {il: self._layer_function(il) for il in sorted({*gate_layers, *self._spec.layers})}

    def begin(self, slots: npt.NDArray[np.int32], offsets: npt.NDArray[np.int32]) -> None:
        """Announce the listed rows (m,) of the coming decode, in row order: the answers' and, with negative offsets,
        the messages'.

        Raises:
            SteeringError: an answer goes on whose gate was never read.
        """
        is_message = offsets < 0
        self._slots, self._offsets = slots[~is_message], offsets[~is_message]
        self._message_slots = slots[is_message]
        self._messages_before = {place: len(energies) for place, energies in self._messages.items()}
        self._cursor = {}
        for slot, offset in zip(self._slots.tolist(), self._offsets.tolist(), strict=True):
            if offset == 0:
                self._decisions.pop(slot, None)
                self._scores[slot] = self._spec.gate.bias if self._spec.gate else 0.0
            elif self._spec.gate is not None and slot not in self._scores and self._steers(offset):
                raise SteeringError(
                    f"steering did not happen: the answer goes on at offset {offset}, but its gate was never "
                    "read: decode the prompt's last token under these settings first"
                )

    def reset_slot(self, slot: int) -> None:
        """Forget the gate's decision of this answer, and what it read of the message; hold it no longer."""
        self._held.discard(slot)
        self._scores.pop(slot, None)
        self._decisions.pop(slot, None)
        self._messages = {place: energies for place, energies in self._messages.items() if place[0] != slot}

    def hold_slot(self, slot: int, held: bool) -> None:
        """While a slot is held, energies are read and traced, and no row is descended."""
        (self._held.add if held else self._held.discard)(slot)

    def take_back(self) -> None:
        """The running decode failed: its rows were not read, and left no records."""
        self._records = []
        self._messages = {place: self._messages[place][:n] for place, n in self._messages_before.items()}

    def gate_state(self, slot: int) -> tuple[bool, float, int]:
        """(read, score, decision) of an answer, as the native hook gives it."""
        read = slot in self._decisions
        return read, self._scores.get(slot, 0.0), self._decisions.get(slot, _UNCERTAIN)

    def take_trace(self) -> bytes:
        """Records since the last call, as the native hook gives them."""
        records, self._records = self._records, []
        return taken_of(records)

    def _layer_function(self, il: int) -> Callable[[FloatArray], None]:
        def edit(rows: FloatArray) -> None:
            first = self._advance("answer", il, len(rows))
            for i in range(len(rows)):
                row = rows[i : i + 1]
                with np.errstate(over="ignore", invalid="ignore"):  # descend raises for what is not finite
                    self._edit_row(il, int(self._slots[first + i]), int(self._offsets[first + i]), row)

        return edit

    def _message_function(self, il: int) -> Callable[[FloatArray], None]:
        def read(rows: FloatArray) -> None:
            first = self._advance("message", il, len(rows))
            energies = self._engine.energy(il, "harm_message", rows)
            for i, energy in enumerate(energies.tolist()):
                self._messages.setdefault((int(self._message_slots[first + i]), il), []).append(energy)

        return read

    def _advance(self, what: str, il: int, n: int) -> int:
        """How many rows this layer's function had been given before these n."""
        first = self._cursor.get((what, il), 0)
        self._cursor[what, il] = first + n
        return first

    def _read_gate(self, gate: GateSpec, il: int, slot: int, row: FloatArray) -> None:
        """Add what this layer says to the score, at the prompt's end."""
        for head, weights in gate.by_head.items():
            if il not in weights:
                continue
            message = self._messages.get((slot, il)) if head == "harm_message" else None
            energy = float(np.mean(message or self._engine.energy(il, head, row), dtype=np.float64))
            self._scores[slot] += weights[il] * energy
            self._records.append((slot, 0, il, HEADS.index(head), energy, energy, 0, 0.0))

    def _edit_row(self, il: int, slot: int, offset: int, row: FloatArray) -> None:
        spec = self._spec
        if spec.gate is not None and offset == 0 and il in spec.gate.layers:
            self._read_gate(spec.gate, il, slot, row)
        if il not in spec.layers or not self._steers(offset):
            return
        head = _HEAD_OF_DECISION.get(self._decide(slot))
        if head is None or head not in spec.heads or head not in self._heads[il]:
            return
        step_size = spec.step_size * self._strength * spec.decay**offset
        result = descend(
            lambda rows: self._engine.energy_and_gradient(il, head, rows.astype(np.float32)),
            row.copy(),
            subspace=self._subspaces[il],
            step_size=step_size,
            steps=spec.steps,
            relative=spec.relative,
            max_shift=spec.max_shift,
            threshold=np.inf if slot in self._held else spec.thresholds.get(head, {}).get(il),
            target=spec.targets.get(head, {}).get(il),
        )
        if result.steps[0]:
            row[:] = result.H
        self._records.append(
            (
                slot, offset, il, HEADS.index(head), float(result.energy_before[0]),
                float(result.energy_after[0]), int(result.steps[0]), float(result.shift[0]),
            )
        )  # fmt: skip

    def _steers(self, offset: int) -> bool:
        spec = self._spec
        return (offset < spec.n_tokens or not spec.n_tokens) and (spec.decay > 0 or offset == 0)

    def _decide(self, slot: int) -> int:
        """The decision for an answer; all of its gate layers lie at or below the first that asks."""
        if slot not in self._decisions:
            gate, decision = self._spec.gate, _UNCERTAIN
            if gate is None:
                decision = _UNGATED
            elif self._scores[slot] <= gate.benign:
                decision = _BENIGN
            elif self._scores[slot] >= gate.harmful:
                decision = _HARMFUL
            # The native core, too, has no decision to descend a head that no layer has.
            if decision != _UNCERTAIN and _HEAD_OF_DECISION[decision] not in self._steered_heads:
                decision = _UNCERTAIN
            self._decisions[slot] = decision
        return self._decisions[slot]
