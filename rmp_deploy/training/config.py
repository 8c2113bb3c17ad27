"""One training run's settings: a preset, or one TOML file with the same keys."""

from __future__ import annotations

import difflib
import math
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rmp_deploy.errors import RmpDeployError, show

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ModelName = Literal["convnet", "mlp", "vgg16", "resnet19", "resnet20", "resnet18", "resnet34"]
Encoding = Literal["direct", "poisson", "ttfs", "time_series"]
Reset = Literal["hard", "soft"]
SurrogateName = Literal["rectangular", "tanh", "sigmoid", "arctan"]
Schedule = Literal["triangle", "ramp_hold", "constant"]
Augmentation = Literal["crop", "flip", "autoaugment", "cutout"]
WeightDecayOn = Literal["all", "weights"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
WIDTHS: dict[ModelName, tuple[int, ...]] = {  # of convolutional blocks or stages; of mlp, hidden layers
    "convnet": (16, 32),
    "mlp": (128,),
    "vgg16": (64, 128, 256, 512, 512),
    "resnet19": (128, 256, 512),
    "resnet20": (64, 128, 256, 512),
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
}
ANY_DEPTH: tuple[ModelName, ...] = ("convnet", "mlp")  # the others have as many stages as they have widths above
MAX_WIDTH = 65_536  # channels or neurons of one layer
MAX_COUNT, MAX_THREADS, MAX_FLOAT32 = 2**31 - 1, 1024, 3.4e38


@dataclass(frozen=True)
class ModelConfig:
    """A network of `rmp_deploy.training.models` and its neurons; docs/train.md says what each key means."""

    name: ModelName = "convnet"
    channels: tuple[int, ...] = ()  # empty: WIDTHS
    hidden: int = 64  # of convnet
    T: int = 4
    encoding: Encoding = "direct"
    decay: float = 0.25
    v_threshold: float = 0.5
    reset: Reset = "hard"
    surrogate: SurrogateName = "rectangular"
    detach_reset: bool = False
    learn_decay: bool = False
    mpbn: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """`channels`, or the model's own."""
        return self.channels or WIDTHS[self.name]


@dataclass(frozen=True)
class RMPConfig:
    """RMP-Loss; k = 0 switches it off."""

    k: float = 0.1
    power: int = 1
    schedule: Schedule = "triangle"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's weights, the seed included; docs/train.md says what each key means."""

    data: str = "digits"  # a name, a folder or a file; "": to be given
    image_size: int = 0  # 0: as they are
    augmentation: tuple[Augmentation, ...] = ()
    epochs: int = 30
    batch: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    weight_decay_on: WeightDecayOn = "all"
    amp: bool = False
    seed: int = 7
    threads: int = 1  # of torch; they decide the order of float sums, and so the weights
    model: ModelConfig = field(default_factory=ModelConfig)
    rmp_loss: RMPConfig = field(default_factory=RMPConfig)

    def __post_init__(self) -> None:
        m, widths = self.model, self.model.channels
        choices = [
            *(("augmentation", augmentation, Augmentation) for augmentation in self.augmentation),
            ("weight_decay_on", self.weight_decay_on, WeightDecayOn),
            ("model.name", m.name, ModelName),
            ("model.encoding", m.encoding, Encoding),
            ("model.reset", m.reset, Reset),
            ("model.surrogate", m.surrogate, SurrogateName),
            ("rmp_loss.schedule", self.rmp_loss.schedule, Schedule),
        ]
        limits = [
            *((what, value, value in get_args(kind), " | ".join(get_args(kind))) for what, value, kind in choices),
            ("image_size", self.image_size, 0 <= self.image_size <= 4096, "0 (as they are)..4096"),
            ("augmentation", self.augmentation, len({*self.augmentation}) == len(self.augmentation), "each once"),
            ("epochs", self.epochs, 1 <= self.epochs <= MAX_COUNT, f"1..{MAX_COUNT}"),
            ("batch", self.batch, 2 <= self.batch <= MAX_COUNT, f"2..{MAX_COUNT} (BatchNorm needs 2)"),
            ("lr", self.lr, 0 < self.lr < math.inf, "> 0"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "0..1"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, ">= 0"),
            ("threads", self.threads, 1 <= self.threads <= MAX_THREADS, f"1..{MAX_THREADS}"),
            ("seed", self.seed, 0 <= self.seed < 2**63, ">= 0"),
            ("model.T", m.T, 1 <= m.T <= 65_535, "1..65535"),
            ("model.hidden", m.hidden, 1 <= m.hidden <= MAX_WIDTH, f"1..{MAX_WIDTH}"),
            ("model.hidden", m.hidden, m.name == "convnet" or m.hidden == ModelConfig.hidden, "left out: convnet's"),
            ("model.channels", widths, all(1 <= c <= MAX_WIDTH for c in widths), f"each 1..{MAX_WIDTH}"),
            ("model.v_threshold", m.v_threshold, abs(m.v_threshold) <= MAX_FLOAT32, "what float32 holds"),
            ("model.decay", m.decay, 0 <= m.decay <= 1, "0..1"),
            ("model.decay", m.decay, 0 < m.decay < 1 or not m.learn_decay, "between 0 and 1, to be learnt"),
            ("rmp_loss.k", self.rmp_loss.k, 0 <= self.rmp_loss.k < math.inf, ">= 0"),
            ("rmp_loss.power", self.rmp_loss.power, self.rmp_loss.power in (1, 2), "1 or 2"),
        ]
        for what, value, holds, allowed in limits:
            if not holds:
                raise RmpDeployError(f"config: {what} = {show(value)}, allowed {allowed}. Correct it.")
        if widths and m.name not in ANY_DEPTH and len(widths) != len(WIDTHS[m.name]):
            what = f"model.channels = {show(widths)}, allowed {len(WIDTHS[m.name])} widths for {m.name}"
            raise RmpDeployError(f"config: {what}. Correct it.")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    except (ValueError, RecursionError) as e:  # no UTF-8, no TOML, a number of thousands of digits, deep nesting
        raise RmpDeployError(f"config '{path}': not TOML ({str(e)[:100]}). Correct it.") from e
    return from_dict(values)


PAPER = TrainConfig(  # docs/train.md says how each value is known
    data="",
    augmentation=("crop", "flip", "autoaugment", "cutout"),
    epochs=400,
    batch=128,
    weight_decay=1e-4,
    weight_decay_on="weights",
)
PAPER_EVENTS = replace(PAPER, image_size=48, augmentation=("crop", "flip"))
PAPER_IMAGENET = replace(PAPER, image_size=224, augmentation=("crop", "flip"), epochs=320, batch=320, amp=True)
PRESETS: dict[str, TrainConfig] = {
    "digits-convnet": TrainConfig(),
    "fashion-convnet": TrainConfig(data="", epochs=9, weight_decay=1e-4, model=ModelConfig(hidden=128)),
    "cifar10-vgg16": replace(PAPER, model=ModelConfig("vgg16")),
    "cifar10-resnet19": replace(PAPER, model=ModelConfig("resnet19")),
    "cifar10-resnet20": replace(PAPER, model=ModelConfig("resnet20")),
    "cifar100-vgg16": replace(PAPER, model=ModelConfig("vgg16")),
    "cifar100-resnet19": replace(PAPER, model=ModelConfig("resnet19")),
    "cifar100-resnet20": replace(PAPER, model=ModelConfig("resnet20")),
    "cifar10dvs-resnet19": replace(PAPER_EVENTS, model=ModelConfig("resnet19", T=10, encoding="time_series")),
    "cifar10dvs-resnet20": replace(PAPER_EVENTS, model=ModelConfig("resnet20", T=10, encoding="time_series")),
    "imagenet-resnet18": replace(PAPER_IMAGENET, model=ModelConfig("resnet18")),
    "imagenet-resnet34": replace(PAPER_IMAGENET, model=ModelConfig("resnet34")),
}
WANTED_DATA: dict[str, str] = {  # by what a preset's name begins with
    "fashion": "the folder of Fashion-MNIST's IDX files",
    "cifar10": "the folder of CIFAR-10's binary version (data_batch_1.bin ...)",
    "cifar100": "the folder of CIFAR-100's binary version (train.bin, test.bin)",
    "cifar10dvs": "the folder of CIFAR10-DVS",
    "imagenet": "a folder with train/<class>/ and val/<class>/ of images",
}


def preset(name: str) -> TrainConfig:
    """One of the named settings."""
    if name not in PRESETS:
        raise RmpDeployError(f"preset '{name}': unknown, allowed {', '.join(PRESETS)}. Choose one.")
    return PRESETS[name]


NESTED: dict[str, type] = {"model": ModelConfig, "rmp_loss": RMPConfig}
ELEMENTS: dict[str, type] = {"channels": int, "augmentation": str}  # of lists


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(known)}."
            raise RmpDeployError(f"config: key {show(prefix + key)} is unknown. {hint}")
        default = getattr(kind(), key)
        if key in NESTED:
            arguments[key] = _build(NESTED[key], _typed(prefix + key, value, dict), f"{key}.")
        elif isinstance(default, tuple):
            arguments[key] = tuple(_typed(prefix + key, v, ELEMENTS[key]) for v in _typed(prefix + key, value, list))
        else:
            arguments[key] = _typed(prefix + key, value, type(default))
    return kind(**arguments)


def _typed(key: str, value: Any, kind: type) -> Any:
    if kind is list and isinstance(value, tuple):
        return list(value)
    if kind is float and type(value) is int and abs(value) < 2**1000:  # more is no float
        return float(value)
    if type(value) is not kind:
        raise RmpDeployError(f"config: {key} = {show(value)}, allowed {kind.__name__}. Correct its type.")
    return value
