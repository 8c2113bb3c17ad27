"""Lava's processes that die, stand still or fail: one line that names them, and nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy.backends import lava, lava_runtime
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LoihiLIF, LoihiLinear

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm"),
]
RECORD = ("spikes", "v")


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    ops = (
        LoihiLinear(name="fc1", inputs=("x",), weight=2 * rng.integers(-20, 30, (5, 6))),
        LoihiLIF(name="n1", inputs=("fc1",), du=4095, dv=2048, vth=20),
        LoihiLinear(name="fc2", inputs=("n1",), weight=2 * rng.integers(-20, 30, (4, 5))),
        LoihiLIF(name="n2", inputs=("fc2",), du=4095, dv=2048, vth=20),
    )
    graph = SpikingGraph("net", Input("x", (6,), "time_series", 0), ops, Readout("n2", "sum"), 4)
    return graph, rng.integers(0, 2, (3, 4, 6))


@pytest.fixture(autouse=True)
def segments(monkeypatch):
    """The names of all shared memory that the test's runs made; none may be there at its end."""
    names, end = set(), lava_runtime._end

    def noting_end(runtime):
        names.update(handle.name for handle in runtime._messaging_infrastructure.smm._shared_memory_handles)
        end(runtime)

    monkeypatch.setattr(lava_runtime, "_end", noting_end)
    yield names
    assert not [name for name in names if (Path("/dev/shm") / name).exists()]


SMALL = """
import faulthandler, multiprocessing, sys, threading
import numpy as np
from rmp_deploy.backends import lava
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LoihiLIF, LoihiLinear
fc = LoihiLinear(name="fc", inputs=("x",), weight=[[2]])
n = LoihiLIF(name="n", inputs=("fc",), du=4095, dv=0, vth=3)
graph = SpikingGraph("net", Input("x", (1,), "direct", 0), (fc, n), Readout("n", "sum"), 6)
x = np.ones((5, 1))  # 2, 4!, 2, 4!, 2, 4! of each
"""


def printed_by(script, timeout=100):
    """What a program prints that begins with SMALL; one that hangs is ended, its children with it."""
    program = [sys.executable, "-c", SMALL + script]
    found = subprocess.run(program, stdout=subprocess.PIPE, text=True, timeout=timeout, check=True)
    return found.stdout


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def nothing_left(small):
    """The block's failing run leaves no child and no open file, and the next run is right."""
    graph, x = small
    lava.run(graph, x)  # starts the resource tracker, which stays
    files = open_files()
    yield
    assert multiprocessing.active_children() == []
    assert open_files() == files
    expected, found = reference.run(graph, x, RECORD), lava.run(graph, x, RECORD)
    assert all((found.v[name] == v).all() for name, v in expected.v.items())


def signalled(monkeypatch, name, signum, after_steps=5):
    """A run in which the process `name` gets a signal as soon as the network has made some steps."""
    wait = lava_runtime._wait

    def wait_while_signalling(runtime, progress, patience):
        actor = runtime._messaging_infrastructure.actors[progress.names.index(name)]
        pid = actor.pid  # a thread that outlives the run finds no actor

        def send():
            while progress.total() < after_steps * len(progress.names):
                time.sleep(0.001)
            os.kill(pid, signum)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            wait(runtime, progress, patience)
        finally:
            sender.join()

    monkeypatch.setattr(lava_runtime, "_wait", wait_while_signalling)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["x", "fc1", "n2", "record n2", "runtime service"])
def test_a_process_that_stands_still_is_named(small, monkeypatch, name, fast):
    graph, x = small
    with nothing_left(small), monkeypatch.context() as patch:
        signalled(patch, name, signal.SIGSTOP)
        with pytest.raises(RmpDeployError) as error:
            lava.run(graph, np.repeat(x, 400, axis=0), fast=fast, patience=1)
    text = str(error.value)
    assert text.startswith(f"Lava process '{name}': time step ")
    assert " = no progress of any process for 1 s, allowed 1 s. " in text
    assert "\n" not in text


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["x", "n1", "runtime service"])
def test_a_killed_process_is_named(small, monkeypatch, name, fast):
    graph, x = small
    with nothing_left(small), monkeypatch.context() as patch:
        signalled(patch, name, signal.SIGKILL)
        with pytest.raises(RmpDeployError, match=rf"^Lava process '{name}': exit code -9, allowed a run to its last"):
            lava.run(graph, np.repeat(x, 400, axis=0), fast=fast)


