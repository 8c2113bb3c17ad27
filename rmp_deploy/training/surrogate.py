"""Surrogate gradients: what stands in for the derivative ds/du of the spike, which is zero almost everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Sharpness:
    """A surrogate has one number, finite and greater than 0."""

    def __post_init__(self) -> None:
        for what, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{type(self).__name__}: {what} = {value}, allowed finite and > 0.")


@dataclass(frozen=True)
class Rectangular(_Sharpness):
    """``ds/du = 1/width where |u - v_threshold| <= width/2``, else 0.

    With v_threshold 0.5 and width 1 it is the straight-through estimator on [0, 1] that the authors of RMP-Loss use in
    their other released code (docs/rmp_loss.md: "ste").
    """

    width: float = 1.0


@dataclass(frozen=True)
class Tanh(_Sharpness):
    """``ds/du = k (1 - tanh(k (u - v_threshold))^2) / (2 tanh(k/2))`` where ``|u - v_threshold| <= 1/2``, else 0.

    The default of the same code, where k is called temp.
    """

    k: float = 3.0


@dataclass(frozen=True)
class Sigmoid(_Sharpness):
    """``ds/du = alpha p (1 - p)``, ``p = 1 / (1 + exp(-alpha (u - v_threshold)))``."""

    alpha: float = 4.0


@dataclass(frozen=True)
class Arctan(_Sharpness):
    """``ds/du = (alpha/2) / (1 + (pi/2 alpha (u - v_threshold))^2)``.

    Source: Fang et al., ICCV 2021, "Incorporating learnable membrane time constant ...", equation 12 with alpha = 2.
    """

    alpha: float = 2.0


Surrogate = Rectangular | Tanh | Sigmoid | Arctan
Threshold = Tensor | float


def _rectangular(d_s: Tensor, u: Tensor, th: Threshold, s: Rectangular, out: Tensor) -> Tensor:
    if isinstance(th, Tensor) or u.dtype not in (torch.float32, torch.float64):
        torch.mul(d_s, (u - th).abs_() <= s.width / 2, out=out)
    else:  # one pass; it excludes its ends, which belong to the rectangle: the next floats outside do not
        ends = torch.tensor([th - s.width / 2, th + s.width / 2], dtype=u.dtype)
        low, high = torch.nextafter(ends, ends.new_tensor([-math.inf, math.inf])).tolist()
        torch.ops.aten.hardtanh_backward.grad_input(d_s, u, low, high, grad_input=out)
    return out if s.width == 1 else out.div_(s.width)


def _tanh(d_s: Tensor, u: Tensor, th: Threshold, s: Tanh, out: Tensor) -> Tensor:
    centred = u - th
    inside = centred.abs() <= 0.5
    slope = centred.mul_(s.k).tanh_().square_().neg_().add_(1).mul_(s.k / (2 * math.tanh(s.k / 2)))
    return torch.mul(d_s, slope.mul_(inside), out=out)


def _sigmoid(d_s: Tensor, u: Tensor, th: Threshold, s: Sigmoid, out: Tensor) -> Tensor:
    p = (u - th).mul_(s.alpha).sigmoid_()
    return torch.mul(d_s, (p - p.square()).mul_(s.alpha), out=out)


def _arctan(d_s: Tensor, u: Tensor, th: Threshold, s: Arctan, out: Tensor) -> Tensor:
    slope = (u - th).mul_(math.pi / 2 * s.alpha).square_().add_(1).reciprocal_().mul_(s.alpha / 2)
    return torch.mul(d_s, slope, out=out)


DERIVATIVES: dict[type, Callable[..., Tensor]] = {
    Rectangular: _rectangular,
    Tanh: _tanh,
    Sigmoid: _sigmoid,
    Arctan: _arctan,
}


def times_derivative(d_s: Tensor, u: Tensor, v_threshold: Threshold, surrogate: Surrogate, out: Tensor) -> Tensor:
    """``out = d_s * ds/du`` at the membrane potentials `u` before the reset; `out` may be `d_s` itself."""
    return DERIVATIVES[type(surrogate)](d_s, u, v_threshold, surrogate, out)
