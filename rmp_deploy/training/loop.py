"""The training loop: config in, a run folder out (config.json, model.safetensors, metrics.csv)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically
from rmp_deploy.training import data
from rmp_deploy.training.config import TrainConfig, from_dict
from rmp_deploy.training.networks import build, check_held_out
from rmp_deploy.training.neurons import neurons
from rmp_deploy.training.rmp_loss import RMPLoss, quantization_distance


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.csv; accuracy and quantization error are of the test split."""

    epoch: int
    loss: float
    rmp_loss: float
    test_accuracy: float
    quantization_error: float


@dataclass(frozen=True)
class TrainResult:
    """What a run gave: the trained model in eval mode and its metrics by epoch; seconds [s]."""

    config: TrainConfig
    model: nn.Module
    metrics: list[EpochMetrics]
    seconds: float


def train(
    config: TrainConfig,
    on_epoch: Callable[[EpochMetrics], None] = lambda _: None,
    on_step: Callable[[float], None] = lambda _: None,
) -> TrainResult:
    """Train a network with cross entropy + RMP-Loss by SGD with a cosine schedule; same config, same weights.

    `on_step` is told after each batch how many epochs are done, as a fraction too.

    Raises:
        RmpDeployError: the data does not fit the network, or the loss is not finite (names epoch and step).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return _train(config, on_epoch, on_step)
    finally:
        torch.set_num_threads(threads)


def _train(
    config: TrainConfig, on_epoch: Callable[[EpochMetrics], None], on_step: Callable[[float], None]
) -> TrainResult:
    start = time.perf_counter()
    samples, held_out = data.load_splits(config.data)
    x, y = _labelled(samples)
    check_held_out(samples, held_out)
    model = build(config, samples)
    rmp_loss = RMPLoss(model, config.rmp_loss.k, config.rmp_loss.power, config.rmp_loss.schedule)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    order = torch.Generator().manual_seed(config.seed)
    metrics: list[EpochMetrics] = []
    for epoch in range(config.epochs):
        model.train()
        sums = torch.zeros(2)
        # A last batch of one sample would leave BatchNorm without a variance.
        batches = [b for b in torch.split(torch.randperm(len(x), generator=order), config.batch) if len(b) > 1]
        for step, batch in enumerate(batches):
            cross_entropy = nn.functional.cross_entropy(model(x[batch]), y[batch])
            regularizer = rmp_loss(epoch, config.epochs)
            loss = cross_entropy + regularizer
            if not torch.isfinite(loss):
                raise RmpDeployError(f"training: loss = {loss.item()} in epoch {epoch}, step {step}. Lower lr.")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            sums += torch.stack([loss, regularizer]).detach()
            on_step(epoch + (step + 1) / len(batches))
        scheduler.step()
        mean_loss, mean_rmp = (sums / len(batches)).tolist()
        accuracy, error = evaluate(model, held_out)
        metrics.append(EpochMetrics(epoch + 1, mean_loss, mean_rmp, accuracy, error))
        on_epoch(metrics[-1])
    return TrainResult(config, model.eval(), metrics, time.perf_counter() - start)


def evaluate(model: nn.Module, samples: data.Samples, batch: int = 512) -> tuple[float, float]:
    """Accuracy and average quantization error ``mean(min(|u|, |1 - u|))`` (mean over layers) in eval mode."""
    x, y = _labelled(samples)
    layers = list(neurons(model).values())
    correct, error = 0, torch.zeros(())
    model.eval()
    with torch.no_grad():
        for inputs, labels in zip(torch.split(x, batch), torch.split(y, batch), strict=True):
            correct += int((model(inputs).argmax(1) == labels).sum())
            distances = [quantization_distance(layer.u) for layer in layers if layer.u is not None]
            error += torch.stack(distances).mean() * len(inputs)
    return correct / len(x), float(error) / len(x)


def save_run(result: TrainResult, out: str | Path) -> Path:
    """Write the run folder; each file is whole or absent."""
    out = Path(out)
    rows = ["epoch,loss,rmp_loss,test_accuracy,quantization_error"]
    rows += [
        f"{m.epoch},{m.loss:.6g},{m.rmp_loss:.6g},{m.test_accuracy:.6g},{m.quantization_error:.6g}"
        for m in result.metrics
    ]
    write_atomically(out / "model.safetensors", save_tensors(dict(result.model.state_dict())))
    write_atomically(out / "metrics.csv", "\n".join(rows) + "\n")
    write_atomically(out / "config.json", json.dumps(result.config.as_dict(), indent=2) + "\n")
    return out


def load_run(run: str | Path) -> tuple[TrainConfig, nn.Module]:
    """Read a run folder back: its config and the trained network in eval mode.

    Raises:
        RmpDeployError: a file is missing or malformed, or the weights are of another network.
    """
    run = Path(run)
    try:
        config = from_dict(json.loads((run / "config.json").read_text()))
        weights = load_tensors((run / "model.safetensors").read_bytes())
    except OSError as e:
        raise RmpDeployError(
            f"run '{run}': {Path(str(e.filename)).name} cannot be read ({e.strerror}). Train first."
        ) from e
    except (ValueError, AttributeError, SafetensorError) as e:
        raise RmpDeployError(f"run '{run}': malformed ({e}). Train it again.") from e
    model = build(config, data.load_splits(config.data)[0])
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        reason = str(e).splitlines()[-1].strip()
        raise RmpDeployError(f"run '{run}': weights of another network ({reason}). Train it again.") from e
    return config, model.eval()


def _labelled(samples: data.Samples) -> tuple[Tensor, Tensor]:
    if samples.y is None:
        raise RmpDeployError(f"data '{samples.name}': labels = none, allowed one per sample. Add y to train or score.")
    return torch.from_numpy(samples.x), torch.from_numpy(samples.y)
