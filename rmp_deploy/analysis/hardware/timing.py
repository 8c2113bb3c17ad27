"""How long a step and a sample take on a placed network, what is drawn meanwhile, and the energy-delay product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.counts import Counts, LayerCounts
from rmp_deploy.analysis.hardware.estimate import Estimate, of, sources_of, total
from rmp_deploy.analysis.hardware.routing import DISTANCES, Routing
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.passes.place import Placement

Floats = npt.NDArray[np.float64]
# Units of a core that work at the same time, and what each is busy with.
UNITS: dict[str, tuple[str, ...]] = {"neurons": ("neuron_active", "neuron_inactive"), "synapses": ("ac", "mac")}
UNTIMED = ("spike", "residual_add", "pool_add", "pool_or")  # no published rule says which unit they occupy, and when


@dataclass(frozen=True)
class Timing:
    """One way to run the steps; all of it an estimate.

    Attributes:
        name: "as fast as the cores allow" or "held to a fixed rate".
        step: mean time of a step [s]; sample: of the T steps of a sample, where samples follow each other without a
            gap [s]. A lower bound where the cores decide.
        static: what the chips draw meanwhile [J per sample].
        energy: operations, messages, memory and static [J per sample], as far as each is known.
        energy_delay: ``energy * sample`` [J s].
    """

    name: str
    step: Estimate
    sample: Estimate
    static: Estimate
    energy: Estimate
    energy_delay: Estimate


def sample_time(placement: Placement, counts: Counts, routing: Routing, profile: HardwareProfile) -> Estimate:
    """Least time of the T steps of one sample [s]: ``sum over t of max(neurons, synapses, travel) + barrier``.

    In each step, ``neurons`` and ``synapses`` are the operations of the busiest layer, spread evenly over its cores,
    times the time of one; its fullest core takes longer. The two work at the same time. ``travel`` is the way of the
    mean message, in steps in which any neuron spikes. Waiting, input, output and `untimed` are left out.

    Raises:
        RmpDeployError: `counts` do not hold every step.
    """
    loads = {term: _per_core(placement, counts, term) for terms in UNITS.values() for term in terms}
    happened = [term for term, load in loads.items() if load.any()]
    for name in happened:
        if profile.latency[name].low is None:
            return Estimate("s", why=f"time of {name}: {profile.latency[name].why}")
    barrier = barrier_time(profile, routing)
    if not barrier.known:
        return barrier
    fires = sum((_steps(row, "spike", counts.T) for row in counts.layers), np.zeros(counts.T)) > 0
    messages = routing.counts["message_out"] or 0
    hops = [name for name in DISTANCES if routing.counts[name] and profile.latency[name].low is not None]
    mean = {name: (routing.counts[name] or 0) / messages for name in hops}

    def ends(which: str) -> float | None:
        times = {name: getattr(of(profile.latency[name]), which) for name in (*happened, *hops)}
        if None in times.values():  # what happens has a range without a point
            return None
        busy = [
            sum((loads[term] * times[term] for term in terms if term in times), np.zeros((1, counts.T))).max(axis=0)
            for terms in UNITS.values()
        ]
        travel = sum(mean[name] * times[name] for name in hops)
        return float(np.max([*busy, fires * travel], axis=0).sum())

    value, low, high = (ends(which) for which in ("value", "low", "high"))
    told = sources_of(of(profile.latency[name]) for name in (*happened, *hops))
    return total("s", (Estimate("s", value, low, high, sources=told), barrier.times(counts.T)))


def untimed(counts: Counts, routing: Routing, profile: HardwareProfile) -> dict[str, str]:
    """What happened and is not in `sample_time`, and why."""
    totals: dict[str, int | None] = {**counts.totals, **routing.counts}
    left_out = {}
    for name in (*UNTIMED, "message_out", "message_in", *DISTANCES):
        latency = profile.latency.get(name)
        if not totals[name]:
            continue
        if latency is None or latency.low is None:
            left_out[f"time of {name}"] = "no profile has it" if latency is None else latency.why
        elif name not in DISTANCES:
            left_out[f"time of {name}"] = "nothing says which of a core's units it occupies, and when"
    return left_out


def _per_core(placement: Placement, counts: Counts, term: str) -> Floats:
    """Operations of each layer in each step, mean of the samples and of the layer's cores, [layers, T]."""
    found = np.zeros((len(placement.layers), counts.T))
    for i, layer in enumerate(placement.layers):
        for row in counts.layers:
            if row.neurons == layer.name or row.layer in (layer.name, *layer.synapses):
                found[i] += _steps(row, term, counts.T) / (counts.samples * layer.cores)
    return found


def _steps(row: LayerCounts, term: str, steps: int) -> Floats:
    """A term of one row at each step, summed over the samples, [T]."""
    found = row.steps.get(term, ())
    if len(found) != steps:
        raise RmpDeployError(
            f"counts: steps of '{term}' of layer '{row.layer}' = {len(found)}, allowed {steps}. Count with `count`."
        )
    return np.asarray(found, np.float64)


def barrier_time(profile: HardwareProfile, routing: Routing) -> Estimate:
    """The barrier at the end of a step [s]: a range between the two published numbers of tiles around that many.

    It grows with the tiles, and how is not published: nothing is interpolated.
    """
    known = sorted(profile.barrier, key=lambda b: b.tiles)
    if not known or routing.tiles is None:
        return Estimate("s", why="the profile has no barrier" if not known else "the mesh of a chip is not known")
    if routing.chips != 1:
        return Estimate("s", why=f"the barrier of {routing.chips} chips is not known")
    below = [b for b in known if b.tiles <= routing.tiles]
    above = [b for b in known if b.tiles >= routing.tiles]
    if not below or not above:
        return Estimate("s", why=f"the profile has no barrier of {routing.tiles} tiles")
    least, most = of(below[-1].time), of(above[0].time)
    if not least.known or not most.known:
        return Estimate("s", why=least.why or most.why)
    point = least.value if (least.low, least.high) == (most.low, most.high) else None
    return Estimate("s", point, least.low, most.high, sources=sources_of((least, most)))


def power(profile: HardwareProfile, routing: Routing) -> Estimate:
    """What the chips draw whatever the network does [W]: of whole chips where that is known, else of the cores used."""
    chip, core = of(profile.static["chip"]), of(profile.static["core"])
    if chip.known and routing.chips is not None:
        return chip.times(routing.chips)
    return core.times(routing.cores) if core.known else Estimate("W", why=chip.why or "chips are not known")


def timings(
    sample: Estimate, steps: int, watts: Estimate, dynamic: Estimate, profile: HardwareProfile
) -> tuple[Timing, ...]:
    """As fast as the cores allow, and, where the profile has the time of a step that is held back, at that rate."""
    ways: Mapping[str, Estimate] = {"as fast as the cores allow": sample}
    held = profile.latency.get("step")
    if held is not None and held.low is not None:
        ways = {**ways, "held to a fixed rate": of(held).times(steps)}
    found = []
    for name, time in ways.items():
        static = watts.product(time, "J")
        energy = total("J", (dynamic, static))
        found.append(Timing(name, time.times(1 / steps), time, static, energy, energy.product(time, "J s")))
    return tuple(found)
