"""Parity: is the network still the same network after a hand-over, spike by spike?

A rung compares two traces of one graph. Floating-point rungs may differ only where a membrane potential lies within
float32 rounding of its threshold (a tie); `rmp_deploy.analysis.replay` judges every spike of both traces on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.replay import Replay, replay
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LIF, LoihiLIF, SpikingNeuron
from rmp_deploy.ir.trace import Trace

Mask = npt.NDArray[np.bool_]
Cause = Literal["wrong", "tie", "inherited"]
RESOLUTION = 0.01


@dataclass(frozen=True)
class Divergence:
    """The first neuron and time step where a trace leaves the graph, or else where the two traces part.

    `cause`: the spike is ``wrong``, a ``tie``, or right given its inputs, which differ (``inherited``).
    """

    sample: int
    step: int
    neuron: tuple[int, ...]
    spike_from: int
    spike_to: int
    u: float
    v_threshold: float
    distance: float  # |u - v_threshold|
    tolerance: float  # what float32 rounding can explain of this potential; 0 for Loihi's integers
    cause: Cause


@dataclass(frozen=True)
class PotentialDivergence:
    """The first potential after the reset that is not the one of its trace's own spikes; None: not recorded."""

    sample: int
    step: int
    neuron: tuple[int, ...]
    v_from: float | None
    v_to: float | None
    v: float  # that of the spikes of the trace that is wrong
    tolerance: float


@dataclass(frozen=True)
class LayerParity:
    """One layer of one rung: N * T * neurons spikes `compared`.

    `ties` counts the spikes of either trace that its own inputs contradict, by no more than float rounding. The other
    mismatches, if any, are what ties upstream or earlier led to: both traces are right about them, given their inputs.
    """

    layer: str
    compared: int
    mismatches: int
    ties: int
    holds: bool
    v_holds: bool  # each trace's potentials are those of its own spikes
    max_v_error: float | None  # over the samples without a mismatch; None where a trace has no v or none is left
    first: Divergence | None
    first_v: PotentialDivergence | None
    exact: bool  # Loihi's integers: equal bit for bit, no tolerance

    def followed_by(self, later: LayerParity, samples: int) -> LayerParity:
        """This layer over `samples` samples and then over `later`'s."""
        errors = [e for e in (self.max_v_error, later.max_v_error) if e is not None]
        first = [f for f in (self.first, _moved(later.first, samples)) if f is not None]
        first_v = [f for f in (self.first_v, _moved(later.first_v, samples)) if f is not None]
        return LayerParity(
            layer=self.layer,
            compared=self.compared + later.compared,
            mismatches=self.mismatches + later.mismatches,
            ties=self.ties + later.ties,
            holds=self.holds and later.holds,
            v_holds=self.v_holds and later.v_holds,
            max_v_error=max(errors, default=None),
            first=min(first, key=lambda f: (get_args(Cause).index(f.cause), f.step), default=None),
            first_v=min(first_v, key=lambda f: f.step, default=None),
            exact=self.exact,
        )


@dataclass(frozen=True)
class Rung:
    """Two traces, compared in every layer and in the readout; holds where both are runs of the graph.

    `+` joins two parts of a data set, the right one's samples behind the left one's.
    """

    source: str
    target: str
    samples: int
    holds: bool
    max_output_error: float
    output_holds: bool  # each readout is the one that its own spikes give
    layers: tuple[LayerParity, ...]

    def __add__(self, later: Rung) -> Rung:
        return Rung(
            source=self.source,
            target=self.target,
            samples=self.samples + later.samples,
            holds=self.holds and later.holds,
            max_output_error=max(self.max_output_error, later.max_output_error),
            output_holds=self.output_holds and later.output_holds,
            layers=tuple(a.followed_by(b, self.samples) for a, b in zip(self.layers, later.layers, strict=True)),
        )

    @property
    def compared(self) -> int:
        return sum(layer.compared for layer in self.layers)

    @property
    def mismatches(self) -> int:
        return sum(layer.mismatches for layer in self.layers)


Place = TypeVar("Place", Divergence, PotentialDivergence)


