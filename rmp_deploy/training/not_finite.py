"""Where NaN or infinity came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rmp_deploy.training.neurons import LIF


@torch.no_grad()
def first_not_finite(model: nn.Module, x: Tensor) -> str | None:
    """The first layer, in the order of the forward pass on `x`, whose output or membrane potentials are not finite.

    In words: ``outputs of layer 'conv1'``, ``membrane potentials of layer 'lif1'``. None where all are finite.
    Spikes hide a NaN, which is above no threshold: so potentials are looked at too.
    """
    found: list[str] = []

    def look(name: str, layer: nn.Module, output: Any) -> None:
        if found:
            return
        if isinstance(layer, LIF) and layer.u is not None and not bool(torch.isfinite(layer.u).all()):
            found.append(f"membrane potentials of layer '{name}'")
        elif isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
            found.append(f"outputs of layer '{name}'")

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: look(name, layer, output))
        for name, layer in model.named_modules()
        if isinstance(layer, LIF) or not list(layer.children())
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
