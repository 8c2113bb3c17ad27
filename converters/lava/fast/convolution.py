"""Lava's convolution of one map as one matrix product."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

BLOCK = 2**18  # elements of the unfolded map at a time: 1 MB in float32, which stays in the cache


class Convolution:
    """The sum of lava/proc/conv/utils.py:183-259, for one weight and one geometry:

    ``y[i, j, o] = sum_{a, b, c} weight[o, KW-1-a, KH-1-b, c] * x[i*stride + a*dilation - padding, ..., g(o) + c]``

    There each pair of channels is one call of scipy; here the windows of the map are the rows of a matrix.

    Args:
        weight: (C_out, KW, KH, C_in/groups), as Lava's Conv takes it.
        input_shape: (W, H, C_in).
        stride: (W, H), as `padding` and `dilation`.
        groups: of channels.
        dtype: of the products and their sums.
    """

    def __init__(
        self,
        weight: npt.NDArray[Any],
        input_shape: tuple[int, ...],
        stride: npt.NDArray[Any],
        padding: npt.NDArray[Any],
        dilation: npt.NDArray[Any],
        groups: int,
        dtype: type,
    ) -> None:
        c_out, kernel_w, kernel_h, c_group = weight.shape
        (width, height), (pad_w, pad_h) = input_shape[:2], (int(p) for p in padding)
        padded: npt.NDArray[Any] = np.zeros((width + 2 * pad_w, height + 2 * pad_h, groups, c_group), dtype)
        self._inside = padded[pad_w : pad_w + width, pad_h : pad_h + height]
        windows = sliding_window_view(padded, int(dilation[0]) * (kernel_w - 1) + 1, axis=0)  # views: they follow
        windows = sliding_window_view(windows, int(dilation[1]) * (kernel_h - 1) + 1, axis=1)
        windows = windows[:: stride[0], :: stride[1], ..., :: dilation[0], :: dilation[1]]
        self._windows = windows.transpose(2, 0, 1, 4, 5, 3)  # group, W_out, H_out, KW, KH, channel of the group
        flipped = weight[:, ::-1, ::-1].reshape(groups, c_out // groups, -1)
        self._matrix: npt.NDArray[Any] = np.ascontiguousarray(flipped.transpose(0, 2, 1), dtype)
        self._rows = max(1, BLOCK // math.prod((groups, *self._windows.shape[2:])))  # of W_out in a block

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(W_out, H_out, C_out) of a map (W, H, C_in)."""
        self._inside[...] = x.reshape(self._inside.shape)
        groups, w_out, h_out = self._windows.shape[:3]
        out = np.empty((w_out, h_out, groups, self._matrix.shape[2]), self._matrix.dtype)
        for first in range(0, w_out, self._rows):
            block = self._windows[:, first : first + self._rows]
            product = block.reshape(groups, -1, self._matrix.shape[1]) @ self._matrix
            out[first : first + self._rows] = product.reshape(groups, -1, h_out, out.shape[3]).transpose(1, 2, 0, 3)
        return out.reshape(w_out, h_out, -1)
