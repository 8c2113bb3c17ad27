"""Run a SpikingGraph on Lava's Loihi simulator: every layer an OS process, one run for all samples."""

from __future__ import annotations

import logging
import queue
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import connection
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.reference import read_out
from rmp_deploy.ir.trace import Record, Trace

RECORDS: tuple[Record, ...] = ("spikes", "v")
CHANNEL_SIZE = 4  # messages; Lava's 64 need 0.8 GB of /dev/shm per 224x224x64 map, and steps are in lock-step anyway
POLL = 0.005  # [s] between looks at Lava's processes
GRACE = 2.0  # [s] for a failed process to end after it has told so


def run(graph: SpikingGraph, x: npt.NDArray[Any], record: Sequence[Record] = ()) -> Trace:
    """Stream samples `x` ([N, *shape] direct, [N, T, *shape] time_series) through Lava in N*T + L time steps.

    L is the number of synaptic layers: each sends what it computed one step before. Average pools are folded first.
    Memory follows `x` and the recorded traces; give a data set in chunks.

    Raises:
        RmpDeployError: the samples do not fit, Lava cannot compute an op exactly or does not expose what `record` asks
            for, lava-nc is missing, or one of its processes ended during the run.
    """
    unknown = [what for what in record if what not in RECORDS]
    if unknown:
        raise RmpDeployError(
            f"backend 'lava': record = {unknown[0]!r}, allowed {', '.join(RECORDS)}. "
            "Lava shows the membrane after the reset only: record u with the backend reference."
        )
    graph.check_samples(x)
    from rmp_deploy.converters.lava.compat import import_lava
    from rmp_deploy.converters.lava.network import build
    from rmp_deploy.passes.fold_pool import fold_pool

    folded = fold_pool(graph)
    import_lava()
    with ExitStack() as files:
        with _forgotten_by_lava(), _quiet():
            try:
                network = build(folded, x, record, files)
            except OSError as e:  # the traces' temporary files
                raise RmpDeployError(f"backend 'lava': temporary files: {e.strerror}. Set TMPDIR to a folder.") from e
            _execute(network)
        values = network.readout.read()
        return Trace(
            backend="lava",
            output=read_out(graph.readout, np.moveaxis(values, 1, 0)),
            spikes={name: recording.read() for name, recording in network.spikes.items()},
            v={name: recording.read() for name, recording in network.v.items()},
        )


def _execute(network: Any) -> None:
    """Run to the end in child processes, of which none is left afterwards, whatever happens."""
    from lava.magma.core.process.message_interface_enum import ActorType
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.runtime.runtime import Runtime

    executable = network.source.compile(network.run_cfg, {"pypy_channel_size": CHANNEL_SIZE})
    runtime = Runtime(executable, ActorType.MultiProcessing)
    executable.assign_runtime_to_all_processes(runtime)
    names = [process.name for process in executable.proc_builders] + ["runtime service"]
    try:
        _initialize(runtime, names)
        runtime.start(RunSteps(num_steps=network.n_steps, blocking=False))
        _wait(runtime, names)
        runtime.stop()
    finally:
        _end(runtime)


def _initialize(runtime: Any, names: list[str]) -> None:
    """Runtime.initialize (lava/magma/runtime/runtime.py:155-176), which waits for ever for a child that was killed."""
    runtime._build_watchdog_manager()
    runtime._build_message_infrastructure()
    runtime._build_channels()
    runtime._build_sync_channels()
    with _no_interrupt():
        runtime._build_processes()
        runtime._build_runtime_services()
    runtime._start_ports()
    answers, runtime.exception_q = runtime.exception_q, []
    for answer, name in zip(answers, names, strict=True):
        while True:
            try:
                error = answer.get(timeout=POLL)
                break
            except queue.Empty:
                _check_alive(runtime, names)
        if error is not None:
            raise _failed(name, f"{type(error).__name__}: {error}")
    runtime._is_initialized = True


def _wait(runtime: Any, names: list[str]) -> None:
    """Wait for the last time step. Lava itself waits for ever when one of its processes has died (lava issue #178)."""
    from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

    (answer,) = runtime.service_to_runtime
    sentinels = [actor.sentinel for actor in runtime._messaging_infrastructure.actors]
    while not answer.probe():
        if connection.wait(sentinels, timeout=POLL):
            _check_alive(runtime, names)
    if not enum_equal(answer.peek(), MGMT_RESPONSE.DONE):
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:  # the process that failed is on its way out
            _check_alive(runtime, names)
            time.sleep(POLL)
        raise _failed("runtime service", f"answer = {answer.peek()[0]:g}")
    runtime.wait()


def _check_alive(runtime: Any, names: list[str]) -> None:
    """Raise RmpDeployError if a process has ended: none does by itself. The one that failed is named: Lava's answer to
    a failure is to stop others, which then end too, perhaps earlier."""
    deadline = time.monotonic() + GRACE
    actors = list(zip(runtime._messaging_infrastructure.actors, names, strict=True))
    while ended := [(actor, name) for actor, name in actors if not actor.is_alive()]:
        for actor, name in ended:
            if actor.exception is not None:
                error, _traceback = actor.exception
                raise _failed(name, f"{type(error).__name__}: {error}")
            if actor.exitcode != 0:
                raise _failed(name, f"exit code {actor.exitcode}")
        if time.monotonic() > deadline:
            raise _failed(ended[0][1], "ended without an error")
        time.sleep(POLL)


def _failed(name: str, reason: str) -> RmpDeployError:
    return RmpDeployError(
        f"Lava process '{name}': {reason}, allowed a run to its last step. "
        "Look at free memory, /dev/shm and the temporary folder (exit code -7 or -9), or run fewer samples at once."
    )


def _end(runtime: Any) -> None:
    """Kill what a failed run left and free the shared memory; after a run that was stopped nothing is left to do."""
    runtime._is_started = runtime._is_running = False  # so that Runtime.__del__ does not wait for killed processes
    infrastructure = runtime._messaging_infrastructure
    if infrastructure is None:
        return
    with _no_interrupt():
        for actor in infrastructure.actors:
            if not actor._is_done:
                actor.kill()
        runtime.join()
        infrastructure.stop()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back; a child made meanwhile never sees it, so that only this process answers it (and ends them)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
