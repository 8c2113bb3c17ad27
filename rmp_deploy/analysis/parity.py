"""Parity: is the network still the same network after a hand-over, spike by spike?

A rung compares two traces of one graph. Floating-point rungs may differ only where the membrane potential lies within
float32 rounding of the threshold (a tie); everything that such a spike then causes downstream is its consequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LIF, Conv1d, Conv2d, Linear
from rmp_deploy.ir.trace import Layers, Trace

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Divergence:
    """The first neuron and time step where two traces differ, and how far the potential was from the threshold."""

    sample: int
    step: int
    neuron: tuple[int, ...]
    spike_from: int
    spike_to: int
    u: float
    v_threshold: float
    distance: float  # |u - v_threshold|
    tolerance: float  # what float32 rounding can explain in this layer


@dataclass(frozen=True)
class LayerParity:
    """One layer of one rung: N * T * neurons spikes `compared`; `ties` are explained by float rounding."""

    layer: str
    compared: int
    mismatches: int
    ties: int
    holds: bool
    max_v_error: float | None  # over the samples without a mismatch; None where a trace has no v or none is left
    first: Divergence | None


@dataclass(frozen=True)
class Rung:
    """Two backends, compared in every layer; holds where every mismatch is a tie or the consequence of one."""

    source: str
    target: str
    holds: bool
    max_output_error: float
    layers: tuple[LayerParity, ...]

    @property
    def compared(self) -> int:
        return sum(layer.compared for layer in self.layers)

    @property
    def mismatches(self) -> int:
        return sum(layer.mismatches for layer in self.layers)


def climb(graph: SpikingGraph, traces: Sequence[Trace]) -> list[Rung]:
    """Compare each trace with the next one; distances to the threshold come from the reference's `u`.

    Raises:
        RmpDeployError: fewer than two traces, no reference trace with u, or traces of other samples.
    """
    exact = [t for t in traces if t.backend == "reference" and t.u]
    if len(traces) < 2 or not exact:
        raise RmpDeployError("parity: traces need the reference with u and at least one other. Run more backends.")
    return [compare(graph, a, b, exact[0].u) for a, b in pairwise(traces)]


def compare(graph: SpikingGraph, a: Trace, b: Trace, u: Layers) -> Rung:
    """Compare two traces' spikes in every neuron op; `u` [N, T, *shape] per op is the float64 reference's.

    Raises:
        RmpDeployError: the traces are of different samples.
    """
    neurons = graph.of_type(LIF)
    differs = {op.name: _differs(op, a, b) for op in neurons}
    first_step = {name: _first_steps(mask) for name, mask in differs.items()}
    clean = np.all([steps == graph.T for steps in first_step.values()], axis=0)  # samples without any mismatch
    rows: list[LayerParity] = []
    for op in neurons:
        mismatches = differs[op.name]
        roots = mismatches & ~_explained(graph, op, mismatches, first_step)
        tolerance = _tolerance(graph, op, u[op.name])
        tied: Mask = roots & (np.abs(u[op.name] - op.v_threshold) <= tolerance)
        v_error = None
        if op.name in a.v and op.name in b.v and clean.any():
            v_error = float(np.abs(a.v[op.name][clean] - b.v[op.name][clean]).max())
        rows.append(
            LayerParity(
                layer=op.name,
                compared=int(mismatches.size),
                mismatches=int(mismatches.sum()),
                ties=int(tied.sum()),
                holds=bool((tied == roots).all()),
                max_v_error=v_error,
                first=_divergence(op, a.spikes[op.name], u[op.name], _worst(roots, tied, mismatches), tolerance),
            )
        )
    return Rung(
        source=a.backend,
        target=b.backend,
        holds=all(row.holds for row in rows),
        max_output_error=float(np.abs(a.output - b.output).max()),
        layers=tuple(rows),
    )


def _differs(op: LIF, a: Trace, b: Trace) -> Mask:
    left, right = a.spikes[op.name], b.spikes[op.name]
    if left.shape != right.shape:
        what = f"{a.backend} {left.shape} and {b.backend} {right.shape}"
        raise RmpDeployError(f"parity of {op.kind} '{op.name}': shapes = {what}, allowed equal ones. Use one data set.")
    mask: Mask = left != right
    return mask


def _first_steps(differs: Mask) -> npt.NDArray[np.int64]:
    """Per sample, the step of its first mismatch; T where there is none."""
    steps = differs.any(axis=tuple(range(2, differs.ndim)))
    return np.where(steps.any(axis=1), np.argmax(steps, axis=1), differs.shape[1])


def _explained(graph: SpikingGraph, op: LIF, differs: Mask, first_step: dict[str, npt.NDArray[np.int64]]) -> Mask:
    """Where an earlier mismatch may be the cause: in a neuron that this layer hears from, or in the same neuron."""
    start = np.full(len(differs), graph.T)
    for name, delay in graph.delay_from(op.inputs[0]).items():
        start = np.minimum(start, first_step[name] + delay)
    heard = np.arange(graph.T)[None, :] >= start[:, None]
    before = np.zeros_like(differs)
    before[:, 1:] = np.logical_or.accumulate(differs, axis=1)[:, :-1]
    explained: Mask = before | heard.reshape(*heard.shape, *(1,) * (differs.ndim - 2))
    return explained


def _tolerance(graph: SpikingGraph, op: LIF, u: npt.NDArray[np.float64]) -> float:
    """Bound of the float32 error of u: ``eps * (fan_in + T) * max(|u|)``.

    The usual forward bound of a sum of fan_in products carried over T steps (Higham, Accuracy and Stability of
    Numerical Algorithms, 2nd ed., section 3.1).
    """
    synapses = [s for s in graph.sources(op.inputs[0]) if isinstance(s, Linear | Conv1d | Conv2d)]
    fan_in = sum(s.weight.size // len(s.weight) for s in synapses) or 1
    largest = max(float(np.abs(u).max()), float(np.abs(op.v_threshold).max()))
    return float(np.finfo(np.float32).eps) * (fan_in + graph.T) * largest


def _worst(roots: Mask, tied: Mask, differs: Mask) -> tuple[int, ...] | None:
    """Index of the mismatch to show: the earliest that is no tie, else the earliest root, else the earliest of all."""
    for mask in (roots & ~tied, roots, differs):
        if mask.any():
            found = np.argwhere(mask)
            return tuple(int(i) for i in found[np.argmin(found[:, 1])])
    return None


def _divergence(
    op: LIF, left: Mask, u: npt.NDArray[np.float64], index: tuple[int, ...] | None, tolerance: float
) -> Divergence | None:
    if index is None:
        return None
    threshold = float(np.broadcast_to(op.v_threshold, u.shape)[index])
    spike = int(left[index])
    return Divergence(
        sample=index[0],
        step=index[1],
        neuron=index[2:],
        spike_from=spike,
        spike_to=1 - spike,
        u=float(u[index]),
        v_threshold=threshold,
        distance=abs(float(u[index]) - threshold),
        tolerance=tolerance,
    )
