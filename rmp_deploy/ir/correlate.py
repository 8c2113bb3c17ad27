"""Windows of maps and cross-correlation, for the NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.ops import Shape

F64 = npt.NDArray[np.float64]


def correlate(x: F64, weight: npt.NDArray[Any], stride: Shape, padding: Shape, dilation: Shape, groups: int) -> F64:
    """``y[o,h,w] = sum_{c,i,j} weight[o,c,i,j] * x[c, h*stride + i*dilation - padding, ...]`` in float64:
    [B, C, H, W] -> [B, C_out, H_out, W_out]."""
    c_out, c_group, kh, kw = weight.shape
    (sh, sw), (dh, dw) = stride, dilation
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    h, w = (
        (n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded.shape[2:], (kh, kw), stride, dilation, strict=True)
    )
    by_tap = weight.astype(np.float64).reshape(groups, c_out // groups, c_group, kh, kw).transpose(3, 4, 0, 1, 2).copy()
    y = np.zeros((len(x), groups, c_out // groups, h * w))
    for i, j in np.ndindex(kh, kw):  # a matrix product for each tap: BLAS, and no copy of every window
        seen = padded[:, :, i * dh : i * dh + (h - 1) * sh + 1 : sh, j * dw : j * dw + (w - 1) * sw + 1 : sw]
        y += by_tap[i, j] @ seen.reshape(len(x), groups, c_group, h * w)
    return y.reshape(len(x), c_out, h, w)


def windows(x: F64, span: Shape, stride: Shape, padding: Shape) -> F64:
    """Pad [B, C, H, W] with zeros and view the windows of `span` that start every `stride`: [B, C, H', W', *span]."""
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    view: F64 = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))  # type: ignore[call-overload]
    return view[:, :, :: stride[0], :: stride[1]]
