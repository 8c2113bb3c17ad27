"""Who can run a graph: one function per backend, `run(graph, x, record) -> Trace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


BACKENDS: dict[str, Run] = {"reference": reference.run, "onnxruntime": _onnxruntime, "lava": _lava}


def run(graph: SpikingGraph, x: npt.NDArray[Any], backend: str, record: Sequence[Record] = ()) -> Trace:
    """Run samples `x` through `graph` on one of `BACKENDS`, 256 samples at a time.

    Args:
        x: [N, *shape] for direct encoding, [N, T, *shape] for a time series.
        record: which of spikes, v and u of every neuron op to keep.

    Raises:
        RmpDeployError: unknown backend, samples that do not fit, or a graph that the backend cannot run.
    """
    if backend not in BACKENDS:
        raise RmpDeployError(f"backend '{backend}': unknown, allowed {', '.join(BACKENDS)}. Choose one.")
    graph.check_samples(x)
    return concatenate([BACKENDS[backend](graph, x[i : i + BATCH], record) for i in range(0, len(x), BATCH)])
