"""One training run's settings: a preset, or one TOML file with the same keys."""

from __future__ import annotations

import difflib
import math
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from rmp_deploy.errors import RmpDeployError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Schedule = Literal["triangle", "ramp_hold", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("triangle", "ramp_hold", "constant")


@dataclass(frozen=True)
class ModelConfig:
    """The convnet of `rmp_deploy.training.models.ConvNet`."""

    channels: tuple[int, ...] = (16, 32)
    hidden: int = 64
    T: int = 4
    decay: float = 0.25
    v_threshold: float = 0.5


@dataclass(frozen=True)
class RMPConfig:
    """RMP-Loss; k = 0 switches it off."""

    k: float = 0.1
    power: int = 1
    schedule: Schedule = "triangle"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's weights, the seed included."""

    data: str = "digits"  # a name, a folder of IDX files or an .npz; "": to be given
    epochs: int = 30
    batch: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 7
    threads: int = 1  # of torch; they decide the order of float sums, and so the weights
    model: ModelConfig = field(default_factory=ModelConfig)
    rmp_loss: RMPConfig = field(default_factory=RMPConfig)

    def __post_init__(self) -> None:
        widths = self.model.channels
        limits = [
            ("epochs", self.epochs, self.epochs >= 1, ">= 1"),
            ("batch", self.batch, self.batch >= 2, ">= 2 (BatchNorm)"),
            ("lr", self.lr, 0 < self.lr < math.inf, "> 0"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "0..1"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, ">= 0"),
            ("threads", self.threads, self.threads >= 1, ">= 1"),
            ("seed", self.seed, 0 <= self.seed < 2**63, ">= 0"),
            ("model.T", self.model.T, 1 <= self.model.T <= 65_535, "1..65535"),
            ("model.hidden", self.model.hidden, 1 <= self.model.hidden <= MAX_WIDTH, f"1..{MAX_WIDTH}"),
            ("model.channels", widths, all(1 <= c <= MAX_WIDTH for c in widths) and widths, f"each 1..{MAX_WIDTH}"),
            ("model.v_threshold", self.model.v_threshold, math.isfinite(self.model.v_threshold), "a finite number"),
            ("model.decay", self.model.decay, 0 <= self.model.decay <= 1, "0..1"),
            ("rmp_loss.k", self.rmp_loss.k, 0 <= self.rmp_loss.k < math.inf, ">= 0"),
            ("rmp_loss.power", self.rmp_loss.power, self.rmp_loss.power in (1, 2), "1 or 2"),
            ("rmp_loss.schedule", self.rmp_loss.schedule, self.rmp_loss.schedule in SCHEDULES, " | ".join(SCHEDULES)),
        ]
        for what, value, holds, allowed in limits:
            if not holds:
                raise RmpDeployError(f"config: {what} = {value}, allowed {allowed}. Correct it.")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


MAX_WIDTH = 65_536  # channels or neurons of one layer
PRESETS: dict[str, TrainConfig] = {
    "digits-convnet": TrainConfig(),
    "fashion-convnet": TrainConfig(data="", epochs=9, weight_decay=1e-4, model=ModelConfig(hidden=128)),
}


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """Build a TrainConfig from nested tables; a key that is not known is refused with the nearest one that is."""
    config: TrainConfig = _build(TrainConfig, values, "")
    return config


def load_config(path: str | Path) -> TrainConfig:
    """Read a TOML file.

    Raises:
        RmpDeployError: missing or malformed file, an unknown key, a value of the wrong type or out of range.
    """
    try:
        values = tomllib.loads(Path(path).read_text())
    except OSError as e:
        raise RmpDeployError(f"config '{path}': cannot be read ({e.strerror}). Check the path.") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise RmpDeployError(f"config '{path}': not TOML ({e}). Correct it.") from e
    return from_dict(values)


def preset(name: str) -> TrainConfig:
    """One of the named settings."""
    if name not in PRESETS:
        raise RmpDeployError(f"preset '{name}': unknown, allowed {', '.join(PRESETS)}. Choose one.")
    return PRESETS[name]


NESTED: dict[str, type] = {"model": ModelConfig, "rmp_loss": RMPConfig}


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(known)}."
            raise RmpDeployError(f"config: key '{prefix}{key}' is unknown. {hint}")
        default = getattr(kind(), key)
        if key in NESTED:
            arguments[key] = _build(NESTED[key], _typed(prefix + key, value, dict), f"{key}.")
        elif isinstance(default, tuple):
            arguments[key] = tuple(_typed(prefix + key, v, int) for v in _typed(prefix + key, value, list))
        else:
            arguments[key] = _typed(prefix + key, value, type(default))
    return kind(**arguments)


def _typed(key: str, value: Any, kind: type) -> Any:
    if kind is list and isinstance(value, tuple):
        return list(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise RmpDeployError(f"config: {key} = {value!r}, allowed {kind.__name__}. Correct its type.")
    return value
