"""Steering only where the plain model is about to do wrong: the first look at an answer.

The prompt's end is decoded with its slot held: the gate is read, nothing is written, and the logits are the plain
model's. Where they and the gate disagree (benign and about to refuse, harmful and about to answer), the slot is
released and the prompt's last token decoded again, steered. Everything else keeps the plain model's bits.

Who decodes calls `reset_slot` before an answer and `look` at its first logits, and decodes the prompt's last token
again where that says so. Leaves out the KV cache's rows.
"""

from __future__ import annotations

from edge_eds import _native
from edge_eds.energy.outlook import FloatArray
from edge_eds.runtime.program import HookProgram
from edge_eds.runtime.trace import DECISIONS, Trace

_BENIGN, _HARMFUL = DECISIONS.index("benign"), DECISIONS.index("harmful")


def reset_slot(hook: _native.Hook, program: HookProgram | None, slot: int) -> None:
    """Forget what was read of a slot's last answer, in the core and where Python steers; hold it if the program looks
    first.
    """
    hook.reset_slot(slot)
    if program is not None and program.host is not None:
        program.host.reset_slot(slot)
    hold(hook, program, slot)


def hold(hook: _native.Hook, program: HookProgram | None, slot: int) -> None:
    """Hold a slot for the first look, if the program takes one."""
    _hold(hook, program, slot, program is not None and program.outlook is not None)


def look(hook: _native.Hook, program: HookProgram, slot: int, logits: FloatArray, trace: Trace) -> bool:
    """Whether an answer that was held is to be steered, by the gate and the plain logits (n_vocab,) of its first token;
    then its slot is released.

    What is in sight is noted in its trace. A program without an outlook has nothing to look for.
    """
    if program.outlook is None:
        return False
    trace.refusal_in_sight = program.outlook.refuses(logits)
    _, _, decision = (program.host or hook).gate_state(slot)
    if decision != (_BENIGN if trace.refusal_in_sight else _HARMFUL):
        return False
    _hold(hook, program, slot, False)
    return True


def _hold(hook: _native.Hook, program: HookProgram | None, slot: int, held: bool) -> None:
    hook.hold_slot(slot, held)
    if program is not None and program.host is not None:
        program.host.hold_slot(slot, held)
