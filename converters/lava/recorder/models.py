"""Lava's models with something added to their step; the mathematics stays the parent's."""

from __future__ import annotations

from typing import Any

import numpy as np


def recorded(model: Any) -> Any:
    """A LIFReset model that writes `v` after the reset into the `Rows` of the process parameter `membrane`.

    A RefPort would read the same `v`, but adds a management phase to every step of every process.
    """

    class Recorded(model):  # type: ignore[misc]
        def run_spk(self) -> None:
            super().run_spk()
            self.proc_params["membrane"].write(self.time_step, self.v)

    return Recorded


def windowed(model: Any) -> Any:
    """A Dense, Sparse or Conv model that sees zeros in the first `delay` steps of every sample's T.

    What it reads there was sent at the end of the sample before. `window` is (latency of what it sends, T, delay).
    """

    class Windowed(model):  # type: ignore[misc]
        def run_spk(self) -> None:
            super().run_spk()
            latency, T, delay = self.proc_params["window"]
            if (self.time_step - latency) % T < delay:
                buffer = "a_buf" if hasattr(self, "a_buf") else "a_buff"  # as Conv calls it, and the others
                setattr(self, buffer, np.zeros_like(getattr(self, buffer)))

    return Windowed
