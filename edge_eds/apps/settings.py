"""What the command line asks for, as frozen values that are checked when made."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

from edge_eds.energy.settings import Steering
from edge_eds.errors import SettingsError
from edge_eds.runtime.energies import ModelFiles, default_model
from edge_eds.runtime.hub import fetch_model
from edge_eds.runtime.hub_name import is_hub_name

MIN_CTX = 64  # a chat template alone takes about 30 tokens
MAX_THREADS = 512  # GGML_MAX_N_THREADS
MAX_SEED = 2**32 - 2  # one more means "random" to llama.cpp
MAX_INT = 2**31 - 1  # llama.cpp counts tokens in int32


def check_range(name: str, value: int | None, low: int, high: int) -> None:
    """SettingsError unless value is None or low <= value <= high."""
    if value is not None and not low <= value <= high:
        raise SettingsError(f"{name} is {value}, expected {low} to {high}")


def check_seed(seed: int | None) -> None:
    """SettingsError unless llama.cpp, NumPy and torch can all take it."""
    check_range("--seed", seed, 0, MAX_SEED)


@dataclass(frozen=True)
class SessionOptions:
    """The model and how it is steered.

    model: path of a GGUF, hf:USER/REPO[:QUANT], or None for the default model.
    energy: "auto", "none", a path, or hf:USER/REPO.
    strength: None means as tuned.
    """

    model: str | None = None
    lora: Path | None = None
    energy: str = "auto"
    strength: float | None = None
    threads: int | None = None
    ctx: int | None = None
    chat_format: str | None = None

    def __post_init__(self) -> None:
        check_range("--threads", self.threads, 1, MAX_THREADS)
        check_range("--ctx", self.ctx, MIN_CTX, MAX_INT)
        if self.strength is not None:
            Steering(strength=self.strength)
            if self.energy == "none" and self.strength != 0:
                raise SettingsError(f"--strength {self.strength:g} needs energies, and --energy none asks for none")

    def files(self) -> ModelFiles:
        """The model's files, downloaded where they are on a hub.

        Raises:
            ModelError, MissingExtraError: the default model is not installed.
            EdgeError: as fetch_model.
        """
        if self.model is None:
            files = default_model()
            return files if self.lora is None else ModelFiles(files.gguf, self.lora.expanduser())
        lora = None if self.lora is None else self.lora.expanduser()
        if is_hub_name(self.model):
            return ModelFiles(fetch_model(self.model, energies=self.energy == "auto"), lora)
        return ModelFiles(Path(self.model).expanduser(), lora)


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0 is greedy; seed None asks for one to be drawn."""

    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_range("--max-tokens", self.max_tokens, 1, MAX_INT)
        check_seed(self.seed)
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= 100):
            raise SettingsError(f"--temperature is {self.temperature:g}, expected a number from 0 to 100")

    def drawn(self) -> Sampling:
        """The same with a seed, so that an answer can be made again."""
        return self if self.seed is not None else replace(self, seed=random.randrange(MAX_SEED))
