"""Steering settings: what a user asks for (`Steering`), and the complete settings of an energy file
(`SteeringSpec`).

Both are frozen and checked when made: a value out of its range raises SettingsError with one line that names
it. `resolve` lays the one over the other. Nothing here knows about models, files or engines.

The settings mean (network.descend has the formula, the runtime applies it):
    eta at token k after the prompt's end = step_size * strength * decay**k
    tokens with k >= n_tokens are not steered (n_tokens = 0: every new token is)
    max_shift caps the whole move of a row, relative to |h| (0: no cap)
    gate score <= benign descends "fr", score >= harmful descends "jb", in between nothing is steered
    with an outlook, "fr" is descended only where the plain model is about to refuse, "jb" only where it is not
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from edge_eds.energy.checks import flag, integer, number
from edge_eds.energy.network import GATE_HEADS, HEADS
from edge_eds.energy.outlook import OutlookSpec
from edge_eds.errors import SettingsError

ENGINES = ("auto", "native", "onnx")
MAX_STRENGTH = 1e3
MAX_STEPS = 1000


def _layers(name: str, value: object) -> tuple[int, ...]:
    """Distinct layer indices, ascending."""
    if isinstance(value, str) or not isinstance(value, Collection):
        raise SettingsError(f"{name} is {value!r}, expected a list of layer indices")
    layers = tuple(sorted(integer(name, il, 0) for il in value))
    if not layers:
        raise SettingsError(f"{name} is empty, expected at least one layer index")
    if len(set(layers)) != len(layers):
        raise SettingsError(f"{name} names a layer twice: {', '.join(map(str, layers))}")
    return layers


def _gate_bounds(benign: float, harmful: float) -> None:
    if benign > harmful:
        raise SettingsError(
            f"gate_benign is {benign:g}, above gate_harmful {harmful:g}: nothing could be told apart"
        )


# one home for the range of each setting that both classes have
_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "layers": _layers,
    "steps": lambda name, value: integer(name, value, 1, MAX_STEPS),
    "step_size": lambda name, value: number(name, value, 0, above=True),
    "relative": flag,
    "covariance": flag,
    "n_tokens": lambda name, value: integer(name, value, 0),
    "decay": lambda name, value: number(name, value, 0, 1),
    "max_shift": lambda name, value: number(name, value, 0),
}


@dataclass(frozen=True)
class Steering:
    """What a user asks for. None keeps the value that the energy file was tuned with.

    strength scales every step (0: no steering at all, bit-identical to the plain model). The other fields
    replace the field of the same name of SteeringSpec; gate_benign and gate_harmful those of its gate.
    """

    strength: float = 1.0
    layers: tuple[int, ...] | None = None
    steps: int | None = None
    step_size: float | None = None
    n_tokens: int | None = None
    decay: float | None = None
    max_shift: float | None = None
    gate_benign: float | None = None
    gate_harmful: float | None = None
    engine: str = "auto"
    relative: bool | None = None
    covariance: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", number("strength", self.strength, 0, MAX_STRENGTH))
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(name, value))
        for name in ("gate_benign", "gate_harmful"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, number(name, value))
        if self.gate_benign is not None and self.gate_harmful is not None:
            _gate_bounds(self.gate_benign, self.gate_harmful)
        if self.engine not in ENGINES:
            raise SettingsError(f"engine is {self.engine!r}, expected one of {', '.join(ENGINES)}")


@dataclass(frozen=True)
class GateSpec:
    """The gate, read once at the prompt's end: score = bias + sum over layers of weight * E_harm at the prompt's last
    token + sum over layers of message weight * the mean of E_harm_message over the tokens of the message.

    weights, message_weights {il: weight}, not both empty; benign <= harmful are the two bounds on the score.
    """

    bias: float
    weights: Mapping[int, float]
    benign: float
    harmful: float
    message_weights: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bias", "benign", "harmful"):
            object.__setattr__(self, name, number(f"gate {name}", getattr(self, name)))
        _layers("gate layers", {*self.weights, *self.message_weights})
        for name in ("weights", "message_weights"):
            by_layer: Mapping[int, float] = getattr(self, name)
            checked = {
                integer("gate layer", il, 0): number(f"gate weight of layer {il}", by_layer[il])
                for il in sorted(by_layer)
            }
            object.__setattr__(self, name, checked)
        _gate_bounds(self.benign, self.harmful)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({*self.weights, *self.message_weights}))

    @property
    def by_head(self) -> dict[str, Mapping[int, float]]:
        """{head that is read: its weights}."""
        return dict(zip(GATE_HEADS, (self.weights, self.message_weights), strict=True))

    @property
    def reads_message(self) -> bool:
        """Whether the rows of the message are needed, too."""
        return bool(self.message_weights)

    def __hash__(self) -> int:
        weights = tuple(tuple(by_layer.items()) for by_layer in self.by_head.values())
        return hash((self.bias, weights, self.benign, self.harmful))


@dataclass(frozen=True)
class SteeringSpec:
    """Complete settings, as an energy file stores them.

    gate None: head "merged" is descended at every steered row. With a gate, `heads` are some of "fr" and
    "jb". thresholds and targets {head: {il: energy}}: a row at or under its threshold is not written, a
    descent stops at or under its target; a missing entry means that there is none. outlook None: an answer is steered
    whatever the plain model is about to do; there is none without a gate.
    """

    gate: GateSpec | None
    layers: tuple[int, ...]
    heads: tuple[str, ...]
    steps: int
    step_size: float
    thresholds: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    targets: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    relative: bool = True
    covariance: bool = True
    n_tokens: int = 0
    decay: float = 1.0
    max_shift: float = 0.0
    outlook: OutlookSpec | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.outlook is not None and self.gate is None:
            raise SettingsError("there is an outlook and no gate, expected both: only a gate says what to do about it")
        if isinstance(self.heads, str) or set(self.heads) - set(HEADS):
            raise SettingsError(f"heads are {self.heads!r}, expected some of {', '.join(HEADS)}")
        object.__setattr__(self, "heads", tuple(head for head in HEADS if head in self.heads))
        usable = ("merged",) if self.gate is None else ("fr", "jb")
        if not self.heads or set(self.heads) - set(usable):
            case = "without a gate" if self.gate is None else "with a gate"
            raise SettingsError(
                f"heads are {', '.join(self.heads) or 'empty'}, expected {' or '.join(usable)} {case}"
            )
        for name in ("thresholds", "targets"):
            object.__setattr__(self, name, self._energies(name, getattr(self, name)))
        if self.gate is not None and self.gate.layers[-1] > self.layers[0]:
            raise SettingsError(
                f"the gate reads layer {self.gate.layers[-1]}, above the first steered layer "
                f"{self.layers[0]}: it must be read before anything is steered"
            )

    @staticmethod
    def _energies(name: str, by_head: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
        if set(by_head) - set(HEADS):
            raise SettingsError(
                f"{name} have heads {', '.join(by_head)}, expected some of {', '.join(HEADS)}"
            )
        return {
            head: {
                integer(f"{name} layer", il, 0): number(f"{name} of {head} in layer {il}", value)
                for il, value in sorted(by_head[head].items())
            }
            for head in HEADS
            if head in by_head
        }

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """One JSON object with a fixed order of keys: equal specs give equal texts."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SteeringSpec:
        """The spec that `to_json` wrote; SettingsError for anything else, unknown keys included."""
        try:
            data = json.loads(text)
        except ValueError as e:
            raise SettingsError(f"the steering settings are not JSON: {e}") from e
        # files from before there was an outlook have none
        values = _keys("steering settings", cls, {"outlook": None, **data} if isinstance(data, dict) else data)
        try:
            if values["gate"] is not None:
                given = {"message_weights": {}, **values["gate"]}  # files from before it was read have none
                gate = _keys("gate settings", GateSpec, given)
                weights = {name: _int_keys(gate[name]) for name in ("weights", "message_weights")}
                values["gate"] = GateSpec(**{**gate, **weights})
            if values["outlook"] is not None:
                outlook = _keys("outlook settings", OutlookSpec, values["outlook"])
                values["outlook"] = OutlookSpec(tuple(outlook["tokens"]), outlook["bound"])
            for name in ("thresholds", "targets"):
                values[name] = {head: _int_keys(by_layer) for head, by_layer in values[name].items()}
            return cls(**values)
        except (AttributeError, TypeError) as e:
            raise SettingsError(f"the steering settings have a value of the wrong kind: {e}") from e


