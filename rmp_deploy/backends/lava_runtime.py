"""Run Lava processes to the last time step in child processes: one that dies or hangs is named, and none is left."""

from __future__ import annotations

import mmap
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from typing import Any

import numpy as np

from rmp_deploy.errors import RmpDeployError

CHANNEL_SIZE = 4  # messages; Lava's 64 need 0.8 GB of /dev/shm per 224x224x64 map, and steps are in lock-step anyway
POLL = 0.005  # [s] between looks at Lava's processes
BLINK = 0.1  # [s] between two looks; what is longer, this process did not run either
GRACE = 2.0  # [s] for a failed process to end after it has told so, and for the shared memory's manager
PATIENCE = 300.0  # [s] in which some process must finish a time step; one of ResNet19 takes Lava a minute of CPU time
SERVICE = "runtime service"
NOT_STARTED = (OSError, AssertionError, RuntimeError, EOFError)  # no thread; the memory's manager ended at once


def execute(
    source: Any, run_cfg: Any, n_steps: int, channel: Callable[..., Any] | None = None, patience: float = PATIENCE
) -> None:
    """Run `source`, and all that is connected with it, for `n_steps` time steps.

    Args:
        source: one Process of the network.
        run_cfg: which model each process gets.
        n_steps: time steps.
        channel: what makes the channels; Lava's own by default.
        patience: [s] without a time step that any process finished, after which the run is ended.

    Raises:
        RmpDeployError: a process could not be started, ended or stands still.
    """
    from lava.magma.core.process.message_interface_enum import ActorType
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.runtime.runtime import Runtime

    executable = source.compile(run_cfg, {"pypy_channel_size": CHANNEL_SIZE})
    runtime = Runtime(executable, ActorType.MultiProcessing)
    executable.assign_runtime_to_all_processes(runtime)
    progress = Progress(executable)
    try:
        _initialize(runtime, progress.names, channel, patience)
        runtime.start(RunSteps(num_steps=n_steps, blocking=False))
        _wait(runtime, progress, patience)
    finally:
        _end(runtime)


class Progress:
    """How many time steps each process has finished, and how many were asked for, in memory shared by `fork`.

    `names` are in the order of Lava's child processes, the runtime service last.
    """

    def __init__(self, executable: Any) -> None:
        processes = list(executable.proc_builders)
        self.names = [process.name for process in processes] + [SERVICE]
        ends = [(channel.src_process, channel.dst_process) for channel in executable.channel_builders]
        self._sends = {(processes.index(sender), processes.index(receiver)) for sender, receiver in ends}
        self._steps = np.frombuffer(mmap.mmap(-1, 8 * len(self.names)), np.int64)
        for i, builder in enumerate(executable.proc_builders.values()):
            builder.build = self._counted(builder.build, i)
        (service,) = executable.runtime_service_builders.values()
        service.build = self._asked(service.build)

    def _counted(self, build: Callable[[], Any], i: int) -> Callable[[], Any]:
        def counted_build() -> Any:  # in the child
            model = build()
            step = model._cmd_handlers[model.Phase.SPK[0]]

            def counted_step() -> None:
                step()
                self._steps[i] += 1

            model._cmd_handlers[model.Phase.SPK[0]] = counted_step
            return model

        return counted_build

    def _asked(self, build: Callable[[], Any]) -> Callable[[], Any]:
        def counted_build() -> Any:  # in the child
            service = build()
            receive = service._get_pm_resp  # called when all processes were asked for a step

            def counted_receive() -> Any:
                self._steps[-1] += 1
                return receive()

            service._get_pm_resp = counted_receive
            return service

        return counted_build

    def total(self) -> int:
        return int(self._steps.sum())

    def behind(self) -> tuple[str, int]:
        """Who holds up the others, and in which time step (1, 2, ...).

        Of those that have not finished the step, those that do not wait for another of them; in a loop that may be all.
        """
        asked = int(self._steps[-1])
        late = [i for i, finished in enumerate(self._steps[:-1]) if finished < asked]
        first = [i for i in late if not any((j, i) in self._sends for j in late)] or late
        return (", ".join(self.names[i] for i in first), asked) if late else (SERVICE, asked + 1)


class _Patience:
    """Seconds without progress; those in which this process stood still too (Ctrl-Z) do not count."""

    def __init__(self) -> None:
        self._progress, self._idle, self._looked = -1, 0.0, time.monotonic()

    def idle(self, progress: int) -> float:
        now = time.monotonic()
        self._idle = self._idle + min(now - self._looked, BLINK) if progress == self._progress else 0.0
        self._progress, self._looked = progress, now
        return self._idle


