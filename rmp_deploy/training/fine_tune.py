"""Fine-tuning: a trained network is trained on, such as in the integers that a chip computes with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data import Samples

HELD_OUT = 10  # every tenth sample, in an order drawn from the seed, is not trained on: it says which epoch is kept
COUNTS = {"epochs": (0, 10**6), "batch": (1, 2**31 - 1), "seed": (0, 2**63 - 1), "threads": (1, 1024)}
BATCH = 512  # samples that are read at a time where nothing is trained
MAX_LR = 1e30  # float32 holds the steps of it


@dataclass(frozen=True)
class FineTuneEpoch:
    """Mean training loss of an epoch; loss and accuracy on the samples that are held out. Epoch 0 is before."""

    epoch: int
    loss: float | None
    held_out_loss: float
    held_out_accuracy: float


@dataclass(frozen=True)
class FineTuned:
    """Every epoch, the one whose parameters were kept, and how many samples were trained on and held out."""

    epochs: tuple[FineTuneEpoch, ...]
    kept: int
    trained: int
    held_out: int


def fine_tune(
    module: nn.Module,
    samples: Samples,
    epochs: int,
    lr: float = 5e-4,
    batch: int = 64,
    seed: int = 0,
    threads: int = 1,
    on_epoch: Callable[[FineTuneEpoch], None] = lambda _: None,
    on_step: Callable[[float], None] = lambda _: None,
) -> FineTuned:
    """Train `module` (samples to one value a class) with cross entropy by Adam with a cosine schedule, in place.

    A tenth of the samples is held out. The module ends with the parameters of the epoch with the lowest cross entropy
    there, which may be those that it came with. Accuracy there is no measure: the network that is fine-tuned has
    usually been trained on these samples. The same seed and threads give the same parameters.
    `on_step` is told after each batch how many epochs are done, as a fraction too.

    Raises:
        RmpDeployError: an option outside its range; no labels, labels beyond the module's values, samples that it does
            not take or too few of them; a loss that is not finite.
    """
    _check_options(lr, epochs=epochs, batch=batch, seed=seed, threads=threads)
    _check_samples(samples)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _fine_tune(module, samples, epochs, lr, batch, seed, on_epoch, on_step)
    finally:
        torch.set_num_threads(before)


def _fine_tune(
    module: nn.Module,
    samples: Samples,
    epochs: int,
    lr: float,
    batch: int,
    seed: int,
    on_epoch: Callable[[FineTuneEpoch], None],
    on_step: Callable[[float], None],
) -> FineTuned:
    assert samples.y is not None  # checked
    trained, held = _split(len(samples.x), seed)
    classes = _classes(module, torch.from_numpy(_float32(samples.x[:1])), samples.name)
    highest = int(samples.y.max())
    if highest >= classes:
        what = f"label = {highest}, allowed 0..{classes - 1}"
        raise RmpDeployError(f"data '{samples.name}': {what}. Give the data that the network was made for.")
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs))
    order = torch.Generator().manual_seed(seed)
    done = [FineTuneEpoch(0, None, *_evaluate(module, samples, held))]
    kept, kept_state = done[0], _state(module)
    on_epoch(done[0])
    for epoch in range(epochs):
        batches = torch.split(trained[torch.randperm(len(trained), generator=order)], batch)
        total = 0.0
        for step, chosen in enumerate(batches):
            x, y = _read(samples, chosen)
            loss = nn.functional.cross_entropy(module(x), y)
            if not torch.isfinite(loss):
                raise RmpDeployError(f"fine-tuning: loss = {loss.item()} in epoch {epoch}, step {step}. Lower lr.")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
            on_step(epoch + (step + 1) / len(batches))
        scheduler.step()
        done.append(FineTuneEpoch(epoch + 1, total / len(batches), *_evaluate(module, samples, held)))
        if done[-1].held_out_loss < kept.held_out_loss:
            kept, kept_state = done[-1], _state(module)
        on_epoch(done[-1])
    module.load_state_dict(kept_state)
    return FineTuned(tuple(done), kept.epoch, len(trained), len(held))


def _check_options(lr: float, **counts: int) -> None:
    if not (isinstance(lr, int | float) and 0 < lr <= MAX_LR):
        raise RmpDeployError(f"fine-tuning: lr = {lr!r}, allowed > 0 and at most {MAX_LR:g}. Correct it.")
    for name, value in counts.items():
        low, high = COUNTS[name]
        if type(value) is not int or not low <= value <= high:
            raise RmpDeployError(f"fine-tuning: {name} = {value!r}, allowed an integer, {low}..{high}. Correct it.")


def _check_samples(samples: Samples) -> None:
    def refuse(what: str, todo: str) -> NoReturn:
        raise RmpDeployError(f"data '{samples.name}': {what}. {todo}.")

    x, y = samples.x, samples.y
    if y is None:
        refuse("labels = none, allowed one per sample", "Add y to train")
    if len(x) < HELD_OUT:
        refuse(f"samples = {len(x)}, allowed >= {HELD_OUT}", "Add some")
    if x.dtype.kind not in "fiub":
        refuse(f"samples: dtype = {x.dtype}, allowed numbers", "Convert them to float32")
    if not all(np.isfinite(_float32(x[i : i + BATCH])).all() for i in range(0, len(x), BATCH)):
        refuse("samples: NaN or infinite, allowed finite in float32", "Clean them")
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        refuse(f"labels = {y.dtype} {y.shape}, allowed integers ({len(x)},)", "Give one label per sample")
    if y.min() < 0:
        refuse(f"labels = {y.min()}..{y.max()}, allowed integers >= 0", "Number the classes")


def _float32(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32)


@torch.no_grad()
def _classes(module: nn.Module, x: Tensor, name: str) -> int:
    """How many values the module gives for a sample."""
    try:
        return int(module(x).shape[1])
    except RuntimeError as e:  # torch's word for sizes that do not fit
        what = f"sample shape = {tuple(x.shape[1:])}, allowed what the network takes ({str(e).splitlines()[0]})"
        raise RmpDeployError(f"data '{name}': {what}. Give the data that the network was made for.") from e


def _split(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which of the n samples are trained on, and which are held out."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[torch.arange(n) % HELD_OUT != 0], order[::HELD_OUT]


def _read(samples: Samples, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen samples and their labels."""
    assert samples.y is not None  # checked
    index = chosen.numpy()
    return torch.from_numpy(_float32(samples.x[index])), torch.from_numpy(samples.y[index].astype(np.int64))


@torch.no_grad()
def _evaluate(module: nn.Module, samples: Samples, held: Tensor) -> tuple[float, float]:
    """Mean cross entropy and accuracy."""
    parts = [(module(x), y) for x, y in (_read(samples, part) for part in torch.split(held, BATCH))]
    outputs, y = torch.cat([o for o, _ in parts]), torch.cat([y for _, y in parts])
    return float(nn.functional.cross_entropy(outputs, y)), float((outputs.argmax(1) == y).double().mean())


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
