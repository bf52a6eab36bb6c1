"""The energy file NAME.energy.onnx: the energies of one GGUF, the model they were made for, and how to steer.

Standard ONNX with metadata; see graph.py for inputs and outputs. `EnergyFile.load` raises EnergyFileError
with one line for anything that cannot be used, and never falls back to anything. A graph of another form than
we export is welcome as long as it has our input and outputs ("bring your own energy"): then `energies` is
None and only the engine "onnx" can evaluate it.

Left out: evaluating (engines.py), and finding the file that belongs to a model (the runtime).

onnx is imported when a file is read or written: a session does that while llama.cpp loads the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.graph_names import heads_by_layer
from edge_eds.energy.network import EnergyModel, Subspace
from edge_eds.energy.settings import Steering, SteeringSpec, resolve
from edge_eds.errors import EnergyFileError, FingerprintError, SettingsError
from edge_eds.files import write_whole

if TYPE_CHECKING:
    import onnx

ENERGY_SUFFIX = ".energy.onnx"
FORMAT_VERSION = 1
PREFIX = "edge_eds."  # of our keys in the ONNX metadata


@dataclass(frozen=True, eq=False)
class EnergyFile:
    """The content of an energy file, checked when made.

    Exactly one of `energies` (our form) and `foreign` (any other ONNX model with our input and outputs) is
    given. scores: measured numbers, any JSON object; versions {package: version}; prompt_set_hash and seed:
    what the energies were trained from. Raises EnergyFileError when the parts do not fit each other.
    """

    fingerprint: ModelFingerprint
    spec: SteeringSpec
    energies: EnergyModel | None = field(repr=False)
    foreign: onnx.ModelProto | None = field(default=None, repr=False)
    prompt_set_hash: str = ""
    seed: int = 0
    scores: Mapping[str, Any] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.energies is None) == (self.foreign is None):
            raise ValueError("give either energies or a foreign ONNX model")
        n_embd = self.energies.n_embd if self.energies is not None else self._input_width()
        if n_embd != self.fingerprint.n_embd:
            raise EnergyFileError(
                f"the energies take hidden states of width {n_embd or 'unknown'}, "
                f"the model they are made for has n_embd {self.fingerprint.n_embd}"
            )
        heads = self.heads
        for il in heads:
            # the last layer's rows are pruned before its output is named
            if not 0 <= il < self.fingerprint.n_layer - 1:
                raise EnergyFileError(
                    f"energies for layer {il}, expected 0 to {self.fingerprint.n_layer - 2} "
                    f"in a model of {self.fingerprint.n_layer} layers (the last one cannot be steered)"
                )
        self._check_spec(self.spec)
        for head in self.spec.heads:
            if not any(head in heads[il] for il in self.spec.layers):
                raise EnergyFileError(f"the settings descend {head}, but no steered layer has that energy")
        # fail here rather than when saving
        json.dumps([dict(self.scores), dict(self.versions)], allow_nan=False)

    @property
    def heads(self) -> dict[int, tuple[str, ...]]:
        """{il: names of the heads that the file has there}."""
        if self.energies is not None:
            return {il: tuple(layer.heads) for il, layer in self.energies.layers.items()}
        try:
            return heads_by_layer(output.name for output in self._proto().graph.output)
        except ValueError as e:
            raise EnergyFileError(str(e)) from e

    @property
    def steerable_layers(self) -> tuple[int, ...]:
        """Layers that have at least one of the heads that the spec descends."""
        return tuple(il for il, heads in self.heads.items() if set(heads) & set(self.spec.heads))

    def resolve(self, steering: Steering) -> tuple[SteeringSpec, float]:
        """Complete settings for one wish, and its strength; SettingsError where the file cannot do what it
        asks.

        A head that none of the wished layers has is not descended: fewer layers may mean fewer heads.
        """
        spec, strength = resolve(self.spec, steering, self.steerable_layers)
        try:
            self._check_spec(spec)
        except EnergyFileError as e:
            raise SettingsError(str(e)) from e
        return spec, strength

    def subspace(self, il: int) -> Subspace | None:
        """The subspace of a layer, for the covariance metric; None where there is none that can be read."""
        return self.energies.layers[il].subspace if self.energies is not None else None

    def check_fingerprint(self, model: ModelFingerprint) -> None:
        """FingerprintError that shows both fingerprints, unless the file was made for `model`."""
        differing = self.fingerprint.mismatch(model)
        if differing:
            raise FingerprintError(
                f"the energies were made for another model (other {', '.join(differing)}): "
                f"made for [{self.fingerprint}], this one is [{model}]; make its own with `edge-eds fit`"
            )

    def to_onnx(self) -> onnx.ModelProto:
        """The ONNX model, metadata included."""
        import onnx

        from edge_eds.energy.graph import build

        proto = onnx.ModelProto()
        proto.CopyFrom(build(self.energies) if self.energies is not None else self._proto())
        ours = {
            "format_version": str(FORMAT_VERSION),
            "fingerprint": self.fingerprint.to_json(),
            "steering": self.spec.to_json(),
            "prompt_set_hash": self.prompt_set_hash,
            "seed": str(self.seed),
            "scores": json.dumps(self.scores, sort_keys=True),
            "versions": json.dumps(self.versions, sort_keys=True),
        }
        kept = {p.key: p.value for p in proto.metadata_props if not p.key.startswith(PREFIX)}
        onnx.helper.set_model_props(proto, {**kept, **{PREFIX + key: value for key, value in ours.items()}})
        return proto

    def save(self, path: str | Path) -> None:
        """Write to `path`: a reader sees the old file or the whole new one. EnergyFileError on failure."""
        path = Path(path)
        if path.is_dir():
            raise EnergyFileError(f"{path}: is a directory; expected the path of an energy file to write")
        try:
            data = self.to_onnx().SerializeToString()
        except ValueError as e:  # protobuf holds at most 2 GiB
            raise EnergyFileError(
                f"{path}: cannot be written: the energies are too large for one ONNX file"
            ) from e
        try:
            write_whole(path, data)
        except OSError as e:
            raise EnergyFileError(f"{path}: cannot be written: {e.strerror or e}") from e

    @classmethod
    def load(cls, path: str | Path) -> EnergyFile:
        """Read an energy file. EnergyFileError with one line for a file that cannot be used."""
        from edge_eds.energy.graph import parse
        from edge_eds.energy.onnx_file import read_onnx, require_finite

        path = Path(path)
        require_file(path)
        proto = read_onnx(path)
        try:
            properties = {
                p.key[len(PREFIX) :]: p.value for p in proto.metadata_props if p.key.startswith(PREFIX)
            }
            metadata = _metadata(properties)
            require_finite(proto)
            energies = parse(proto)
            return cls(energies=energies, foreign=proto if energies is None else None, **metadata)
        except (EnergyFileError, SettingsError) as e:
            raise EnergyFileError(f"{path}: {e}") from e

    def _input_width(self) -> int | None:
        from edge_eds.energy.graph import input_width

        return input_width(self._proto())

    def _proto(self) -> onnx.ModelProto:
        assert self.foreign is not None
        return self.foreign

    def _check_spec(self, spec: SteeringSpec) -> None:
        """EnergyFileError unless the file has every energy that `spec` uses."""
        heads = self.heads
        for il in spec.layers:
            if not set(heads.get(il, ())) & set(spec.heads):
                raise EnergyFileError(
                    f"the settings steer layer {il}, but there is no energy {' or '.join(spec.heads)} for it"
                )
        if spec.gate is not None:
            for head, weights in spec.gate.by_head.items():
                for il in weights:
                    if head not in heads.get(il, ()):
                        raise EnergyFileError(f"the gate reads layer {il}, but there is no energy {head} for it")
        if spec.covariance:
            for il in spec.layers:
                if self.subspace(il) is None:
                    raise EnergyFileError(
                        f"the covariance metric needs a subspace and layer {il} has none that can be read; "
                        "set covariance to false"
                    )


def require_file(path: Path) -> None:
    """EnergyFileError unless a file lies at `path`; it is not read."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as e:
        raise EnergyFileError(f"{path}: no such energy file; make one with `edge-eds fit`") from e
    except OSError as e:
        raise EnergyFileError(f"{path}: cannot be read: {e.strerror or e}") from e
    if S_ISDIR(mode):
        raise EnergyFileError(f"{path}: is a directory; expected an energy file (NAME{ENERGY_SUFFIX})")


