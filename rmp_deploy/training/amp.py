"""Automatic mixed precision: synapses in half precision, membrane potentials in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rmp_deploy.training.neurons import LI, LIF

HALF = {"cuda": torch.float16, "cpu": torch.bfloat16}


@contextmanager
def float32_potentials(model: nn.Module) -> Iterator[None]:
    """While it is open, every neuron takes its currents in float32: 8 or 11 bits are too few to integrate."""
    layers = [m for m in model.modules() if isinstance(m, LIF | LI)]
    hooks = [layer.register_forward_pre_hook(_to_float32) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """The context of a training pass: float16 on a GPU, bfloat16 on a CPU."""
    return torch.autocast(device.type, HALF[device.type], enabled)


def _to_float32(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in inputs)
