"""A run's folder: config.json, model.safetensors and the files of its metrics."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save as save_tensors
from torch import nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically
from rmp_deploy.training.checkpoint import check_alike, read_tensors
from rmp_deploy.training.config import TrainConfig, from_dict
from rmp_deploy.training.data import Samples, load_splits
from rmp_deploy.training.data.samples import MAX_CLASSES
from rmp_deploy.training.diagnostics import History
from rmp_deploy.training.metrics import EpochMetrics, write_metrics
from rmp_deploy.training.networks import n_classes, network, sample_shape

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_VALUES = 2**24  # of one sample at one step


@dataclass(frozen=True)
class Task:
    """What a network was made for: the data's name, the shape of one sample at one step, classes."""

    data: str
    shape: tuple[int, ...]
    n_classes: int

    @classmethod
    def of(cls, config: TrainConfig, samples: Samples) -> Task:
        return cls(samples.name, sample_shape(config, samples), n_classes(samples))


@dataclass(frozen=True)
class TrainResult:
    """What a run gave: the trained model in eval mode, metrics and diagnostics by epoch; seconds [s]."""

    config: TrainConfig
    task: Task
    model: nn.Module
    metrics: list[EpochMetrics]
    history: History
    seconds: float


@dataclass(frozen=True)
class Run:
    """A run as its folder has it; the model in eval mode."""

    config: TrainConfig
    task: Task
    model: nn.Module


def save_run(result: TrainResult, out: str | Path) -> Path:
    """Write the run folder; each file is whole or absent."""
    out = Path(out)
    task = json.dumps({"data": result.task.data, "shape": result.task.shape, "n_classes": result.task.n_classes})
    weights = {name: tensor.cpu().contiguous() for name, tensor in result.model.state_dict().items()}
    write_atomically(out / WEIGHTS, save_tensors(weights, {"task": task}))
    write_metrics(out, result.metrics, result.history)
    write_atomically(out / CONFIG, json.dumps(result.config.as_dict(), indent=2) + "\n")
    return out


def load_run(run: str | Path) -> tuple[TrainConfig, nn.Module]:
    """A run folder's config and its trained network in eval mode; raises as `read_run`."""
    found = read_run(run)
    return found.config, found.model


def read_run(run: str | Path) -> Run:
    """Read a run folder back. Its data are not needed, unless an older version wrote it.

    Raises:
        RmpDeployError: a file is missing or malformed, or the weights are of another network.
    """
    run = Path(run)
    try:
        config = from_dict(json.loads((run / CONFIG).read_text()))
        metadata, weights = read_tensors(run / WEIGHTS)
        task = _task(json.loads(metadata["task"])) if "task" in metadata else None
    except OSError as e:
        raise RmpDeployError(
            f"run '{run}': {Path(str(e.filename)).name} cannot be read ({e.strerror}). Train first."
        ) from e
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError, OverflowError, SafetensorError) as e:
        raise RmpDeployError(f"run '{run}': malformed ({e}). Train it again.") from e
    task = task or Task.of(config, load_splits(config.data, image_size=config.image_size, T=config.model.T)[0])
    model = network(config.model, task.shape, task.n_classes)
    try:
        check_alike(weights, model.state_dict())  # torch would convert another type in silence
    except ValueError as e:
        raise RmpDeployError(f"run '{run}': weights of another network ({e}). Train it again.") from e
    model.load_state_dict(weights)
    return Run(config, task, model.eval())


def _task(values: dict[str, Any]) -> Task:
    """Raises ValueError for sizes that no data set has: a network is allocated for them."""
    shape, classes = values["shape"], values["n_classes"]
    sizes = [*shape, classes] if isinstance(shape, list) else [None]
    if any(type(n) is not int or n < 1 for n in sizes) or math.prod(shape) > MAX_VALUES or classes > MAX_CLASSES:
        raise ValueError(f"shape = {str(shape)[:80]}, n_classes = {str(classes)[:40]}")
    return Task(str(values["data"]), tuple(shape), classes)
