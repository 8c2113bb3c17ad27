"""Loihi's integer ops in int64: their definition, equal to lava-nc 0.10.0 bit for bit (docs/loihi.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.correlate import correlate
from rmp_deploy.ir.ops import LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.ir.ops.loihi import STATE_SHIFT

I64 = npt.NDArray[np.int64]
DECAY_SHIFT = 12  # decays are fractions of 2^12
STATE_LIMIT = 1 << 23


def loihi_lif(op: LoihiLIF, x: npt.NDArray[Any], v: I64, i: I64) -> tuple[I64, I64, I64, I64]:
    """One step: spikes, v, i and u from the current x [B, *shape] and the states; equations in `LoihiLIF`.

    Sums are taken in int32 as by Lava, whose arrays they are: one that leaves it wraps there too.
    """
    current = _wrap(_int32(_decayed(i, op.du.astype(np.int64) + 1) + (x.astype(np.int64) << STATE_SHIFT)))
    u = _int32(_decayed(v, op.dv.astype(np.int64)) + current + op.bias).clip(1 - STATE_LIMIT, STATE_LIMIT - 1)
    spikes = u > op.threshold
    return spikes.astype(np.int64), np.where(spikes, 0, u), current, u


def _decayed(state: I64, decay: I64) -> I64:
    """``state * (4096 - decay) / 4096``, truncated toward zero."""
    product = state.astype(np.int64) * ((1 << DECAY_SHIFT) - decay)
    decayed: I64 = np.sign(product) * (np.abs(product) >> DECAY_SHIFT)
    return decayed


def _wrap(x: I64) -> I64:
    """Wrap once into 24 bits, -2^23 < x <= 2^23."""
    over, under = x > STATE_LIMIT, x <= -STATE_LIMIT
    wrapped: I64 = x - 2 * STATE_LIMIT * over + 2 * STATE_LIMIT * under
    return wrapped


def _int32(x: I64) -> I64:
    return x.astype(np.int32).astype(np.int64)


def shifted(total: I64, weight_exp: int) -> I64:
    """``total << weight_exp``; a negative exponent shifts right (floor)."""
    return total << weight_exp if weight_exp > 0 else total >> -weight_exp


def loihi_linear(op: LoihiLinear, x: npt.NDArray[Any]) -> I64:
    """``y[b, o] = (sum_i weight[o, i] * x[b, i]) << weight_exp``"""
    # products in float64 are fast, and exact: a graph allows sums below 2^23 only
    total = x.astype(np.float64) @ op.weight.T.astype(np.float64)
    return shifted(total.astype(np.int64), op.weight_exp)


def loihi_conv2d(op: LoihiConv2d, x: npt.NDArray[Any]) -> I64:
    """Cross-correlation [B, C, H, W] -> [B, C_out, H_out, W_out], then the shift of `loihi_linear`."""
    total = correlate(x.astype(np.float64), op.weight, op.stride, op.padding, op.dilation, op.groups)
    return shifted(total.astype(np.int64), op.weight_exp)
