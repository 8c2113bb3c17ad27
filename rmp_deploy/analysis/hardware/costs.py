"""What the shape of the hardware adds to the operations: routes, memories, static power and time."""

from __future__ import annotations

from dataclasses import dataclass

from rmp_deploy.analysis.counts import Counts
from rmp_deploy.analysis.hardware.estimate import Estimate, of, total
from rmp_deploy.analysis.hardware.memory import HELD, MemoryCosts, memory_costs
from rmp_deploy.analysis.hardware.routing import Routing, route
from rmp_deploy.analysis.hardware.timing import Timing, power, sample_time, timings, untimed
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.passes.place import Placement

NOT_PLACED = "the network is not placed on cores"


@dataclass(frozen=True)
class HardwareCosts:
    """Estimates by one profile, none of them measured; what is unknown says why.

    Attributes:
        profile: its name.
        routing: messages and hops; None, and `unplaced` says why, where the network is on no cores.
        memory: accesses to weights and states by size.
        operations: the counts that the profile's terms price [J per sample].
        power: static [W].
        timings: the ways to run the steps, with time, static energy and the energy-delay product.
        left_out: what the energies and times of `timings` do not hold, and why.
    """

    profile: str
    routing: Routing | None
    unplaced: str
    memory: MemoryCosts
    operations: Estimate
    power: Estimate
    timings: tuple[Timing, ...]
    left_out: dict[str, str]


def hardware(
    graph: SpikingGraph,
    counts: Counts,
    profile: HardwareProfile,
    placement: Placement | None = None,
    unplaced: str = NOT_PLACED,
) -> HardwareCosts:
    """Costs of the run of `graph` that `counts` counted, on the hardware of `profile`.

    Args:
        graph: the network whose counts these are. With a placement, the network as it lies on the chip:
            `balance_latency` of the deployed one, so that relays and pools have their spikes.
        placement: of `passes.place` under the profile's limits; None without cores, and `unplaced` says why.

    Raises:
        RmpDeployError: no step was counted, the counts do not hold every step, or they are not of the
            network that is placed.
    """
    if counts.T < 1:
        raise RmpDeployError(f"counts: T = {counts.T}, allowed >= 1. Count a run.")
    if placement is not None and placement.excesses:
        e = placement.excesses[0]
        unplaced = f"it does not fit: {e.limit} of one neuron of '{e.layer}' = {e.value}, allowed {e.allowed}"
        placement = None
    memory = memory_costs(graph, counts, profile)
    routing, watts = None, Estimate("W", why=unplaced)
    sample = Estimate("s", why=unplaced)
    if placement is not None:
        routing = route(placement, counts, profile)
        watts, sample = power(profile, routing), sample_time(placement, counts, routing, profile)
    operations = _operations(counts, profile)
    parts, left_out = [operations], {}
    for name, energy in (
        ("routing", Estimate("J", why=unplaced) if routing is None else routing.energy),
        ("memory", memory.packed),
    ):
        if energy.known:
            parts.append(energy)
        elif energy.why != HELD:
            left_out[name] = energy.why
    if routing is not None:
        left_out |= routing.left_out
        if sample.known:
            left_out |= untimed(counts, routing, profile)
    return HardwareCosts(
        profile=profile.name,
        routing=routing,
        unplaced="" if routing is not None else unplaced,
        memory=memory,
        operations=operations,
        power=watts,
        timings=timings(sample, counts.T, watts, total("J", parts), profile),
        left_out=left_out,
    )


def _operations(counts: Counts, profile: HardwareProfile) -> Estimate:
    """Energy of the priced terms that happened [J per sample]; unknown where none of those has a price."""
    happened = {term: n / counts.samples for term, n in counts.totals.items() if n}
    known = [of(profile.prices[term]).times(n) for term, n in happened.items() if profile.prices[term].figure]
    if happened and not known:
        return Estimate("J", why="the profile has no figure for an operation that happened")
    return total("J", known)