def _initialize(runtime: Any, names: list[str], channel: Callable[..., Any] | None, patience: float) -> None:
    """Runtime.initialize (lava/magma/runtime/runtime.py:155-176), which waits for ever for a child that was killed."""
    from threadpoolctl import threadpool_limits

    try:
        runtime._build_watchdog_manager()
        runtime._build_message_infrastructure()
        if channel is not None:
            runtime._messaging_infrastructure.channel_class = lambda channel_type: channel
        runtime._build_channels()
        runtime._build_sync_channels()
        with _no_interrupt(), threadpool_limits(1):  # each layer has a process: more threads only fight over the cores
            runtime._build_processes()
            runtime._build_runtime_services()
        runtime._start_ports()
    except NOT_STARTED as e:
        raise _not_started(e) from e
    answers, runtime.exception_q = runtime.exception_q, []
    waited = _Patience()
    for i, (answer, name) in enumerate(zip(answers, names, strict=True)):
        while True:
            try:
                error = answer.get(timeout=POLL)
                break
            except queue.Empty:
                _check_alive(runtime, names)
            if waited.idle(i) > patience:
                raise _stuck(name, "start", patience)
        if error is not None:
            raise _failed(name, f"{type(error).__name__}: {error}")
    runtime._is_initialized = True


def _wait(runtime: Any, progress: Progress, patience: float) -> None:
    """Wait for the last time step. Lava itself waits for ever when one of its processes has died (lava issue #178)."""
    from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

    names = progress.names
    (answer,) = runtime.service_to_runtime
    sentinels = [actor.sentinel for actor in runtime._messaging_infrastructure.actors]
    waited = _Patience()
    while not answer.probe():
        if connection.wait(sentinels, timeout=POLL):
            _check_alive(runtime, names)
        if waited.idle(progress.total()) > patience:
            name, step = progress.behind()
            raise _stuck(name, f"time step {step}", patience)
    if not enum_equal(answer.peek(), MGMT_RESPONSE.DONE):
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:  # the process that failed is on its way out
            _check_alive(runtime, names)
            time.sleep(POLL)
        raise _failed(SERVICE, f"answer = {answer.peek()[0]:g}")


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
        f"Lava process '{name}': {' '.join(reason.split())}, allowed a run to its last step. "
        "Look at free memory, /dev/shm and the temporary folder (exit code -7 or -9), or run fewer samples at once."
    )


def _stuck(name: str, where: str, patience: float) -> RmpDeployError:
    return RmpDeployError(
        f"Lava process '{name}': {where} = no progress of any process for {patience:g} s, allowed {patience:g} s. "
        "Look whether it was stopped or waits for memory; rmp_deploy.backends.lava.run takes a longer patience."
    )


def _not_started(error: Exception) -> RmpDeployError:
    reason = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
    return RmpDeployError(
        f"Lava's processes: {' '.join(reason.split())}, allowed a start of all. "
        "Look at the limits of processes and open files (ulimit -u, ulimit -n) and at free memory."
    )


def _end(runtime: Any) -> None:
    """Kill the processes, stopped ones too: every row that they recorded is written. Then free the shared memory.

    Its manager is asked to end first. It may not answer: it is a fork, and has no thread that could free a lock which
    another thread of this process held then.
    """
    runtime._is_started = runtime._is_running = False  # so that Runtime.__del__ does not wait for killed processes
    infrastructure = runtime._messaging_infrastructure
    if infrastructure is None or infrastructure.smm is None:
        return
    manager = infrastructure.smm._manager
    if not hasattr(manager, "shutdown"):  # never started, and nothing without it
        return
    with _no_interrupt():
        for actor in infrastructure.actors:
            if not actor._is_done:
                actor.kill()
        runtime.join()
        shared = list(infrastructure.smm._shared_memory_handles)
        with suppress(ProcessLookupError):  # a manager that was stopped would not answer
            os.kill(manager._process.pid, signal.SIGCONT)
        killer = threading.Timer(GRACE, manager._process.kill)
        killer.start()
        infrastructure.stop()
        killer.cancel()
        killer.join()
        for memory in shared:
            with suppress(FileNotFoundError):  # unlinked by the manager, unless it was killed
                memory.unlink()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back; a child made meanwhile never sees it, so that only this process answers it (and ends them)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
