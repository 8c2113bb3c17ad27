"""Lava's channels without their threads: the same shared memory and semaphores, waited for directly.

In Lava (lava/magma/compiler/channels/pypychannel.py) a thread at each end of each channel waits for the other end and
wakes the process up, which costs more than most layers compute.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.compiler.channels.pypychannel import CspRecvPort, CspSendPort, Proto, PyPyChannel

TO_RUNTIME = ("runtime_to_service", "service_to_runtime")  # both ends look at these without waiting


class DirectSendPort(CspSendPort):  # type: ignore[misc]
    """Sends at most `size` messages ahead of the receiver."""

    _idx: int

    def start(self) -> None:
        self._array = _slots(self)
        self._free = self._size

    def send(self, data: npt.NDArray[Any]) -> None:
        if data.shape != self._shape:
            raise AssertionError(f"{self._name}: shape = {data.shape}, allowed {self._shape}")
        if self._free:
            self._free -= 1
        else:
            self._ack.acquire()
        self._array[self._idx][...] = data
        self._idx = (self._idx + 1) % self._size
        self._req.release()

    def join(self) -> None:
        """Nothing runs that would have to end."""


class DirectRecvPort(CspRecvPort):  # type: ignore[misc]
    """Receives in the order in which was sent."""

    _idx: int

    def start(self) -> None:
        self._array = _slots(self)

    def probe(self) -> bool:
        """Wait for a message: CspSelector asks this of a process's one command channel before it sleeps."""
        self._req.acquire()
        self._req.release()
        return True

    def recv(self) -> npt.NDArray[Any]:
        self._req.acquire()
        data: npt.NDArray[Any] = self._array[self._idx].copy()
        self._idx = (self._idx + 1) % self._size
        self._ack.release()
        return data

    def join(self) -> None:
        """Nothing runs that would have to end."""


def _slots(port: Any) -> list[npt.NDArray[Any]]:
    n = port._nbytes
    return [np.ndarray(port._shape, port._dtype, port._shm.buf[n * i : n * (i + 1)]) for i in range(port._size)]


class DirectChannel(PyPyChannel):  # type: ignore[misc]
    """One sender and one receiver."""

    def __init__(
        self, infrastructure: Any, src_name: str, dst_name: str, shape: Any, dtype: Any, size: int, *watchdogs: Any
    ) -> None:
        nbytes = self.nbytes(shape, dtype)
        shm = infrastructure.smm.create_shared_memory(int(nbytes * size))
        fork = multiprocessing.get_context("fork")
        shared = (shm, Proto(shape, dtype, nbytes), size, fork.Semaphore(0), fork.Semaphore(0))
        self._src_port = DirectSendPort(src_name, *shared, *watchdogs[:2])
        self._dst_port = DirectRecvPort(dst_name, *shared, *watchdogs[2:])


def channel(infrastructure: Any, src_name: str, *rest: Any) -> PyPyChannel:
    """A direct channel between processes and to the runtime service; Lava's own between that and the runtime."""
    kind = PyPyChannel if src_name.startswith(TO_RUNTIME) else DirectChannel
    return kind(infrastructure, src_name, *rest)
