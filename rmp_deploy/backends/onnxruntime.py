"""Stock ONNX Runtime: no custom operator, the file's own functions define the neurons.

A batch is cut into parts of a few samples and each part is run by one thread: what a step makes stays in the cache of
one core, and no core waits for the others in every op.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Record, Trace

ERRORS = (state.Fail, state.InvalidGraph, state.InvalidArgument, state.NotImplemented, state.RuntimeException)
PART = 2**20  # values that the ops of a graph make in one step of a part: 4 MB
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
Samples = npt.NDArray[Any]
Arrays = dict[str, npt.NDArray[Any]]


def run(graph: SpikingGraph, x: Samples, record: Sequence[Record] = ()) -> Trace:
    """Run `graph` in float32 on the CPU; `record` adds outputs to the model in memory.

    Raises:
        RmpDeployError: the samples do not fit the graph.
    """
    ((_, trace),) = stream(graph, [x], record)
    return trace


def stream(
    graph: SpikingGraph, batches: Iterable[Samples], record: Sequence[Record] = ()
) -> Iterator[tuple[Samples, Trace]]:
    """Run batch after batch: pairs of samples and their trace. The next batch runs while the caller reads this one.

    Raises:
        RmpDeployError: the samples do not fit the graph.
    """
    with onnx_io.runnable(graph, record) as model:
        yield from _stream(graph, model, batches, record)


def _stream(
    graph: SpikingGraph, model: bytes | str, batches: Iterable[Samples], record: Sequence[Record]
) -> Iterator[tuple[Samples, Trace]]:
    size = max(1, PART // sum(math.prod(shape) for shape in graph.shapes.values()))
    cores = _cores()
    pool = ThreadPoolExecutor(cores, "onnxruntime")
    session: ort.InferenceSession | None = None
    under_way: deque[tuple[Samples, Arrays, list[Future[None]]]] = deque()
    try:
        for x in batches:
            graph.check_samples(x)
            parts = [slice(start, start + size) for start in range(0, len(x), size)]
            if session is None:  # fewer parts than cores: these share the work of an op
                session = _session(model, threads=max(1, cores // len(parts)))
            found = _room(session, len(x))
            under_way.append((x, found, [pool.submit(_run_part, session, x, found, part) for part in parts]))
            if len(under_way) > 1:
                yield _finished(graph, record, *under_way.popleft())
        while under_way:
            yield _finished(graph, record, *under_way.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room(session: ort.InferenceSession, n: int) -> Arrays:
    """Arrays for the outputs of n samples."""
    try:
        return {o.name: np.empty((n, *o.shape[1:]), DTYPES[o.type]) for o in session.get_outputs()}
    except MemoryError as e:
        raise _refused(e) from e


def _run_part(session: ort.InferenceSession, x: Samples, found: Arrays, part: slice) -> None:
    """Run the samples `part` of `x`; the outputs go straight to their place in `found`."""
    bound = session.io_binding()
    frames = np.ascontiguousarray(x[part], dtype=np.float32)
    bound.bind_cpu_input("input", frames)
    for name, whole in found.items():
        place = whole[part]
        bound.bind_output(name, "cpu", 0, place.dtype, place.shape, place.ctypes.data)
    try:
        session.run_with_iobinding(bound)
    except ERRORS as e:
        raise _refused(e) from e


def _finished(
    graph: SpikingGraph, record: Sequence[Record], x: Samples, found: Arrays, parts: list[Future[None]]
) -> tuple[Samples, Trace]:
    """A batch and its trace, once all of its parts have run."""
    for part in parts:
        part.result()
    layers = {str(what): {name: found[f"trace/{what}/{name}"] for name in _recorded(graph, what)} for what in record}
    return x, Trace(backend="onnxruntime", output=found["output"], **layers)


def _recorded(graph: SpikingGraph, what: Record) -> list[str]:
    return [graph.readout.value] if what == "readout" else [op.name for op in graph.spiking]


def run_file(path: str | Path, x: Samples) -> Arrays:
    """Run an .onnx file as any user of ONNX Runtime would: `output` and `spike_count/<neuron op>`.

    A file of an older version is migrated first.

    Raises:
        RmpDeployError: `load` refuses the file, or the samples do not fit it.
    """
    graph, model = onnx_io.load_runnable(path)
    graph.check_samples(x)
    session = _session(model)
    try:
        values = session.run(None, {"input": np.ascontiguousarray(x, dtype=np.float32)})
    except ERRORS as e:
        raise _refused(e) from e
    return dict(zip([o.name for o in session.get_outputs()], values, strict=True))


def _session(model: bytes | str, threads: int = 0) -> ort.InferenceSession:
    """Of a model, given as its bytes or its path; `threads` work on each op, 0: as many as ONNX Runtime chooses."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except ERRORS as e:
        raise _refused(e) from e


def _refused(e: Exception) -> RmpDeployError:
    """Out of memory, mostly."""
    return RmpDeployError(f"onnxruntime: {' '.join(str(e).split())[:300]}. Try fewer samples at a time.")