def _metadata(properties: Mapping[str, str]) -> dict[str, Any]:
    """The fields of EnergyFile from our metadata; EnergyFileError where they are missing or wrong."""
    if not properties:
        raise EnergyFileError("has no edge-eds metadata: an ONNX file, but not an energy file")
    try:
        version = int(properties["format_version"])
        if version > FORMAT_VERSION:
            raise EnergyFileError(
                f"has format version {version}, this edge-eds reads up to {FORMAT_VERSION}: update edge-eds"
            )
        if version < 1:
            raise EnergyFileError(f"has format version {version}, expected 1 to {FORMAT_VERSION}")
        metadata = {
            "fingerprint": ModelFingerprint.from_json(properties["fingerprint"]),
            "spec": SteeringSpec.from_json(properties["steering"]),
            "prompt_set_hash": properties["prompt_set_hash"],
            "seed": int(properties["seed"]),
            "scores": json.loads(properties["scores"]),
            "versions": json.loads(properties["versions"]),
        }
    except KeyError as e:
        raise EnergyFileError(f"its edge-eds metadata lacks {e.args[0]}") from e
    except SettingsError:
        raise
    except ValueError as e:
        raise EnergyFileError(f"its edge-eds metadata is damaged: {e}") from e
    if not isinstance(metadata["scores"], dict) or not isinstance(metadata["versions"], dict):
        raise EnergyFileError("its edge-eds metadata is damaged: scores and versions must be objects")
    return metadata
