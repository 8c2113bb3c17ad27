"""Run a SpikingGraph on Lava's Loihi simulator: every layer an OS process, one run for all samples."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.backends import lava_runtime
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.reference import read_out
from rmp_deploy.ir.trace import Record, Trace

RECORDS: tuple[Record, ...] = ("spikes", "v", "readout")
_turn = threading.Lock()


def _own_turn() -> None:
    global _turn  # noqa: PLW0603
    _turn = threading.Lock()


os.register_at_fork(after_in_child=_own_turn)  # the thread that holds the parent's is not in the child


def run(
    graph: SpikingGraph,
    x: npt.NDArray[Any],
    record: Sequence[Record] = (),
    *,
    fast: bool = False,
    patience: float = lava_runtime.PATIENCE,
) -> Trace:
    """Stream samples `x` ([N, *shape] direct, [N, T, *shape] time_series) through Lava in N*T + L time steps.

    L is the number of synaptic layers: each sends what it computed one step before. Average pools are folded first.
    Memory follows `x` and the recorded traces; give a data set in chunks. Threads take turns: Lava keeps its processes
    in globals, and a process that is forked while another thread holds a lock waits for it for ever.

    Args:
        graph: the network.
        x: samples.
        record: which of spikes, v and readout to keep.
        fast: the backend `lava_fast`: the same processes with the models and channels of `converters.lava.fast`.
        patience: [s] in which some process must finish a time step.

    Raises:
        RmpDeployError: the samples do not fit, Lava cannot compute an op exactly or does not expose what `record` asks
            for, lava-nc is missing, this process is daemonic, or one of Lava's processes could not be started, ended
            or stood still during the run.
    """
    backend = "lava_fast" if fast else "lava"
    unknown = [what for what in record if what not in RECORDS]
    if unknown:
        raise RmpDeployError(
            f"backend '{backend}': record = {unknown[0]!r}, allowed {', '.join(RECORDS)}. "
            "Lava shows the membrane after the reset only: record u with the backend reference."
        )
    process = multiprocessing.current_process()
    if process.daemon:
        raise RmpDeployError(
            f"backend '{backend}': daemonic process '{process.name}', allowed one that may have children. "
            "Run it in the main process, or in a concurrent.futures.ProcessPoolExecutor."
        )
    graph.check_samples(x)
    from rmp_deploy.converters.lava.compat import import_lava
    from rmp_deploy.converters.lava.network import build
    from rmp_deploy.passes.fold_pool import fold_pool

    folded = fold_pool(graph)
    import_lava()
    with ExitStack() as files:
        with _turn, _forgotten_by_lava(), _quiet():
            try:
                network = build(folded, x, record, files, fast)
            except OSError as e:  # the traces' temporary files
                what = f"backend '{backend}': temporary files: {e.strerror}"
                raise RmpDeployError(f"{what}. Set TMPDIR to a folder.") from e
            lava_runtime.execute(network.source, network.run_cfg, network.n_steps, _channel(fast), patience)
        values = network.readout.read()
        return Trace(
            backend=backend,
            output=read_out(graph.readout, np.moveaxis(values, 1, 0)),
            spikes={name: recording.read() for name, recording in network.spikes.items()},
            v={name: recording.read() for name, recording in network.v.items()},
            readout={graph.readout.value: values} if "readout" in record else {},
        )


def _channel(fast: bool) -> Callable[..., Any] | None:
    if not fast:
        return None
    from rmp_deploy.converters.lava.fast.channels import channel

    return channel


@contextmanager
def _quiet() -> Iterator[None]:
    """Take back the handlers that every Lava Process adds to the root logger (lava/magma/core/process/process.py:172).

    The warning is Python 3.12's about a fork beside other threads (numpy's, torch's), whose locks no child uses.
    """
    loggers = [logging.getLogger(), logging.getLogger("lava.magma.compiler.compiler")]
    before = [list(logger.handlers) for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        try:
            yield
        finally:
            for logger, handlers in zip(loggers, before, strict=True):
                logger.handlers = handlers


@contextmanager
def _forgotten_by_lava() -> Iterator[None]:
    """Lava keeps every Process and Var for ever (process.py:560, variable.py:224), with its weights and our samples."""
    from lava.magma.core.process.process import ProcessServer
    from lava.magma.core.process.variable import VarServer

    servers = (ProcessServer(), "processes"), (VarServer(), "vars")
    before = [len(getattr(server, what)) for server, what in servers]
    try:
        yield
    finally:
        for process in ProcessServer().processes[before[0] :]:
            process.runtime = None  # a Process stops its runtime when it is collected
        for (server, what), n in zip(servers, before, strict=True):
            del getattr(server, what)[n:]
