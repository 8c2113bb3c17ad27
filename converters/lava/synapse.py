"""Linear and convolutions, real-valued or Loihi's -> Lava's Dense, Sparse and Conv; a bias goes to the neurons behind.

Lava's image order is (W, H, C): our (C, H, W) with the axes reversed (lava/proc/conv/process.py:45-52).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.converters.lava.wiring import Link
from rmp_deploy.ir.ops import Conv1d, Conv2d, Linear, LoihiConv2d, LoihiLinear, Op, Shape
from rmp_deploy.ir.reference_loihi import shifted

F64 = npt.NDArray[np.float64]
SPARSE = 1 / 8  # a matrix with fewer non-zero weights than this part becomes Lava's Sparse


def flipped(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(C_out, C_in/groups, KH, KW) -> (C_out, KW, KH, C_in/groups), flipped: Lava convolves, torch correlates."""
    return weight.transpose(0, 3, 2, 1)[:, ::-1, ::-1]


def conv_weight(op: Conv2d) -> F64:
    """The kernel in Lava's order."""
    return flipped(op.weight.astype(np.float64))


def dense_weight(matrix: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """(N_out, N_in) with the columns in the order of a flattened Lava array of our `shape`, e.g. C,H,W -> W,H,C."""
    weight = matrix.reshape(-1, *shape)
    return weight.transpose(0, *range(len(shape), 0, -1)).reshape(len(weight), -1)


def conv1d(op: Conv1d, link: Link, name: str) -> tuple[Any, Any]:
    """Lava's Conv for a map of height 1, and its input port."""
    weight = op.weight.astype(np.float64)[:, :, None]
    return _conv(weight, (1, *op.stride), (0, *op.padding), (1, *op.dilation), op.groups, link, name)


def conv2d(op: Conv2d, link: Link, name: str) -> tuple[Any, Any]:
    """Lava's Conv for a map (C, H, W), and its input port."""
    return _conv(op.weight.astype(np.float64), op.stride, op.padding, op.dilation, op.groups, link, name)


def loihi_conv2d(op: LoihiConv2d, link: Link, name: str) -> tuple[Any, Any]:
    """Lava's fixed-point Conv, which neither clips nor truncates weights and ignores weight_exp (lava issue #803)."""
    weight = shifted(op.weight.astype(np.int64), op.weight_exp)
    return _conv(weight, op.stride, op.padding, op.dilation, op.groups, link, name)


def _conv(
    weight: npt.NDArray[Any], stride: Shape, padding: Shape, dilation: Shape, groups: int, link: Link, name: str
) -> tuple[Any, Any]:
    """The input channels of `link` alone; where these are a part of a grouped convolution, other groups' are 0."""
    from lava.proc.conv.process import Conv

    channels = link.shape[0]
    if channels < weight.shape[1] * groups:
        first = link.start // math.prod(link.shape[1:])
        weight, groups = _ungrouped(weight, groups)[:, first : first + channels], 1
    conv = Conv(
        name=name,
        weight=flipped(weight),
        input_shape=link.shape[::-1],
        stride=stride[::-1],
        padding=padding[::-1],
        dilation=dilation[::-1],
        groups=groups,
        num_message_bits=link.message_bits,
    )
    return conv, conv.s_in


def _ungrouped(weight: npt.NDArray[Any], groups: int) -> npt.NDArray[Any]:
    """(C_out, C_in/groups, KH, KW) -> (C_out, C_in, KH, KW), zeros where an output does not see an input."""
    n_out, n_in = len(weight) // groups, weight.shape[1]
    full = np.zeros((len(weight), n_in * groups, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        outputs = slice(g * n_out, (g + 1) * n_out)
        full[outputs, g * n_in : (g + 1) * n_in] = weight[outputs]
    return full


def linear(op: Linear, link: Link, name: str) -> tuple[Any, Any]:
    """Lava's Dense, or Sparse, for an array that counts as flat, and its input port."""
    return _matrix(op.weight.astype(np.float64), link, name)


def loihi_linear(op: LoihiLinear, link: Link, name: str) -> tuple[Any, Any]:
    """Lava's fixed-point Dense or Sparse, which share our rules for weights and exponent, and its input port."""
    from lava.utils.weightutils import SignMode

    rules = {
        "weight_exp": op.weight_exp,
        "num_weight_bits": op.num_weight_bits,
        "sign_mode": SignMode[op.sign_mode.upper()],
    }
    return _matrix(op.weight, link, name, **rules)


def _matrix(weight: npt.NDArray[Any], link: Link, name: str, **rules: Any) -> tuple[Any, Any]:
    """The columns of `link` alone."""
    from lava.proc.dense.process import Dense
    from lava.proc.sparse.process import Sparse

    columns = weight[:, link.start : link.start + math.prod(link.shape)]
    kind = Sparse if np.count_nonzero(columns) < SPARSE * columns.size else Dense
    process = kind(name=name, weights=dense_weight(columns, link.shape), num_message_bits=link.message_bits, **rules)
    return process, process.s_in


def bias(op: Op, shape: Shape) -> F64:
    """The bias of every output, broadcast to the synapse's output `shape`; zeros where it has none."""
    per_channel = op.bias if isinstance(op, Linear | Conv1d | Conv2d) else None
    if per_channel is None:
        return np.zeros(shape)
    return np.broadcast_to(per_channel.astype(np.float64).reshape(-1, *(1,) * (len(shape) - 1)), shape)


SYNAPSES: dict[type[Op], Callable[..., tuple[Any, Any]]] = {
    Conv1d: conv1d,
    Conv2d: conv2d,
    Linear: linear,
    LoihiConv2d: loihi_conv2d,
    LoihiLinear: loihi_linear,
}