def _moved(first: Place | None, samples: int) -> Place | None:
    return None if first is None else replace(first, sample=first.sample + samples)


def climb(
    graph: SpikingGraph, x: npt.NDArray[Any], traces: Sequence[Trace], trained: SpikingGraph | None = None
) -> list[Rung]:
    """Compare each trace of samples `x` with the next one.

    Args:
        graph: the network of all traces.
        x: samples, [N, *shape] (direct) or [N, T, *shape] (time_series).
        traces: runs of it with spikes recorded, and potentials where they should be compared.
        trained: the graph as torch ran it, before BatchNorm was folded. Its mean and beta round on their own, where a
            folded bias has them cancelled already: torch's trace is judged with that tolerance.

    Raises:
        RmpDeployError: fewer than two traces, or traces of other samples.
    """
    if len(traces) < 2:
        raise RmpDeployError(f"parity: traces = {len(traces)}, allowed 2 or more. Run more backends.")
    for trace in traces:
        _check(graph, x, trace)
    replays = [_replay(graph, x, trace, trained if trace.backend == "torch" else None) for trace in traces]
    pairs = pairwise(zip(traces, replays, strict=True))
    return [_compare(graph, a, of_a, b, of_b) for (a, of_a), (b, of_b) in pairs]


def compare(graph: SpikingGraph, x: npt.NDArray[Any], a: Trace, b: Trace) -> Rung:
    """Compare two traces of samples `x` in every neuron op and in the readout."""
    (rung,) = climb(graph, x, [a, b])
    return rung


def _replay(graph: SpikingGraph, x: npt.NDArray[Any], trace: Trace, trained: SpikingGraph | None) -> Replay:
    own = replay(graph, x, trace)
    if trained is None:
        return own
    rounded = replay(trained, x, trace)
    layers = {
        name: replace(
            layer,
            tolerance=np.maximum(layer.tolerance, rounded.layers[name].tolerance),
            v_tolerance=np.maximum(layer.v_tolerance, rounded.layers[name].v_tolerance),
        )
        for name, layer in own.layers.items()
    }
    return Replay(layers, own.output, np.maximum(own.output_tolerance, rounded.output_tolerance))


def _check(graph: SpikingGraph, x: npt.NDArray[Any], trace: Trace) -> None:
    graph.check_samples(x)
    for op in graph.spiking:
        wanted = (len(x), graph.T, *graph.shapes[op.name])
        found = trace.spikes[op.name].shape if op.name in trace.spikes else None
        if found != wanted:
            what = f"spikes of {trace.backend} = {found}, allowed {wanted}"
            raise RmpDeployError(f"parity of {op.kind} '{op.name}': {what}. Record spikes of the same samples.")


def _compare(graph: SpikingGraph, a: Trace, of_a: Replay, b: Trace, of_b: Replay) -> Rung:
    differs = {op.name: a.spikes[op.name] != b.spikes[op.name] for op in graph.spiking}
    clean = ~np.any([mask.reshape(len(mask), -1).any(axis=1) for mask in differs.values()], axis=0)
    output_holds = all(
        bool((np.abs(trace.output - own.output) <= own.output_tolerance).all()) for trace, own in ((a, of_a), (b, of_b))
    )
    layers = tuple(_layer(op, a, of_a, b, of_b, differs[op.name], clean) for op in graph.spiking)
    return Rung(
        source=a.backend,
        target=b.backend,
        samples=a.n_samples,
        holds=output_holds and all(layer.holds for layer in layers),
        max_output_error=float(np.abs(a.output - b.output).max()),
        output_holds=output_holds,
        layers=layers,
    )


