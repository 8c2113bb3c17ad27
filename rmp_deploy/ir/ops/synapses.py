"""Synapses: the ops with weights. Biases are added at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from rmp_deploy.errors import op_error
from rmp_deploy.ir.ops.base import Array, Op, Pair, Shape, windows


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Op):
    """Dense synapses.

    ``y[o] = sum_i weight[o, i] * x[i] + bias[o]``

    Attributes:
        weight: (N_out, N_in).
        bias: (N_out,), added at every step; None is none.
    """

    weight: Array
    bias: Array | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.weight.ndim == 2, f"weight.ndim = {self.weight.ndim}", "2 (N_out, N_in)", "Reshape it")
        _check_bias(self, self.weight.shape[0], self.bias)

    def output_shape(self, *shapes: Shape) -> Shape:
        return dense_shape(self, self.weight.shape, *shapes)


class ConvGeometry(Op):
    """What convolutions of any number of axes and any kind of weight share; each declares these as its own fields.

    Attributes:
        weight: (C_out, C_in/groups, *kernel).
        stride: pixels from one window to the next, one number per axis, >= 1.
        padding: zeros added on both sides, one number per axis, >= 0.
        dilation: pixels from one tap to the next, one number per axis, >= 1.
        groups: blocks of channels that see only their own block of inputs; divides C_in and C_out.
    """

    axes: ClassVar[str]

    weight: npt.NDArray[Any]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.axes)
        kernel = ", ".join(f"K{axis}" for axis in self.axes)
        self._check(
            self.weight.ndim == n + 2,
            f"weight.ndim = {self.weight.ndim}",
            f"{n + 2} (C_out, C_in/groups, {kernel})",
            "Reshape it",
        )
        for what, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
            value = getattr(self, what)
            fits = len(value) == n and min(value) >= least
            self._check(fits, f"{what} = {value}", f"{n} of >= {least}", "Correct it")
        self._check(
            self.groups >= 1 and self.weight.shape[0] % self.groups == 0,
            f"groups = {self.groups}",
            f"a divisor of C_out = {self.weight.shape[0]}",
            "Correct it",
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        c_in = self.weight.shape[1] * self.groups
        wanted = f"({', '.join((str(c_in), *self.axes))})"
        fits = len(shape) == 1 + len(self.axes) and shape[0] == c_in
        self._check(fits, f"input shape = {shape}", wanted, "Match the channels")
        reach = tuple(d * (k - 1) + 1 for k, d in zip(self.weight.shape[2:], self.dilation, strict=True))
        size = tuple(
            windows(n, r, s, p) for n, r, s, p in zip(shape[1:], reach, self.stride, self.padding, strict=True)
        )
        allowed = f"at least {reach} with its padding"
        self._check(min(size) >= 1, f"input map = {shape[1:]}", allowed, "Use a smaller kernel")
        return (self.weight.shape[0], *size)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Conv(ConvGeometry):
    """Convolutions of real weights, with a bias.

    Attributes:
        bias: (C_out,), added at every step; None is none.
    """

    weight: Array
    bias: Array | None = None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bias(self, self.weight.shape[0], self.bias)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv1d(_Conv):
    """1-D cross-correlation as in torch: weight (C_out, C_in/groups, K), input (C, L), zero padding.

    ``y[o,l] = sum_{c,i} weight[o,c,i] * x[c, l*stride + i*dilation - padding] + bias[o]``
    """

    axes: ClassVar[str] = "L"

    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] = (0,)
    dilation: tuple[int, ...] = (1,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(_Conv):
    """2-D cross-correlation as in torch: weight (C_out, C_in/groups, KH, KW), input (C, H, W), zero padding.

    ``y[o,h,w] = sum_{c,i,j} weight[o,c,i,j] * x[c, h*stride + i*dilation - padding, ...] + bias[o]``
    """

    axes: ClassVar[str] = "HW"

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


def dense_shape(op: Op, weight: Shape, shape: Shape) -> Shape:
    """Shape of what a `weight` (N_out, N_in) makes of an input of `shape`."""
    if shape != (weight[1],):
        todo = "Put a Flatten before it or fix N_in"
        raise op_error(op.kind, op.name, f"input shape = {shape}", f"{(weight[1],)}", todo)
    return (weight[0],)


def _check_bias(op: Op, n: int, bias: Array | None) -> None:
    if bias is not None and bias.shape != (n,):
        raise op_error(op.kind, op.name, f"bias.shape = {bias.shape}", f"({n},)", "Give one bias per output")
