"""Surrogate gradients: what stands in for the derivative of the spike, which is zero almost everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RectangularSpike(torch.autograd.Function):
    """Spike where ``u > v_threshold`` (strict); ``ds/du = 1/width`` where ``|u - v_threshold| <= width/2``, else 0.

    With v_threshold = 0.5 and width = 1 this is the straight-through estimator on [0, 1] that the authors of RMP-Loss
    use in their other released code (docs/rmp_loss.md: "ste").
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, v_threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(u, v_threshold)
        ctx.width = width
        return (u > v_threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        u, v_threshold = ctx.saved_tensors
        inside = (u - v_threshold).abs() <= ctx.width / 2
        return grads[0] * inside / ctx.width, None, None


def rectangular_spike(u: Tensor, v_threshold: Tensor, width: float = 1.0) -> Tensor:
    """Spikes (0 or 1, the dtype of `u`) with the rectangular surrogate gradient; see `RectangularSpike`."""
    spikes: Tensor = RectangularSpike.apply(u, v_threshold, width)  # type: ignore[no-untyped-call]
    return spikes
