"""Lava's Dense and Conv by matrix products in floating point, exact where the numbers are integers; Sparse by csr.

Whole numbers are exact in float32 below 2^24 and in float64 below 2^53, whatever the order of their sum. Sums of spikes
are bounded by the weights; a message is any int32, so its sums are taken in float64, as Lava's Conv itself does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.proc.conv.models import AbstractPyConvModel, PyConvModelFixed, PyConvModelFloat
from lava.proc.dense.models import PyDenseModelBitAcc, PyDenseModelFloat
from lava.proc.sparse.models import PySparseModelBitAcc, PySparseModelFloat
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

from rmp_deploy.converters.lava.fast.convolution import Convolution

HALF = 1 << 23  # Lava's Conv wraps what it sends to -2^23..2^23 - 1 (lava/proc/conv/utils.py:62-80)


def exact_type(weight: npt.NDArray[Any], message_bits: int) -> type:
    """The smaller float that holds every sum of ``weight[o]`` over the inputs, [C_out, ...]."""
    largest = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).sum(axis=1).max()
    whole = np.issubdtype(weight.dtype, np.integer)
    return np.float32 if whole and message_bits == 0 and largest < 2**24 else np.float64


def stored(weights: Any, proc_params: Any) -> Any:
    """The weights as Lava's Dense and Sparse clip and truncate them at their first step."""
    mode = proc_params.get("sign_mode") or determine_sign_mode(weights)
    clipped = clip_weights(weights, mode, num_bits=8)
    return truncate_weights(clipped, mode, proc_params.get("num_weight_bits", 8))


def shifted(total: npt.NDArray[np.int32], exp: int) -> npt.NDArray[np.int32]:
    """``total << exp``, in int32; the floor of the sum where `exp` is negative."""
    return np.left_shift(total, exp) if exp > 0 else np.right_shift(total, -exp)


class PyDenseFloatFast(PyDenseModelFloat):  # type: ignore[misc]
    """``a = weights @ s_in``: Lava's copies the columns of the inputs that spiked."""

    a_buff: npt.NDArray[np.float64]

    def run_spk(self) -> None:
        self.a_out.send(self.a_buff)
        s_in = self.s_in.recv()
        if self.num_message_bits.item() == 0:
            s_in = s_in.astype(np.bool_)
        self.a_buff = self.weights @ s_in.astype(np.float64)


class PyDenseFixedFast(PyDenseModelBitAcc):  # type: ignore[misc]
    """``a = (weights @ s_in) << weight_exp`` of the weights that Lava's model clips and truncates, sums in int32."""

    weights_set: bool
    weights: npt.NDArray[np.int32]
    a_buff: npt.NDArray[np.int32]

    def run_spk(self) -> None:
        bits = self.num_message_bits.item()
        if not self.weights_set:
            self.weights, self.weights_set = stored(self.weights, self.proc_params), True
            self._matrix: npt.NDArray[Any] = self.weights.astype(exact_type(self.weights, bits))
        self.a_out.send(self.a_buff)
        s_in = self.s_in.recv()
        if bits == 0:
            s_in = s_in.astype(np.bool_)
        total = self._matrix @ s_in.astype(self._matrix.dtype)
        self.a_buff = shifted(total.astype(np.int64).astype(np.int32), self.proc_params.get("weight_exp", 0))


class PySparseFloatFast(PySparseModelFloat):  # type: ignore[misc]
    """``a = weights @ s_in``, a csr matrix: Lava's cuts it into columns at every step."""

    a_buff: npt.NDArray[np.float64]

    def run_spk(self) -> None:
        self.a_out.send(self.a_buff)
        s_in = self.s_in.recv()
        if self.num_message_bits.item() == 0:
            s_in = s_in.astype(np.bool_)
        self.a_buff = self.weights @ s_in.astype(np.float64)


class PySparseFixedFast(PySparseModelBitAcc):  # type: ignore[misc]
    """The same as `PyDenseFixedFast`, in int32."""

    weights_set: bool
    weights: Any
    a_buff: npt.NDArray[np.int32]

    def run_spk(self) -> None:
        if not self.weights_set:
            self.weights, self.weights_set = stored(self.weights, self.proc_params), True
        self.a_out.send(self.a_buff)
        s_in = self.s_in.recv()
        if self.num_message_bits.item() == 0:
            s_in = s_in.astype(np.bool_)
        self.a_buff = shifted(self.weights @ s_in.astype(np.int32), self.proc_params.get("weight_exp", 0))


class _ConvFast(AbstractPyConvModel):  # type: ignore[misc]
    a_buf: npt.NDArray[Any]
    _convolve: Convolution | None = None

    def run_spk(self) -> None:
        bits = self.num_message_bits.item()
        if self._convolve is None:
            self._convolve = Convolution(
                self.weight,
                self.s_in.shape,
                self.stride,
                self.padding,
                self.dilation,
                self.groups.item(),
                exact_type(self.weight, bits),
            )
        self.a_out.send(self.a_buf)
        s_in = self.s_in.recv()
        if bits == 0:
            s_in = s_in.astype(np.bool_)
        self.a_buf = self.clamp_precision(self._convolve(s_in).astype(self.weight.dtype, copy=False))


class PyConvFloatFast(_ConvFast, PyConvModelFloat):  # type: ignore[misc]
    """The convolution in float64."""


class PyConvFixedFast(_ConvFast, PyConvModelFixed):  # type: ignore[misc]
    """The convolution of integers, wrapped at 24 bits."""

    def clamp_precision(self, x: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Lava's remainder by 2^24, which is a mask."""
        return ((x + HALF) & (2 * HALF - 1)) - HALF
