"""From settings to what the native hook does: one HookProgram for steering, one for interventions.

Takes an energy file with a user's wish, or a mapping of interventions; gives a HookProgram, which builds the
native program on demand (capture adds buffers to the same program). Leaves out when it runs (session.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_eds import _native
from edge_eds.energy.engines import native_layer_energy, takes_native
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import GATE_HEADS, HeadWeights, LayerEnergy, Subspace
from edge_eds.energy.outlook import OutlookSpec
from edge_eds.energy.settings import Steering, SteeringSpec
from edge_eds.errors import SettingsError, SteeringError
from edge_eds.runtime.interventions import (
    AblateDirection,
    AddLowRank,
    AddVector,
    EnergyDescent,
    FloatArray,
    Intervention,
    PythonFunction,
)
from edge_eds.runtime.onnx_steering import OnnxSteering

_SCOPES = {"all": "all", "answer": "planned"}
Captures = Mapping[int, npt.NDArray[np.float32]]  # layer -> (n_rows, n_embd)


@dataclass(frozen=True, eq=False)
class HookProgram:
    """What the hook does to the rows of a decode.

    layers: the layers that it reads or writes.
    steers_answers: some of it happens at the rows of an answer only, so what was written differs from row to
    row. is_steering: it is the energy steering of a session, not an intervention.
    answers_only: it writes no row before a prompt's last token.
    n_tokens: how many tokens of an answer it acts on, from the prompt's end on; 0 is all of them.
    reads_message: the rows of the message have to be planned, too (offsets below 0). message_reads: layer -> the
    subspace and the head with which they are read, where the native core reads them.
    outlook: an answer is steered only where the plain model is about to do what it should not; None: in any case.
    host: the Python side of the onnx engine, or None.
    repeatable: the same rows are edited in the same way again; a Python function may do anything.
    key: programs of one session with equal keys do the same, so that they may share rows of a KV cache.
    """

    layers: tuple[int, ...]
    steers_answers: bool
    is_steering: bool
    fill: Callable[[_native.Program], None]
    answers_only: bool = False
    n_tokens: int = 0
    reads_message: bool = False
    message_reads: Mapping[int, tuple[Subspace | None, HeadWeights]] = field(default_factory=dict)
    outlook: OutlookSpec | None = None
    host: OnnxSteering | None = None
    repeatable: bool = True
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def acts_at(self, offset: int) -> bool:
        """Whether it has to be told of the row that lies `offset` tokens after the prompt's end."""
        return not self.n_tokens or offset < self.n_tokens

    def native(self) -> _native.Program:
        """The native program."""
        program = _native.Program()
        self.fill(program)
        return program


def capturing(hook_program: HookProgram | None, captures: Iterable[tuple[Captures, str]]) -> _native.Program:
    """A native program that, after everything that `hook_program` does, copies rows of one decode.

    Args:
        captures: where to, and which rows: "all", "planned" (the answers') or "message".
    """
    program = _native.Program() if hook_program is None else hook_program.native()
    for buffers, scope in captures:
        for il, out in buffers.items():
            program.capture(il, out, scope)
    return program


def steering_program(file: EnergyFile, steering: Steering) -> HookProgram | None:
    """The program for one wish, or None for strength 0.

    Raises:
        SettingsError: the wish does not fit the energy file, or asks for an engine that cannot run it.
    """
    spec, strength = file.resolve(steering)
    if strength == 0:
        return None
    if spec.step_size * strength > float(np.finfo(np.float32).max):
        raise SettingsError(f"step_size {spec.step_size:g} times strength {strength:g} is too large")
    layers = tuple(sorted({*spec.layers, *(spec.gate.layers if spec.gate else ())}))
    if steering.engine == "native" and not takes_native(file):
        raise SettingsError(
            "the engine native runs energies of the form that edge-eds exports, and this file has another; "
            "choose the engine onnx"
        )
    host = OnnxSteering(file, spec, strength) if steering.engine == "onnx" or not takes_native(file) else None
    fill = host.fill if host else _native_filler(file, spec, strength)
    key = f"{'onnx' if host else 'native'} {strength} {spec.to_json()}"
    return HookProgram(
        layers,
        steers_answers=True,
        is_steering=True,
        fill=fill,
        answers_only=True,
        n_tokens=spec.n_tokens,
        reads_message=spec.gate is not None and spec.gate.reads_message,
        message_reads={} if host else _message_reads(file, spec),
        outlook=spec.outlook,
        host=host,
        key=key,
    )


def share_prompts(programs: Sequence[HookProgram | None]) -> bool:
    """Whether rows before a prompt's last token are the same under all of these, and read by all in the same way."""
    there = [program for program in programs if program is not None]
    reading = [program for program in there if program.reads_message]
    return all(program.answers_only for program in there) and all(
        program.message_reads and _same_reads(program.message_reads, reading[0].message_reads) for program in reading
    )


def _same_reads(
    some: Mapping[int, tuple[Subspace | None, HeadWeights]], others: Mapping[int, tuple[Subspace | None, HeadWeights]]
) -> bool:
    return some.keys() == others.keys() and all(
        part is other for il in some for part, other in zip(some[il], others[il], strict=True)
    )


def _message_reads(file: EnergyFile, spec: SteeringSpec) -> dict[int, tuple[Subspace | None, HeadWeights]]:
    if spec.gate is None or file.energies is None:
        return {}
    layers = {il: file.energies.layers[il] for il in spec.gate.message_weights}
    return {il: (layer.subspace, layer.heads[GATE_HEADS[1]]) for il, layer in layers.items()}


