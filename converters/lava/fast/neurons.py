"""Lava's fixed-point LIFReset with its decays in float64, where 24-bit states times 13-bit factors are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.proc.lif.models import PyLifResetModelBitAcc


class PyLifResetFixedFast(PyLifResetModelBitAcc):  # type: ignore[misc]
    """The steps of lava/proc/lif/models.py:124-194: sums in int32, as there; bias and threshold are scaled once."""

    _kept: tuple[Any, Any] | None = None  # of u and of v, in each step

    def run_spk(self) -> None:
        u = np.left_shift(self.a_in.recv(), self.act_shift)
        if self._kept is None:
            self.scale_bias()
            self.scale_threshold()
            decays = (np.asarray(self.du) + self.ds_offset, np.asarray(self.dv) + self.dm_offset)
            self._kept = tuple((self.decay_unity - decay) / self.decay_unity for decay in decays)
        kept_u, kept_v = self._kept
        if self.time_step % self.reset_interval == self.reset_offset:
            self.u[...] = 0
            self.v[...] = 0

        if kept_u.any():
            u = _toward_zero(self.u * kept_u) + u
        limit = self.max_uv_val
        if u.max() > limit or u.min() <= -limit:  # wraps once, as there
            u = np.where(u > limit, u - 2 * limit, np.where(u <= -limit, u + 2 * limit, u))
        self.u[...] = u

        v = _toward_zero(self.v * kept_v)
        v += self.u
        v += self.effective_bias
        np.clip(v, 1 - limit, limit - 1, out=self.v)
        spikes = self.spiking_activation()
        self.reset_voltage(spike_vector=spikes)
        self.s_out.send(spikes)


def _toward_zero(x: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    return x.astype(np.int32)
