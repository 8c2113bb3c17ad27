"""Who can run a graph: one function per backend, `run(graph, x, record) -> Trace`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Record, Trace, concatenate

Run = Callable[[SpikingGraph, npt.NDArray[Any], Sequence[Record]], Trace]
BATCH = 256  # samples in memory at a time


def _onnxruntime(graph: SpikingGraph, x: npt.NDArray[Any], record: Sequence[Record]) -> Trace:
    from rmp_deploy.backends import onnxruntime

    return onnxruntime.run(graph, x, record)


def _lava(graph: SpikingGraph, x: npt.NDArray[Any], record: Sequence[Record]) -> Trace:
    from rmp_deploy.backends import lava

    return lava.run(graph, x, record)


def _lava_fast(graph: SpikingGraph, x: npt.NDArray[Any], record: Sequence[Record]) -> Trace:
    from rmp_deploy.backends import lava

    return lava.run(graph, x, record, fast=True)


BACKENDS: dict[str, Run] = {
    "reference": reference.run,
    "onnxruntime": _onnxruntime,
    "lava": _lava,
    "lava_fast": _lava_fast,
}


def batches(
    graph: SpikingGraph, x: npt.NDArray[Any], backend: str, record: Sequence[Record] = ()
) -> Iterator[tuple[npt.NDArray[Any], Trace]]:
    """Run samples `x` through `graph` 256 at a time: pairs of samples and their trace. Memory follows the batch.

    Raises:
        RmpDeployError: unknown backend, samples that do not fit, or a graph that the backend cannot run.
    """
    if backend not in BACKENDS:
        raise RmpDeployError(f"backend '{backend}': unknown, allowed {', '.join(BACKENDS)}. Choose one.")
    graph.check_samples(x)
    for start in range(0, len(x), BATCH):
        part = x[start : start + BATCH]
        yield part, BACKENDS[backend](graph, part, record)


def run(graph: SpikingGraph, x: npt.NDArray[Any], backend: str, record: Sequence[Record] = ()) -> Trace:
    """Run samples `x` through `graph` on one of `BACKENDS`.

    Args:
        graph: the network.
        x: [N, *shape] for direct encoding, [N, T, *shape] for a time series.
        backend: one of `BACKENDS`.
        record: which of spikes, v and u of every neuron op, and of the value that is read out, to keep.

    Raises:
        RmpDeployError: as `batches`.
    """
    return concatenate([trace for _, trace in batches(graph, x, backend, record)])
