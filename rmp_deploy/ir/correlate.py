"""Windows of maps and cross-correlation by explicit windows, for the NumPy reference."""

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
    dh, dw = dilation
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    seen = windows(x, span, stride, padding)[..., ::dh, ::dw]  # [B, C, H_out, W_out, KH, KW]
    h_out, w_out = seen.shape[2:4]
    grouped = seen.reshape(len(x), groups, c_group, h_out, w_out, kh, kw)
    by_group = weight.astype(np.float64).reshape(groups, c_out // groups, c_group, kh, kw)
    y: F64 = np.einsum("bgchwij,gocij->bgohw", grouped, by_group, optimize=True)
    return y.reshape(len(x), c_out, h_out, w_out)


def windows(x: F64, span: Shape, stride: Shape, padding: Shape) -> F64:
    """Pad [B, C, H, W] with zeros and view the windows of `span` that start every `stride`: [B, C, H', W', *span]."""
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    view: F64 = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))  # type: ignore[call-overload]
    return view[:, :, :: stride[0], :: stride[1]]