def _keys(what: str, cls: type[Any], data: object) -> dict[str, Any]:
    """`data` as keyword arguments of `cls`; SettingsError unless it has exactly its fields."""
    if not isinstance(data, dict):
        raise SettingsError(f"the {what} are a {type(data).__name__}, expected an object")
    names = {f.name for f in fields(cls)}
    unknown, missing = sorted(set(data) - names), sorted(names - set(data))
    if unknown or missing:
        parts = [f"unknown {', '.join(unknown)}"] if unknown else []
        parts += [f"missing {', '.join(missing)}"] if missing else []
        raise SettingsError(f"the {what} have other keys than expected: {'; '.join(parts)}")
    return dict(data)


def _int_keys(data: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(key): value for key, value in data.items()}
    except ValueError as e:
        raise SettingsError(f"a layer index in the steering settings is not a whole number: {e}") from e


def resolve(
    spec: SteeringSpec, steering: Steering, available: Collection[int] | None = None
) -> tuple[SteeringSpec, float]:
    """The complete settings for one wish, and its strength.

    `available` are the layers that can be steered (EnergyFile.resolve passes those of the file); left out,
    the layers that the spec itself names. SettingsError for a layer that is not among them, for gate bounds
    where there is no gate, and for layers below the gate.
    """
    if available is None:
        available = {*spec.layers, *(il for by_layer in spec.thresholds.values() for il in by_layer)}
    changes: dict[str, Any] = {
        name: getattr(steering, name) for name in _CHECKS if getattr(steering, name) is not None
    }
    missing = sorted(set(changes.get("layers", ())) - set(available))
    if missing:
        raise SettingsError(
            f"no energies for layer {', '.join(map(str, missing))}: "
            f"this energy file can steer layers {', '.join(map(str, sorted(available)))}"
        )
    if steering.gate_benign is not None or steering.gate_harmful is not None:
        if spec.gate is None:
            raise SettingsError("gate_benign and gate_harmful need a gate, and this energy file has none")
        benign, harmful = steering.gate_benign, steering.gate_harmful
        changes["gate"] = replace(
            spec.gate,
            benign=spec.gate.benign if benign is None else benign,
            harmful=spec.gate.harmful if harmful is None else harmful,
        )
    return replace(spec, **changes), steering.strength
