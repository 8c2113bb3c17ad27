"""Integer arithmetic with gradients: exact forward, straight through backward.

Rounding, truncation, wrapping and clipping have a derivative of 0 almost everywhere; training takes 1 instead
(Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", the straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rmp_deploy.training.surrogate import Surrogate, times_derivative


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``y = function(x)``, ``dy/dx = 1``; `function` returns a new tensor of x's shape."""
    y: Tensor = _StraightThrough.apply(x, function)  # type: ignore[no-untyped-call]
    return y


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, v_threshold: Tensor, unit: float, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(u, v_threshold)
        ctx.unit, ctx.surrogate = unit, surrogate
        return (u > v_threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        u, v_threshold = ctx.saved_tensors
        return spike_gradient(grads[0], u, v_threshold, ctx.unit, ctx.surrogate), None, None, None


def spike_gradient(d_s: Tensor, u: Tensor, v_threshold: Tensor, unit: float, surrogate: Surrogate) -> Tensor:
    """``d_s * ds/du``, with potentials taken in units of `unit`: ``d_s / unit * surrogate'(u / unit)``."""
    d_s = d_s / unit
    return times_derivative(d_s, u / unit, v_threshold / unit, surrogate, d_s)


def spike(u: Tensor, v_threshold: Tensor, unit: float, surrogate: Surrogate) -> Tensor:
    """``s = u > v_threshold``; ds/du is `surrogate`'s, with potentials taken in units of `unit`."""
    s: Tensor = _Spike.apply(u, v_threshold, unit, surrogate)  # type: ignore[no-untyped-call]
    return s
