"""Pooling over windows of a map (C, H, W), per channel. A border narrower than a window is dropped."""

from __future__ import annotations

from dataclasses import dataclass

from rmp_deploy.ir.ops.base import Op, Pair, Shape, windows


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pool2d(Op):
    """What the three pools share.

    Attributes:
        kernel: (KH, KW), size of a window in pixels, >= 1.
        stride: pixels from one window to the next, (H, W), >= 1.
        padding: zeros added on both sides, (H, W), at most half of kernel.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, least in (("kernel", 1), ("stride", 1), ("padding", 0)):
            value = getattr(self, what)
            self._check(len(value) == 2 and min(value) >= least, f"{what} = {value}", f"2 of >= {least}", "Correct it")
        fits = all(2 * p <= k for p, k in zip(self.padding, self.kernel, strict=True))
        self._check(fits, f"padding = {self.padding}", f"at most half of kernel = {self.kernel}", "Pad less, as torch")

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        self._check(len(shape) == 3, f"input shape = {shape}", "(C, H, W)", "Pool maps only")
        h, w = (
            windows(n, k, s, p) for n, k, s, p in zip(shape[1:], self.kernel, self.stride, self.padding, strict=True)
        )
        self._check(min(h, w) >= 1, f"input map = {shape[1:]}", f"at least kernel = {self.kernel}", "Pool less")
        return (shape[0], h, w)


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool2d(_Pool2d):
    """Mean of each window, padding included.

    ``y[c,h,w] = sum_{i,j} x[c, h*stride + i - padding, ...] / (KH * KW)``
    """


@dataclass(frozen=True, eq=False, kw_only=True)
class SumPool2d(_Pool2d):
    """Sum of each window; of spikes it is a count.

    ``y[c,h,w] = sum_{i,j} x[c, h*stride + i - padding, ...]``
    """


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool2d(_Pool2d):
    """Largest value of each window; of spikes it is OR, so that its value is spikes.

    ``y[c,h,w] = max_{i,j} x[c, h*stride + i - padding, ...]``

    Its input must be spikes: zero padding would otherwise win over negative values, which is not what torch does.
    """
