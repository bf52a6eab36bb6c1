"""What a method ends with: a frozen way to steer, which can be saved, loaded, and given to a BatchRunner.

    EnergySteerer        an energy file: chat, run and eval take it with --energy        *.energy.onnx
    VectorSteerer        a control vector at all rows: llama.cpp takes it as it is       *.control-vector.gguf
    InterventionSteerer  directions to ablate, linear maps of low rank                   *.interventions.npz
    PromptSteerer        a system prompt                                                 *.system.txt
    AdapterSteerer       another LoRA adapter in place of the model's own                *.lora.gguf

Leaves out which one a method chooses, and with what numbers.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from edge_eds.energy.file import EnergyFile
from edge_eds.errors import ChatTemplateError, InputError
from edge_eds.files import write_whole
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.chat_prompt import Message
from edge_eds.runtime.control_vector import ControlVector
from edge_eds.runtime.interventions import AblateDirection, AddLowRank
from edge_eds.runtime.program import HookProgram


class Steerer(ABC):
    """One frozen way to steer."""

    suffix: ClassVar[str]

    def program(self, runner: BatchRunner) -> HookProgram | None:
        """What the runner's `generate` takes; None where nothing happens inside of the model."""
        return None

    def tokens(self, runner: BatchRunner, prompt: str | Sequence[Message]) -> list[int]:
        """A user's prompt, or a whole conversation, in the model's chat format."""
        return runner.chat_tokens(prompt)

    @property
    def adapter(self) -> Path | None:
        """The LoRA adapter that the model has to be loaded with, or None for its own."""
        return None

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write to a path that ends with the suffix."""

    def save(self, stem: Path) -> Path:
        """Write to `stem` plus the kind's suffix; returns the path.

        Raises:
            InputError: it cannot be written.
        """
        path = stem.with_name(stem.name + self.suffix)
        try:
            self.write(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
        return path


@dataclass(frozen=True, eq=False)
class EnergySteerer(Steerer):
    """Energies as their file tunes them."""

    energy: EnergyFile
    suffix: ClassVar[str] = ".energy.onnx"

    def program(self, runner: BatchRunner) -> HookProgram | None:
        return runner.energy_program(self.energy)

    def write(self, path: Path) -> None:
        self.energy.save(path)


@dataclass(frozen=True, eq=False)
class VectorSteerer(Steerer):
    """A control vector, added with its own length to all rows."""

    vector: ControlVector
    suffix: ClassVar[str] = ".control-vector.gguf"

    def program(self, runner: BatchRunner) -> HookProgram | None:
        return runner.intervention_program(self.vector.interventions())

    def write(self, path: Path) -> None:
        self.vector.save(path)


@dataclass(frozen=True, eq=False)
class InterventionSteerer(Steerer):
    """Ablations and low-rank maps by layer, one a layer."""

    interventions: Mapping[int, AblateDirection | AddLowRank] = field(repr=False)
    suffix: ClassVar[str] = ".interventions.npz"

    def program(self, runner: BatchRunner) -> HookProgram | None:
        return runner.intervention_program(self.interventions)

    def write(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        for il, intervention in self.interventions.items():
            at = f"{il}.{intervention.rows}"
            if isinstance(intervention, AblateDirection):
                arrays[f"{at}.direction"] = np.asarray(intervention.direction)
                arrays[f"{at}.amount"] = np.array(intervention.amount)
            else:
                down, bias, up = intervention.matrices
                arrays |= {f"{at}.down": down, f"{at}.bias": bias, f"{at}.up": up}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes a name for allow_pickle
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> InterventionSteerer:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        interventions: dict[int, AblateDirection | AddLowRank] = {}
        for at in sorted({name.rpartition(".")[0] for name in arrays}, key=lambda at: int(at.partition(".")[0])):
            il, _, rows = at.partition(".")
            if rows not in ("all", "answer"):
                raise ValueError(f"rows {rows!r}")
            if f"{at}.direction" in arrays:
                interventions[int(il)] = AblateDirection(
                    arrays[f"{at}.direction"], float(arrays[f"{at}.amount"]), rows
                )
            else:
                interventions[int(il)] = AddLowRank(
                    arrays[f"{at}.up"].T, arrays[f"{at}.down"], arrays[f"{at}.bias"], rows=rows
                )
        return cls(interventions)


@dataclass(frozen=True)
class PromptSteerer(Steerer):
    """A system prompt in place of the chat template's own and of a conversation's; empty: none."""

    text: str
    suffix: ClassVar[str] = ".system.txt"

    def tokens(self, runner: BatchRunner, prompt: str | Sequence[Message]) -> list[int]:
        if not self.text:
            return runner.chat_tokens(prompt)
        asked: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        said = [message for message in asked if message["role"] != "system"]
        messages = [{"role": "system", "content": self.text}, *said]
        try:
            return runner.chat_tokens(messages)
        except ChatTemplateError as error:
            raise InputError(f"the model's chat template takes no system prompt: {error.reason}") from error

    def write(self, path: Path) -> None:
        write_whole(path, self.text.encode())


@dataclass(frozen=True)
class AdapterSteerer(Steerer):
    """The model with this LoRA adapter in place of its own."""

    path: Path
    suffix: ClassVar[str] = ".lora.gguf"

    @property
    def adapter(self) -> Path | None:
        return self.path

    def write(self, path: Path) -> None:
        if path.resolve() != self.path.resolve():
            write_whole(path, self.path.read_bytes())


def load_steerer(path: Path) -> Steerer:
    """Read what `save` wrote.

    Raises:
        InputError: a file of none of these kinds, or one that cannot be read.
    """
    name = path.name
    try:
        if name.endswith(EnergySteerer.suffix):
            return EnergySteerer(EnergyFile.load(path))
        if name.endswith(VectorSteerer.suffix):
            return VectorSteerer(ControlVector.load(path))
        if name.endswith(InterventionSteerer.suffix):
            return InterventionSteerer.load(path)
        if name.endswith(PromptSteerer.suffix):
            return PromptSteerer(path.read_text(encoding="utf-8"))
        if name.endswith(AdapterSteerer.suffix) and path.is_file():
            return AdapterSteerer(path)
    except (OSError, ValueError, KeyError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{path}: cannot be read: {error}") from error
    raise InputError(f"{path}: holds nothing to steer with; expected a file that a method has saved")