def _layer(
    op: SpikingNeuron, a: Trace, of_a: Replay, b: Trace, of_b: Replay, differs: Mask, clean: Mask
) -> LayerParity:
    contradicted, broken, off = (np.zeros_like(differs) for _ in range(3))
    for trace, own in ((a, of_a.layers[op.name]), (b, of_b.layers[op.name])):
        wrong: Mask = (own.u > op.threshold) != trace.spikes[op.name]
        contradicted |= wrong
        broken |= wrong & (np.abs(own.u - op.threshold) > np.minimum(own.tolerance, _resolution(op)))
        if op.name in trace.v:
            off |= ~(np.abs(trace.v[op.name] - own.v) <= own.v_tolerance)
    causes: dict[Cause, Mask] = {"wrong": broken, "tie": contradicted, "inherited": differs}
    first = next(((cause, _earliest(mask)) for cause, mask in causes.items() if mask.any()), None)
    v_error = None
    if op.name in a.v and op.name in b.v and clean.any():
        v_error = float(np.abs(a.v[op.name][clean] - b.v[op.name][clean]).max())
    return LayerParity(
        layer=op.name,
        compared=int(differs.size),
        mismatches=int(differs.sum()),
        ties=int((contradicted & ~broken).sum()),
        holds=not bool(off.any() or broken.any()),
        v_holds=not bool(off.any()),
        max_v_error=v_error,
        first=None if first is None else _divergence(op, a, of_a, b, of_b, *first),
        first_v=_potential(op.name, a, of_a, b, of_b, _earliest(off)) if off.any() else None,
        exact=isinstance(op, LoihiLIF),
    )


def _resolution(op: SpikingNeuron) -> npt.NDArray[np.float64]:
    """The most that a tie may be off: 1 % of what a spike changes, or of the threshold; no limit where both are 0.

    Where rounding could explain more, float32 does not decide what the network does, and no spike is excused.
    """
    threshold = np.abs(np.asarray(op.threshold, np.float64))
    jump = np.zeros(())
    if isinstance(op, LIF):
        after = op.v_threshold - op.v_reset if op.reset == "hard" else op.subtracted
        jump = np.abs(after.astype(np.float64))
    scale = np.maximum(threshold, jump)
    return np.where(scale > 0, RESOLUTION * scale, np.inf)


def _earliest(mask: Mask) -> tuple[int, ...]:
    found = np.argwhere(mask)
    return tuple(int(i) for i in found[np.argmin(found[:, 1])])


def _divergence(
    op: SpikingNeuron, a: Trace, of_a: Replay, b: Trace, of_b: Replay, cause: Cause, index: tuple[int, ...]
) -> Divergence:
    """What happened at `index`; the potential is that of the trace whose spike its own inputs contradict most."""
    threshold = float(np.broadcast_to(op.threshold, a.spikes[op.name].shape)[index])
    spikes = [bool(trace.spikes[op.name][index]) for trace in (a, b)]
    owns = [own.layers[op.name] for own in (of_a, of_b)]
    errors = [
        abs(float(o.u[index]) - threshold) * ((o.u[index] > threshold) != s) for o, s in zip(owns, spikes, strict=True)
    ]
    own = owns[int(np.argmax(errors))]
    u = float(own.u[index])
    return Divergence(
        sample=index[0],
        step=index[1],
        neuron=index[2:],
        spike_from=int(spikes[0]),
        spike_to=int(spikes[1]),
        u=u,
        v_threshold=threshold,
        distance=abs(u - threshold),
        tolerance=float(min(own.tolerance[index], np.broadcast_to(_resolution(op), own.u.shape)[index])),
        cause=cause,
    )


def _potential(
    name: str, a: Trace, of_a: Replay, b: Trace, of_b: Replay, index: tuple[int, ...]
) -> PotentialDivergence:
    """What was recorded at `index`, and what the trace that is further off should have had."""
    recorded = [float(trace.v[name][index]) if name in trace.v else None for trace in (a, b)]
    owns = [of_a.layers[name], of_b.layers[name]]
    errors = [-1.0 if v is None else abs(v - float(o.v[index])) for v, o in zip(recorded, owns, strict=True)]
    own = owns[int(np.argmax(errors))]
    return PotentialDivergence(
        sample=index[0],
        step=index[1],
        neuron=index[2:],
        v_from=recorded[0],
        v_to=recorded[1],
        v=float(own.v[index]),
        tolerance=float(own.v_tolerance[index]),
    )
