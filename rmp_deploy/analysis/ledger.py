"""The whole energy analysis of one network on one data set: counts, twin, and what profiles and conventions say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis import counts
from rmp_deploy.analysis.break_even import BreakEven, break_even
from rmp_deploy.analysis.conventions import CONVENTIONS, Convention, ConventionLedger, apply
from rmp_deploy.analysis.counts.twin import Twin
from rmp_deploy.analysis.early_exit import RunningAccuracy, running_accuracy
from rmp_deploy.analysis.energy import Energy, EnergyLedger, energy_at, price
from rmp_deploy.analysis.hardware import HardwareCosts, hardware
from rmp_deploy.analysis.relays import Relays, relays
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.balance_latency import balance_latency
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.passes.fold_pool import fold_pool
from rmp_deploy.passes.place import place

Labels = npt.NDArray[np.int64]
# Runs a graph over all samples, batch by batch, with spikes recorded: pairs of (x, trace).
Run = Callable[[SpikingGraph], Iterable[tuple[npt.NDArray[Any], Trace]]]

_Shard = TypeVar("_Shard", counts.Counts, RunningAccuracy, Twin)


@dataclass(frozen=True)
class TwinEnergy:
    """The ANN twin with its MACs counted in one way, [MAC per sample], and their energy [J per sample]."""

    name: Literal["dense", "dense with padding", "ReLU zeros skipped"]
    macs: float
    energy: Energy


@dataclass(frozen=True)
class ProfileLedger:
    """What one profile says.

    Attributes:
        ledger: the counts times its prices.
        at: energy of the first t steps for t = 1..T [J per sample].
        twins: energy of the ANN twin, its MACs counted in each way.
        break_even: the firing rate at which the synapses cost as much as the twin.
        hardware: what the shape of the chip adds, on the network as it lies there.
    """

    ledger: EnergyLedger
    at: tuple[Energy, ...]
    twins: tuple[TwinEnergy, ...]
    break_even: BreakEven
    hardware: HardwareCosts


@dataclass(frozen=True)
class Ledger:
    """What one run did and what that costs.

    Attributes:
        counts: of the network as it is deployed.
        twin: the ANN of the same layers.
        effective_why: why its effective MACs are not known; empty where they are.
        pools: "folded", or why they could not be.
        relays: what the network costs more on Loihi, or why that is not known; None where it costs the same.
        profiles: what each profile says, in the order in which they were given.
        conventions: how published tools and papers count the same run.
        accuracy: of the running prediction after each step; None without labels.
        first: trace of the first batch, to draw.
    """

    counts: counts.Counts
    twin: Twin
    effective_why: str
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
    counter = counts.Counter(deployed)
    balanced, refused = deployed, None
    try:
        balanced = balance_latency(deployed)
    except RmpDeployError as e:
        refused = Relays(0, {}, str(e))
    relayed = counter if balanced is deployed else counts.Counter(balanced)
    total: counts.Counts | None = None
    on_loihi: counts.Counts | None = None
    twin: Twin | None = None
    accuracy: RunningAccuracy | None = None
    first: Trace | None = None
    effective_why = ""
    done, values, absolute = 0, 0, 0.0
    for x, trace in run(unfolded):
        total = _join(total, counter.count(trace, x))
        part, why = _twin(unfolded, x)
        effective_why = effective_why or why
        twin = _join(twin, part)
        if balanced is not deployed:
            on_loihi = _join(on_loihi, relayed.count(trace, x))
        if labels is not None:
            accuracy = _join(accuracy, running_accuracy(unfolded, trace, labels[done : done + len(x)]))
        done, values, absolute = done + len(x), values + x.size, absolute + float(np.abs(x, dtype=np.float64).sum())
        first = first or trace
    if total is None or twin is None or first is None:
        raise RmpDeployError(f"energy of graph '{graph.name}': samples = 0, allowed >= 1. Give some.")
    more = None if on_loihi is None else relays(deployed, balanced, total, on_loihi)
    placed = total if on_loihi is None else on_loihi
    mean = absolute / values
    return Ledger(
        counts=total,
        twin=twin,
        effective_why=effective_why,
        pools=pools,
        relays=refused or more,
        profiles=tuple(
            ProfileLedger(
                ledger := price(total, twin, each),
                energy_at(total, each),
                _twins(twin, ledger),
                break_even(total, twin, each),
                _hardware(graph, balanced, placed, each),
            )
            for each in profiles
        ),
        conventions=tuple(apply(each, deployed, total, designed=graph, mean_input=mean) for each in conventions),
        accuracy=accuracy,
        first=first,
    )


def _twin(graph: SpikingGraph, x: npt.NDArray[Any]) -> tuple[Twin, str]:
    """With its effective MACs, or without them and why."""
    try:
        return counts.twin(graph, x), ""
    except RmpDeployError as e:
        return counts.twin(graph), str(e)


def _twins(twin: Twin, ledger: EnergyLedger) -> tuple[TwinEnergy, ...]:
    """Each way to count at the price of the dense one."""
    dense = (ledger.twin_low_per_sample, ledger.twin_high_per_sample, ledger.twin_joule_per_sample)

    def priced(macs: float) -> Energy:
        return Energy(*(None if joule is None or not twin.macs else joule * macs / twin.macs for joule in dense))

    found = [
        TwinEnergy("dense", twin.macs, Energy(*dense)),
        TwinEnergy("dense with padding", twin.macs_with_padding, priced(twin.macs_with_padding)),
    ]
    if twin.effective_macs is not None:
        macs = twin.effective_macs / twin.samples
        found.append(TwinEnergy("ReLU zeros skipped", macs, priced(macs)))
    return tuple(found)


def _hardware(
    graph: SpikingGraph, balanced: SpikingGraph, counted: counts.Counts, profile: HardwareProfile
) -> HardwareCosts:
    """Costs of `graph` placed under the profile's limits; `counted` are those of `balanced`, which lies on cores."""
    limits = {name: limit.value for name, limit in profile.limits.items()}
    if limits["cores"] is None:
        return hardware(
            balanced, counted, profile, unplaced=f"how many cores is unknown: {profile.limits['cores'].why}"
        )
    try:
        return hardware(balanced, counted, profile, place(graph, limits))
    except RmpDeployError as e:
        return hardware(balanced, counted, profile, unplaced=str(e))


def _join(before: _Shard | None, shard: _Shard) -> _Shard:
    return shard if before is None else before + shard
