"""Who can run a graph: one function per backend, `(graph, batches of samples, record) -> (samples, Trace)` of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Record, Trace, concatenate

Samples = npt.NDArray[Any]
Ran = Iterator[tuple[Samples, Trace]]
Run = Callable[[SpikingGraph, Iterable[Samples], Sequence[Record]], Ran]
BATCH = 256  # samples in memory at a time


def _reference(graph: SpikingGraph, parts: Iterable[Samples], record: Sequence[Record]) -> Ran:
    return ((x, reference.run(graph, x, record)) for x in parts)


def _onnxruntime(graph: SpikingGraph, parts: Iterable[Samples], record: Sequence[Record]) -> Ran:
    from rmp_deploy.backends import onnxruntime

    return onnxruntime.stream(graph, parts, record)


def _lava(graph: SpikingGraph, parts: Iterable[Samples], record: Sequence[Record]) -> Ran:
    from rmp_deploy.backends import lava

    return ((x, lava.run(graph, x, record)) for x in parts)


def _lava_fast(graph: SpikingGraph, parts: Iterable[Samples], record: Sequence[Record]) -> Ran:
    from rmp_deploy.backends import lava

    return ((x, lava.run(graph, x, record, fast=True)) for x in parts)


BACKENDS: dict[str, Run] = {
    "reference": _reference,
    "onnxruntime": _onnxruntime,
    "lava": _lava,
    "lava_fast": _lava_fast,
}


def stream(graph: SpikingGraph, parts: Iterable[Samples], backend: str, record: Sequence[Record] = ()) -> Ran:
    """Run samples through `graph` part after part, as they are read: pairs of samples and their trace.

    On ONNX Runtime the next part runs while the caller reads this one: memory follows two parts.

    Raises:
        RmpDeployError: unknown backend, samples that do not fit, or a graph that the backend cannot run.
    """
    if backend not in BACKENDS:
        raise RmpDeployError(f"backend '{backend}': unknown, allowed {', '.join(BACKENDS)}. Choose one.")
    return BACKENDS[backend](graph, parts, record)


def batches(graph: SpikingGraph, x: Samples, backend: str, record: Sequence[Record] = ()) -> Ran:
    """Run samples `x` through `graph` 256 at a time, as `stream`; all of them are checked before the first runs.

    Raises:
        RmpDeployError: as `stream`.
    """
    graph.check_samples(x)
    return stream(graph, (x[start : start + BATCH] for start in range(0, len(x), BATCH)), backend, record)


def run(graph: SpikingGraph, x: npt.NDArray[Any], backend: str, record: Sequence[Record] = ()) -> Trace:
    """Run samples `x` through `graph` on one of `BACKENDS`.

    Args:
        graph: the network.
        x: [N, *shape] for direct encoding, [N, T, *shape] for a time series.
        backend: one of `BACKENDS`.
        record: which of spikes, v and u of every neuron op, and of the value that is read out, to keep.

    Raises:
        RmpDeployError: as `stream`.
    """
    return concatenate([trace for _, trace in batches(graph, x, backend, record)])
