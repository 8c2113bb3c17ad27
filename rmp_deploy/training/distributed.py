"""Data parallel training: the processes that `torchrun` starts, each with its part of every batch.

Sums over the processes are what one process would have computed, but for the order of float additions: every process
weighs the loss of its part by its share of the batch, and BatchNorm sees the whole batch (`global_batch_norm`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from rmp_deploy.errors import RmpDeployError

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@dataclass(frozen=True)
class Processes:
    """This process among all: its rank, their number, and the device that it computes on."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes and prints."""
        return self.rank == 0

    def part(self, indices: Tensor) -> Tensor:
        """This process's part of a batch, of sizes that differ by 1 at most; it may be empty."""
        return torch.tensor_split(indices, self.count)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in place; the same in each."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over all processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        together = self.sum(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, torch.split(together, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather(self, state: Tensor) -> list[Tensor]:
        """Every process's `state`, of one shape and on the CPU, in the order of ranks."""
        if self.count == 1:
            return [state]
        mine = state.to(self.device)
        states = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(states, mine)
        return [s.cpu() for s in states]


def is_first_process() -> bool:
    """This is the only process, or the first that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def processes(device: str | None = None) -> Iterator[Processes]:
    """The processes of this run: those that `torchrun` has started, or this one alone.

    They speak over gloo on the CPU and over nccl on GPUs, a GPU each. `device` is "cpu" or "cuda"; None: a GPU where
    there is one.

    Raises:
        RmpDeployError: another device, no such device, or the processes cannot reach each other, now or later: where
            one ends, what the others wait for never comes.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in BACKENDS:
        raise RmpDeployError(f"training: device = '{device}', allowed {' or '.join(BACKENDS)}. Choose one.")
    if device == "cuda" and not torch.cuda.is_available():
        raise RmpDeployError("training: device = 'cuda', allowed cpu: torch finds no GPU here. Install its CUDA build.")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Processes(torch.device(device))
        return
    try:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group(BACKENDS[device])
    except (ValueError, RuntimeError) as e:  # incomplete or wrong environment; nobody answers
        reason = str(e).splitlines()[0]
        raise RmpDeployError(f"training: processes cannot meet ({reason}). Start them with torchrun.") from e
    try:
        yield Processes(torch.device(device), dist.get_rank(), dist.get_world_size())
    except RuntimeError as e:
        if not isinstance(e, dist.DistError) and "gloo" not in str(e):  # gloo's own are plain RuntimeErrors
            raise
        line = str(e).splitlines()[0]
        reason = (line.partition("] ")[2] or line).partition(". ")[0]  # without the place in gloo's source, and advice
        what = f"process {dist.get_rank()} of {dist.get_world_size()} lost another one ({reason})"
        todo = "Read the message of the one that ended first, then start all of them again with --resume"
        raise RmpDeployError(f"training: {what}. {todo}.") from e
    finally:
        dist.destroy_process_group()
