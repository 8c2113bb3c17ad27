"""Linear and Conv2d, real-valued or Loihi's -> Lava's Dense and Conv; a bias goes to the neuron that the synapse feeds.

Lava's image order is (W, H, C): our (C, H, W) with the axes reversed (lava/proc/conv/process.py:45-52).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.ops import Conv2d, Linear, LoihiConv2d, LoihiLinear, Op, Shape
from rmp_deploy.ir.reference_loihi import shifted

F64 = npt.NDArray[np.float64]
GRADED_BITS = 32  # Loihi 2's widest payload; any number > 0 makes Lava's float models pass values on unchanged


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


def conv2d(op: Conv2d, shape: Shape, message_bits: int) -> tuple[Any, Any]:
    """Lava's Conv for a map (C, H, W), and its input port."""
    return _conv(op, conv_weight(op), shape, message_bits)


def loihi_conv2d(op: LoihiConv2d, shape: Shape, message_bits: int) -> tuple[Any, Any]:
    """Lava's fixed-point Conv, which neither clips nor truncates weights and ignores weight_exp (lava issue #803)."""
    return _conv(op, flipped(shifted(op.weight.astype(np.int64), op.weight_exp)), shape, message_bits)


def _conv(op: Conv2d | LoihiConv2d, weight: npt.NDArray[Any], shape: Shape, message_bits: int) -> tuple[Any, Any]:
    from lava.proc.conv.process import Conv

    conv = Conv(
        name=op.name,
        weight=weight,
        input_shape=shape[::-1],
        stride=op.stride[::-1],
        padding=op.padding[::-1],
        dilation=op.dilation[::-1],
        groups=op.groups,
        num_message_bits=message_bits,
    )
    return conv, conv.s_in


def linear(op: Linear, shape: Shape, message_bits: int) -> tuple[Any, Any]:
    """Lava's Dense for an array of `shape` that counts as flat, and its input port."""
    from lava.proc.dense.process import Dense

    dense = Dense(
        name=op.name, weights=dense_weight(op.weight.astype(np.float64), shape), num_message_bits=message_bits
    )
    return dense, dense.s_in


def loihi_linear(op: LoihiLinear, shape: Shape, message_bits: int) -> tuple[Any, Any]:
    """Lava's fixed-point Dense, which shares our rules for weights and exponent, and its input port."""
    from lava.proc.dense.process import Dense
    from lava.utils.weightutils import SignMode

    dense = Dense(
        name=op.name,
        weights=dense_weight(op.weight, shape),
        num_message_bits=message_bits,
        weight_exp=op.weight_exp,
        num_weight_bits=op.num_weight_bits,
        sign_mode=SignMode[op.sign_mode.upper()],
    )
    return dense, dense.s_in


def bias(op: Op, shape: Shape) -> F64:
    """The bias of every output, broadcast to the synapse's output `shape`; zeros where it has none."""
    per_channel = op.bias if isinstance(op, Linear | Conv2d) else None
    if per_channel is None:
        return np.zeros(shape)
    return np.broadcast_to(per_channel.astype(np.float64).reshape(-1, *(1,) * (len(shape) - 1)), shape)


SYNAPSES: dict[type[Op], Callable[..., tuple[Any, Any]]] = {
    Conv2d: conv2d,
    Linear: linear,
    LoihiConv2d: loihi_conv2d,
    LoihiLinear: loihi_linear,
}
