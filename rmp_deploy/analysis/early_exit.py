"""Early exit: what the network would have answered after each step, and how often that was right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Trace

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RunningAccuracy:
    """How many of `samples` samples were classified right after each step, `correct` [T]; `+` joins shards."""

    samples: int
    correct: tuple[int, ...]

    @property
    def accuracy(self) -> tuple[float, ...]:
        """``correct / samples`` after each step [1]."""
        return tuple(n / self.samples for n in self.correct)

    def __add__(self, other: RunningAccuracy) -> RunningAccuracy:
        """Over the samples of both.

        Raises:
            RmpDeployError: they are of different T.
        """
        ours, theirs = len(self.correct), len(other.correct)
        if ours != theirs:
            raise RmpDeployError(
                f"running accuracy: T = {theirs}, allowed {ours} (the first shard's). Add one network's."
            )
        correct = tuple(a + b for a, b in zip(self.correct, other.correct, strict=True))
        return RunningAccuracy(self.samples + other.samples, correct)


def running_predictions(graph: SpikingGraph, trace: Trace) -> I64:
    """Class with the largest readout after each step, [N, T]; the first of equals, as `Trace.predictions`.

    Column t - 1 is what `graph` with T = t would answer: a step does not know how many follow it. Of the recorded
    values y: ``argmax of sum(y[1..t]) / t`` (mean), ``argmax of sum(y[1..t])`` (sum), ``argmax of y[t]`` (last), in
    float64. The last column is `trace.predictions()`.

    Args:
        graph: the network that ran.
        trace: its run on any backend, with readout recorded.

    Raises:
        RmpDeployError: the readout was not recorded, or is not that of this graph.
    """
    name, n = graph.readout.value, trace.n_samples
    wanted = (n, graph.T, *graph.shapes[name])
    if name not in trace.readout:
        raise RmpDeployError(f"early exit of '{name}': readout = none, allowed {wanted}. Run with record=['readout'].")
    recorded = trace.readout[name]
    if recorded.shape != wanted:
        raise RmpDeployError(
            f"early exit of '{name}': readout = {recorded.shape}, allowed {wanted}. Give its own trace."
        )
    values = recorded.reshape(n, graph.T, -1).astype(np.float64)
    if graph.readout.rule != "last":
        values = values.cumsum(axis=1)
    if graph.readout.rule == "mean":  # not only for its scale: a division may round two sums to one mean
        values /= np.arange(1, graph.T + 1)[:, None]
    running: I64 = values.argmax(axis=2)
    running[:, -1] = trace.predictions()  # a backend in float32 rounds its sum differently
    return running


def running_accuracy(graph: SpikingGraph, trace: Trace, labels: I64) -> RunningAccuracy:
    """How many of the trace's samples were right after each step; `labels` [N] are classes of the readout.

    Raises:
        RmpDeployError: as `running_predictions`, there are no samples, or the labels are no classes of this trace.
    """
    n, classes = trace.output.shape
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        found = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise RmpDeployError(f"labels: {found}, allowed an array of integers. Give classes.")
    if n < 1:
        raise RmpDeployError("labels: samples = 0, allowed >= 1. Run the network first.")
    if labels.shape != (n,):
        raise RmpDeployError(f"labels: shape = {labels.shape}, allowed ({n},). Give one for each sample.")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise RmpDeployError(f"labels: {wrong}, allowed 0..{classes - 1}. Use the network's classes.")
    right = running_predictions(graph, trace) == labels[:, None]
    return RunningAccuracy(n, tuple(int(count) for count in right.sum(axis=0)))
