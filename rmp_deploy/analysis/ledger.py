"""The whole energy analysis of one network on one data set: counts, twin, and what profiles and conventions say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis import counts
from rmp_deploy.analysis.conventions import CONVENTIONS, Convention, ConventionLedger, apply
from rmp_deploy.analysis.counts.twin import Twin
from rmp_deploy.analysis.early_exit import RunningAccuracy, running_accuracy
from rmp_deploy.analysis.energy import Energy, EnergyLedger, energy_at, price
from rmp_deploy.analysis.relays import Relays, relays
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.balance_latency import balance_latency
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.passes.fold_pool import fold_pool

Labels = npt.NDArray[np.int64]
# Runs a graph over all samples, batch by batch, with spikes recorded: pairs of (x, trace).
Run = Callable[[SpikingGraph], Iterable[tuple[npt.NDArray[Any], Trace]]]

_Shard = TypeVar("_Shard", counts.Counts, RunningAccuracy)


@dataclass(frozen=True)
class ProfileLedger:
    """What one profile says: the ledger, and the energy of the first t steps for t = 1..T [J per sample]."""

    ledger: EnergyLedger
    at: tuple[Energy, ...]


@dataclass(frozen=True)
class Ledger:
    """What one run did and what that costs.

    Attributes:
        counts: of the network as it is deployed.
        twin: the ANN of the same layers.
        pools: "folded", or why they could not be.
        relays: what the network costs more on Loihi, or why that is not known; None where it costs the same.
        profiles: what each profile says, in the order in which they were given.
        conventions: how published tools and papers count the same run.
        accuracy: of the running prediction after each step; None without labels.
        first: trace of the first batch, to draw.
    """

    counts: counts.Counts
    twin: Twin
    pools: str
    relays: Relays | None
    profiles: tuple[ProfileLedger, ...]
    conventions: tuple[ConventionLedger, ...]
    accuracy: RunningAccuracy | None
    first: Trace


def measure(
    graph: SpikingGraph,
    run: Run,
    profiles: Sequence[HardwareProfile],
    labels: Labels | None = None,
    conventions: Sequence[Convention] = tuple(CONVENTIONS.values()),
) -> Ledger:
    """Run all samples, count and price.

    Counts are taken on the graph as it is deployed: with its pools folded, or, where they cannot fold exactly, with
    their adds counted and the real-valued maps behind them as multiply-accumulates. The ANN twin is the network before
    that. What the network costs more on Loihi, where ways that join must be equally deep and pools are neurons, stands
    beside it. Memory follows the batches that `run` gives, never the data set.

    Raises:
        RmpDeployError: an op has no counting rule, there are no samples, or a label names a class that the readout
            does not have; with labels, if the readout was not recorded.
    """
    unfolded = fold_batchnorm(graph)
    try:
        deployed, pools = fold_pool(unfolded), "folded"
    except RmpDeployError as e:
        deployed, pools = unfolded, f"not folded: {e}"
    counts.check(deployed)
    balanced, refused = deployed, None
    try:
        balanced = balance_latency(deployed)
    except RmpDeployError as e:
        refused = Relays(0, {}, str(e))
    total: counts.Counts | None = None
    on_loihi: counts.Counts | None = None
    accuracy: RunningAccuracy | None = None
    first: Trace | None = None
    done, values, absolute = 0, 0, 0.0
    for x, trace in run(unfolded):
        total = _join(total, counts.count(deployed, trace, x))
        if balanced is not deployed:
            on_loihi = _join(on_loihi, counts.count(balanced, trace, x))
        if labels is not None:
            accuracy = _join(accuracy, running_accuracy(unfolded, trace, labels[done : done + len(x)]))
        done, values, absolute = done + len(x), values + x.size, absolute + float(np.abs(x, dtype=np.float64).sum())
        first = first or trace
    if total is None or first is None:
        raise RmpDeployError(f"energy of graph '{graph.name}': samples = 0, allowed >= 1. Give some.")
    twin = counts.twin(unfolded)
    more = None if on_loihi is None else relays(deployed, balanced, total, on_loihi)
    mean = absolute / values
    return Ledger(
        counts=total,
        twin=twin,
        pools=pools,
        relays=refused or more,
        profiles=tuple(ProfileLedger(price(total, twin, each), energy_at(total, each)) for each in profiles),
        conventions=tuple(apply(each, deployed, total, designed=graph, mean_input=mean) for each in conventions),
        accuracy=accuracy,
        first=first,
    )


def _join(before: _Shard | None, shard: _Shard) -> _Shard:
    return shard if before is None else before + shard