def _native_filler(
    file: EnergyFile, spec: SteeringSpec, strength: float
) -> Callable[[_native.Program], None]:
    """Converts the weights once; the function returned can fill any number of programs with them."""
    assert file.energies is not None
    layers = file.energies.layers
    gate_energies = {il: _native_energy(layers[il], GATE_HEADS) for il in (spec.gate.layers if spec.gate else ())}
    energies = {il: _native_energy(layers[il], spec.heads) for il in spec.layers}

    def fill(program: _native.Program) -> None:
        if spec.gate is not None:
            program.set_gate(spec.gate.bias, spec.gate.benign, spec.gate.harmful)
            for il, weight in spec.gate.weights.items():
                program.gate_read(il, gate_energies[il], weight)
            for il, weight in spec.gate.message_weights.items():
                program.message_read(il, gate_energies[il], weight)
        program.set_descent(
            step_size=spec.step_size * strength,
            steps=spec.steps,
            relative=spec.relative,
            covariance=spec.covariance,
            n_tokens=spec.n_tokens,
            decay=spec.decay,
            max_shift=spec.max_shift,
        )
        for il in spec.layers:
            program.energy_descent(
                il, energies[il], _of_layer(spec.thresholds, il), _of_layer(spec.targets, il)
            )

    return fill


def _native_energy(layer: LayerEnergy, heads: Sequence[str]) -> _native.LayerEnergy:
    """The layer with these heads only: the native core descends any head that it is given."""
    return native_layer_energy(
        LayerEnergy(
            layer.il, layer.subspace, {head: layer.heads[head] for head in heads if head in layer.heads}
        )
    )


def _of_layer(by_head: Mapping[str, Mapping[int, float]], il: int) -> dict[str, float]:
    return {head: by_layer[il] for head, by_layer in by_head.items() if il in by_layer}


def intervention_program(interventions: Mapping[int, Sequence[Intervention]], n_embd: int) -> HookProgram:
    """The program of interventions by layer, applied in the order given.

    Raises:
        SettingsError: a vector or an energy of another width than the model's; descents with different steps.
    """
    descents: list[EnergyDescent] = []
    steers_answers, answers_only, repeatable = False, True, True
    for il, sequence in interventions.items():
        for intervention in sequence:
            _check_width(il, intervention, n_embd)
            if isinstance(intervention, AddVector | AblateDirection | AddLowRank | EnergyDescent):
                steers_answers |= intervention.rows == "answer"
                answers_only &= intervention.rows == "answer"
            else:
                answers_only = repeatable = False
            if isinstance(intervention, EnergyDescent):
                descents.append(intervention)
    if len({descent.schedule for descent in descents}) > 1:
        raise SettingsError(
            "the EnergyDescents of one `intervening` share steps, step_size, relative, covariance and "
            "max_shift; found different ones"
        )

    def fill(program: _native.Program) -> None:
        if descents:
            first = descents[0]
            program.set_descent(
                step_size=first.step_size,
                steps=first.steps,
                relative=first.relative,
                covariance=first.covariance,
                n_tokens=0,
                decay=1.0,
                max_shift=first.max_shift,
            )
        for il, sequence in interventions.items():
            for intervention in sequence:
                _add(program, il, intervention)

    return HookProgram(
        tuple(interventions),
        steers_answers,
        is_steering=False,
        fill=fill,
        answers_only=answers_only,
        repeatable=repeatable,
    )


def _check_width(il: int, intervention: Intervention, n_embd: int) -> None:
    if isinstance(intervention, AddVector):
        width = np.size(intervention.vector)
    elif isinstance(intervention, AblateDirection):
        width = np.size(intervention.direction)
    elif isinstance(intervention, AddLowRank):
        width = np.shape(intervention.down)[1]
    elif isinstance(intervention, EnergyDescent):
        width = intervention.energy.n_embd
    elif callable(intervention):
        return
    else:
        raise SettingsError(
            f"layer {il}: expected AddVector, AblateDirection, AddLowRank, EnergyDescent or a function, "
            f"found {type(intervention).__name__}"
        )
    if width != n_embd:
        raise SettingsError(
            f"layer {il}: {type(intervention).__name__} is {width} wide, expected n_embd = {n_embd}"
        )


def _add(program: _native.Program, il: int, intervention: Intervention) -> None:
    if isinstance(intervention, AddVector):
        program.add_vector(il, intervention.scaled, _SCOPES[intervention.rows])
    elif isinstance(intervention, AblateDirection):
        program.ablate_direction(il, intervention.unit, intervention.amount, _SCOPES[intervention.rows])
    elif isinstance(intervention, AddLowRank):
        program.add_low_rank(il, *intervention.matrices, _SCOPES[intervention.rows])
    elif isinstance(intervention, EnergyDescent):
        # Without a gate the native core descends the head "merged" at every row of an answer.
        head = intervention.energy.heads[intervention.head]
        alone = LayerEnergy(intervention.energy.il, intervention.energy.subspace, {"merged": head})
        program.energy_descent(il, native_layer_energy(alone), {"merged": intervention.threshold}, {})
    else:
        program.host_function(il, _checked(il, intervention), "all")


def _checked(il: int, function: PythonFunction) -> PythonFunction:
    """The function, with an error that says what is wrong with what it returns."""

    def edit(rows: FloatArray) -> FloatArray | None:
        result = function(rows)
        if result is None:
            return None
        edited = np.asarray(result)
        if edited.shape != rows.shape or edited.dtype.kind not in "fiu":
            raise SteeringError(
                f"layer {il}: the function was given rows of shape {rows.shape} and returned "
                f"{type(result).__name__} of shape {edited.shape}; expected None or as many numbers"
            )
        return np.ascontiguousarray(edited, dtype=np.float32)

    return edit