def test_an_exception_in_a_fast_model_is_named(small, monkeypatch):
    from rmp_deploy.converters.lava.fast import synapses

    def fail(*_args):
        raise ValueError("weights = none\nat all")

    with nothing_left(small), monkeypatch.context() as patch:
        patch.setattr(synapses, "shifted", fail)  # the forked children inherit it
        with pytest.raises(RmpDeployError) as error:
            lava.run(*small, fast=True)
    assert re.match("Lava process 'fc[12]': ValueError: weights = none at all, allowed a run ", str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
def test_the_manager_of_the_shared_memory_may_be_stopped_or_killed(small, monkeypatch, signum):
    """It is not asked during a run: the result is right, and no segment stays."""
    wait = lava_runtime._wait

    def signal_and_wait(runtime, progress, patience):
        os.kill(runtime._messaging_infrastructure.smm._manager._process.pid, signum)
        wait(runtime, progress, patience)

    graph, x = small
    with nothing_left(small), monkeypatch.context() as patch:
        patch.setattr(lava_runtime, "_wait", signal_and_wait)
        found = lava.run(graph, x)
    assert (found.output == reference.run(graph, x).output).all()


def test_a_manager_that_does_not_answer_is_killed(small, monkeypatch):
    """It was forked while a thread held the lock of the resource tracker, which it needs to unlink the segments."""
    from lava.magma.runtime.message_infrastructure.shared_memory_manager import SharedMemoryManager

    start = SharedMemoryManager.start

    def start_while_locked(self):
        held, started = threading.Event(), threading.Event()

        def hold():
            with resource_tracker._resource_tracker._lock:
                held.set()
                started.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        try:
            start(self)
        finally:
            started.set()
            holder.join()

    graph, x = small
    with nothing_left(small), monkeypatch.context() as patch:
        patch.setattr(SharedMemoryManager, "start", start_while_locked)
        patch.setattr(lava_runtime, "GRACE", 0.5)
        found = lava.run(graph, x)
    assert (found.output == reference.run(graph, x).output).all()


def test_runs_in_three_threads_take_turns():
    script = """
faulthandler.dump_traceback_later(80, exit=True)
sums = []
def run():
    for fast in (True, False):
        sums.append(lava.run(graph, x, ("spikes", "v"), fast=fast, patience=20).output.sum())
threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*map(int, sums))
"""
    assert printed_by(script) == "15 15 15 15 15 15\n"


def test_a_process_that_was_forked_during_a_run_can_run_too():
    script = """
from rmp_deploy.backends import lava_runtime
fork = multiprocessing.get_context("fork")
wait = lava_runtime._wait
def forking_wait(*args):
    lava_runtime._wait = wait
    child = fork.Process(target=lambda: print(int(lava.run(graph, x).output.sum()), flush=True))
    child.start()
    child.join(60)
    child.kill()
    wait(*args)
lava_runtime._wait = forking_wait
print(int(lava.run(graph, x).output.sum()))
"""
    assert printed_by(script) == "15\n15\n"


def test_a_daemonic_process_is_refused():
    """A worker of multiprocessing.Pool is one; it may have no children, and Lava's processes are."""
    script = """
def run():
    try:
        lava.run(graph, x)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply(run))
"""
    assert printed_by(script).startswith(
        "RmpDeployError: backend 'lava': daemonic process 'ForkPoolWorker-1', allowed "
    )


@pytest.mark.parametrize("at", ["SharedMemoryManager", "SystemProcess"])
def test_processes_that_cannot_be_started_are_one_line(small, monkeypatch, at):
    """No process is left: Linux refuses the first, the manager's, or the third of the network's."""
    from lava.magma.runtime.message_infrastructure import multiprocessing as infrastructure

    kind = getattr(infrastructure, at)
    start, nth = kind.start, itertools.count(1)

    def fail(self):
        if at == "SharedMemoryManager" or next(nth) == 3:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start(self)

    def line():
        try:
            lava.run(*small)
        except RmpDeployError as e:
            return str(e)  # without its traceback, which holds the queues of the run

    with nothing_left(small), monkeypatch.context() as patch:
        patch.setattr(kind, "start", fail)
        found = line()
    assert found.startswith("Lava's processes: Resource temporarily unavailable, allowed a start of all. ")
    assert "\n" not in found


def test_a_slow_step_is_not_a_hang(small, monkeypatch):
    """Patience is about steps that some process finishes, not about the run."""
    from rmp_deploy.converters.lava.recorder.processes import PySink

    record = PySink.run_spk

    def slow(self):
        time.sleep(0.2)
        record(self)

    graph, x = small
    with monkeypatch.context() as patch:
        patch.setattr(PySink, "run_spk", slow)
        found = lava.run(graph, x, patience=1)  # 14 steps of 0.2 s
    assert (found.output == reference.run(graph, x).output).all()


def test_a_program_that_was_stopped_goes_on():
    """Ctrl-Z and fg: program and processes stand still together, for longer than the patience."""
    script = """
import numpy as np
from rmp_deploy.backends import lava, lava_runtime
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LoihiLIF, LoihiLinear
fc = LoihiLinear(name="fc", inputs=("x",), weight=[[2]])
n = LoihiLIF(name="n", inputs=("fc",), du=4095, dv=0, vth=3)
graph = SpikingGraph("net", Input("x", (1,), "direct", 0), (fc, n), Readout("n", "sum"), 6)
wait = lava_runtime._wait
def announced(*args):
    print("go", flush=True)
    wait(*args)
lava_runtime._wait = announced
print(int(lava.run(graph, np.ones((500, 1)), patience=1).output.sum()))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout.readline() == "go\n"
        os.killpg(program.pid, signal.SIGSTOP)
        time.sleep(2)
        os.killpg(program.pid, signal.SIGCONT)
        assert program.stdout.read() == "1500\n"  # 2, 4!, 2, 4!, 2, 4! of 500 samples
    assert program.returncode == 0


def test_only_looks_count_as_waiting():
    """A gap between two looks, in which this process did not run either, counts as a short one."""
    waited = lava_runtime._Patience()
    waited.idle(1)
    time.sleep(0.5)
    assert waited.idle(1) == lava_runtime.BLINK
    time.sleep(0.01)
    assert lava_runtime.BLINK < waited.idle(1) <= 2 * lava_runtime.BLINK
    assert waited.idle(2) == 0


def test_fifty_runs_in_one_interpreter_leave_nothing(small, segments):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def held():
        return open_files(), threading.active_count(), multiprocessing.active_children()

    graph, x = small
    expected = reference.run(graph, x, RECORD)
    for i in range(50):
        found = lava.run(graph, x, RECORD, fast=i % 2 == 0)
        assert (found.output == expected.output).all()
        if i == 10:
            before, memory = held(), resident()
    assert held() == before
    assert len(segments) > 50 * len(graph.ops)
    assert resident() - memory < 8 << 20, "of 40 runs"
