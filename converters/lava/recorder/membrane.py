"""Lava's own LIFReset models, which also write their membrane potential down after each step."""

from __future__ import annotations

from lava.proc.lif.models import PyLifResetModelBitAcc, PyLifResetModelFloat


class PyLifResetRecorded(PyLifResetModelFloat):  # type: ignore[misc]
    """`v` after the reset, into the `Rows` of the process parameter `membrane`; the mathematics is the parent's.

    A RefPort would read the same `v`, but adds a management phase to every step of every process.
    """

    def run_spk(self) -> None:
        super().run_spk()
        self.proc_params["membrane"].write(self.time_step, self.v)


class PyLifResetFixedRecorded(PyLifResetModelBitAcc):  # type: ignore[misc]
    """The same of the fixed-point model."""

    def run_spk(self) -> None:
        super().run_spk()
        self.proc_params["membrane"].write(self.time_step, self.v)
