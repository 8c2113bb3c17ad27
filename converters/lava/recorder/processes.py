"""`Source` sends the samples, `Sink` records what a port sends; Lava's RingBuffer needs ~18 us per element read back.

A Lava array is ours with the axes reversed: (C, H, W) <-> (W, H, C), (N,) <-> (N,).
"""

from __future__ import annotations

import math
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Source(AbstractProcess):  # type: ignore[misc]
    """Send each of `frames` [F, *shape] `repeat` times from time step ``1 + latency`` on, zeros before and after.

    A direct-coded sample is kept once, not T times.
    """

    def __init__(self, *, frames: npt.NDArray[Any], repeat: int, name: str, latency: int = 0) -> None:
        super().__init__(frames=frames, repeat=repeat, latency=latency, name=name)
        self.s_out = OutPort(shape=frames.shape[:0:-1])


class Rows:
    """The rows of a trace: [N*T, *shape] (our order) in an unlinked file that parent and children share by `fork`.

    The file is gone when its last holder is, however that ends; dirty pages go to disk, so memory stays free.
    """

    def __init__(self, file: IO[bytes], dtype: type, shape: tuple[int, ...], latency: int) -> None:
        self._file, self._dtype, self._shape, self._latency = file, dtype, shape, latency
        self._mapped: npt.NDArray[Any] | None = None
        file.truncate(math.prod(shape) * np.dtype(dtype).itemsize)

    def write(self, time_step: int, values: npt.NDArray[Any]) -> None:
        """In the child: keep `values` (Lava order) if `time_step` (1, 2, ...) is one of the layer's N*T steps."""
        if self._mapped is None:
            self._mapped = np.memmap(self._file, self._dtype, "r+", shape=self._shape)
        row = time_step - 1 - self._latency
        if 0 <= row < len(self._mapped):
            self._mapped[row] = values.T

    def read(self) -> npt.NDArray[Any]:
        """In the parent, after the run: all rows."""
        self._file.seek(0)
        return np.fromfile(self._file, self._dtype).reshape(self._shape)


class Sink(AbstractProcess):  # type: ignore[misc]
    """Store in `rows` what `a_in` receives; `shape` is the sending port's, in Lava's order."""

    def __init__(self, *, shape: tuple[int, ...], rows: Rows, name: str) -> None:
        super().__init__(rows=rows, name=name)
        self.a_in = InPort(shape=shape)


class _PySource(PyLoihiProcessModel):  # type: ignore[misc]
    """Frame ``(time_step - 1 - latency) // repeat`` at every time step."""

    s_out: PyOutPort

    def run_spk(self) -> None:
        frames: npt.NDArray[Any] = self.proc_params["frames"]
        frame = (self.time_step - 1 - self.proc_params["latency"]) // self.proc_params["repeat"]
        values = frames[frame].T if 0 <= frame < len(frames) else np.zeros(self.s_out.shape)
        self.s_out.send(values)


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PySource(_PySource):
    """Real values."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyIntegerSource(_PySource):
    """Integers: Lava's fixed-point synapses shift what they sum, which floats cannot be."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)


@implements(proc=Sink, protocol=LoihiProtocol)
@requires(CPU)
class PySink(PyLoihiProcessModel):  # type: ignore[misc]
    """Writes what it receives; bool rows keep spikes as one byte each."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)

    def run_spk(self) -> None:
        self.proc_params["rows"].write(self.time_step, self.a_in.recv())
