"""Lava's fixed-point LIFReset in float64, where its 24-bit states and their products with 13-bit decays are exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from lava.magma.core.model.py.type import LavaPyType
from lava.proc.lif.models import PyLifResetModelBitAcc


class PyLifResetFixedFast(PyLifResetModelBitAcc):  # type: ignore[misc]
    """The steps of lava/proc/lif/models.py:124-194 without their int64 copies; bias and threshold are scaled once.

    States are whole numbers, stored as floats. With the process parameter `membrane` (`Rows`), `v` after the reset is
    written there.
    """

    u: npt.NDArray[np.float64] = LavaPyType(np.ndarray, float)
    v: npt.NDArray[np.float64] = LavaPyType(np.ndarray, float)

    def run_spk(self) -> None:
        u = np.left_shift(self.a_in.recv(), self.act_shift)
        if not self.isthrscaled:
            self.scale_bias()
            self.scale_threshold()
            self._u_kept = (self.decay_unity - (np.asarray(self.du) + self.ds_offset)) / self.decay_unity
            self._v_kept = (self.decay_unity - (np.asarray(self.dv) + self.dm_offset)) / self.decay_unity
        if self.time_step % self.reset_interval == self.reset_offset:
            self.u[...] = 0
            self.v[...] = 0

        if self._u_kept.any():
            u = u + np.trunc(self.u * self._u_kept)
        limit = self.max_uv_val
        if u.max() > limit or u.min() <= -limit:  # wraps once, as there
            u = np.where(u > limit, u - 2 * limit, np.where(u <= -limit, u + 2 * limit, u))
        self.u[...] = u

        v = self.v
        v *= self._v_kept
        np.trunc(v, out=v)
        v += self.u
        v += self.effective_bias
        np.clip(v, 1 - limit, limit - 1, out=v)
        spikes = self.spiking_activation()
        self.reset_voltage(spike_vector=spikes)
        self.s_out.send(spikes)
        rows = self.proc_params.get("membrane")
        if rows is not None:
            rows.write(self.time_step, v)
