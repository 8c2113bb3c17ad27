"""Ops that move values or join them, and BatchNorm, which lives until it is folded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmp_deploy.ir.ops.base import Array, Op, Shape


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchNorm(Op):
    """Inference BatchNorm over channels, shapes (C,); lives between export and `passes.fold_batchnorm`.

    ``y = gamma * (x - mean) / sqrt(var + eps) + beta``

    Attributes:
        gamma: scale, (C,).
        beta: shift, (C,).
        mean: of training, (C,).
        var: of training, (C,); var + eps > 0.
        eps: float32.
    """

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eps", float(np.float32(self.eps)))  # as the file keeps it
        shapes = {self.gamma.shape, self.beta.shape, self.mean.shape, self.var.shape}
        self._check(
            len(shapes) == 1 and self.gamma.ndim == 1, f"parameter shapes = {sorted(shapes)}", "one (C,)", "Correct it"
        )
        self._check(float(self.var.min()) + self.eps > 0, f"var + eps = {self.var.min() + self.eps}", "> 0", "Fix it")

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        c = self.gamma.shape[0]
        self._check(len(shape) >= 1 and shape[0] == c, f"input shape = {shape}", f"({c}, ...)", "Match the channels")
        return shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(Op):
    """(C, H, W) -> (C*H*W,) in C order, as torch: ``y[(c*H + h)*W + w] = x[c,h,w]``."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return (int(np.prod(shapes[0])),)


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Op):
    """Sum of two or more values of one shape: a residual connection. The sum of spikes is a count, not spikes.

    ``y = x_1 + x_2 + ...``
    """

    arity: ClassVar[tuple[int, int]] = (2, sys.maxsize)

    def output_shape(self, *shapes: Shape) -> Shape:
        self._check(len(set(shapes)) == 1, f"input shapes = {list(shapes)}", "equal ones", "Match the branches")
        return shapes[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Op):
    """Two or more values behind each other along their first axis: channels of maps, or neurons."""

    arity: ClassVar[tuple[int, int]] = (2, sys.maxsize)

    def output_shape(self, *shapes: Shape) -> Shape:
        self._check(len({s[1:] for s in shapes}) == 1, f"input shapes = {list(shapes)}", "equal maps", "Match them")
        return (sum(s[0] for s in shapes), *shapes[0][1:])


@dataclass(frozen=True, eq=False, kw_only=True)
class Delay(Op):
    """The value of ``steps`` time steps ago: ``y[t] = x[t - steps]``, 0 before that.

    It may read a value that is made after it: a delay of 1 is a recurrent edge. Therefore it states its `shape`.

    Attributes:
        steps: how many time steps ago, 1..4096.
        shape: of its value, without time and batch.
    """

    steps: int
    shape: Shape

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(1 <= self.steps <= MAX_DELAY, f"steps = {self.steps}", f"1..{MAX_DELAY}", "Correct it")
        fits = len(self.shape) >= 1 and min(self.shape) >= 1
        self._check(fits, f"shape = {self.shape}", "sizes >= 1", "State its value's shape")

    def output_shape(self, *shapes: Shape) -> Shape:
        for shape in shapes:
            self._check(shape == self.shape, f"input shape = {shape}", f"shape = {self.shape}", "Correct its shape")
        return self.shape


MAX_DELAY = 4096
