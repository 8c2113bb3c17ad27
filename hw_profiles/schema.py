"""Hardware profiles: what one operation costs, how much fits, who says so, and how far each figure may be trusted.

Every number carries value, unit, evidence and source. Unknown is None with a `why`: never 0, and never a silent gap.
`reading` reads a profile from its TOML file; docs/profiles.md describes every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles.figures import Barrier, Extent, Limit, Memory, Price, Quantity, WholeTask


class Term(NamedTuple):
    """What a count is called in words, and the unit that it counts."""

    title: str
    unit: str


class LimitKind(NamedTuple):
    """What a limit counts, what it is a limit of, and the least value that it can have; `MOST_BITS` for bits."""

    unit: str
    scope: Extent
    least: int = 1


TERMS: dict[str, Term] = {
    "mac": Term("multiply-accumulates of real-valued and graded inputs", "operation"),
    "ac": Term("accumulates, one per synapse that a spike reaches", "operation"),
    "bias_add": Term("bias adds", "operation"),
    "residual_add": Term("residual adds that no synapse accumulates", "operation"),
    "pool_add": Term("pooling adds", "operation"),
    "pool_or": Term("ORs of spikes in pools", "operation"),
    "conversion": Term("conversions between real values and Loihi's integers", "operation"),
    "neuron_active": Term("neuron updates that received input or spiked", "update"),
    "neuron_inactive": Term("neuron updates that did neither", "update"),
    "neuron_multiply": Term("membrane and current decays", "operation"),
    "neuron_add": Term("membrane and current adds", "operation"),
    "neuron_compare": Term("threshold comparisons", "operation"),
    "reset": Term("membrane resets", "operation"),
    "spike": Term("spikes sent", "spike"),
    "weight_read": Term("weights read", "word"),
    "state_read": Term("neuron and delay states read", "word"),
    "state_write": Term("neuron and delay states written", "word"),
}
LIMITS: dict[str, LimitKind] = {
    "cores": LimitKind("core", "chip"),
    "neurons_per_core": LimitKind("neuron", "core"),
    "input_axons_per_core": LimitKind("axon", "core"),
    "output_axons_per_core": LimitKind("axon", "core"),
    "synapse_memory_per_core": LimitKind("byte", "core"),
    "synapses_per_core": LimitKind("synapse", "core"),
    "thresholds_per_core": LimitKind("value", "core"),
    "weight_bits": LimitKind("bit", "synapse"),
    "delay_steps": LimitKind("step", "synapse", 0),
    "decay_bits": LimitKind("bit", "neuron"),
    "threshold_bits": LimitKind("bit", "neuron"),
    "bias_bits": LimitKind("bit", "neuron"),
    "state_bits": LimitKind("bit", "neuron"),
    "graded_spike_bits": LimitKind("bit", "spike", 0),  # 0: a spike carries nothing
}
# Energies of a spike on its way between cores: known once the network is placed.
ROUTES: dict[str, Term] = {
    "message_out": Term("messages sent: one per neuron that spikes and core that it reaches", "message"),
    "message_in": Term("messages received", "message"),
    "within_tile": Term("messages that stay within their tile", "message"),
    "hop_east_west": Term("hops of a message between tiles, east or west", "hop"),
    "hop_north_south": Term("hops of a message between tiles, north or south", "hop"),
}
MESH: dict[str, LimitKind] = {
    "mesh_rows": LimitKind("tile", "chip"),
    "mesh_columns": LimitKind("tile", "chip"),
    "cores_per_tile": LimitKind("core", "tile"),
}
# Times [s] of one operation on one core, or of one message.
LATENCIES: dict[str, Term] = {
    **{t: TERMS[t] for t in ("ac", "mac", "neuron_active", "neuron_inactive", "spike")},
    **ROUTES,
    "step": Term("steps that are held back to a fixed rate", "step"),
}
STATIC: dict[str, Term] = {  # powers [W] that are drawn whatever the network does
    "chip": Term("a chip that is on", "chip"),
    "core": Term("a core that is on", "core"),
}
ABSENT = "not in the profile"
UNSTATED = "unstated"
PRECISION = re.compile(r"(fp|bf|int)[1-9][0-9]?|" + UNSTATED)


@dataclass(frozen=True)
class HardwareProfile:
    """A price for every name in `TERMS` and a limit for every name in `LIMITS`; what was not given is unknown.

    Attributes:
        precision: numbers that the prices are for, all of them: fp32, int8, ..., or "unstated".
        routing, mesh: energies of messages [J] and sizes of the mesh; every name in `ROUTES` and `MESH`.
        memory: energies of one access, by size of the memory.
        static: powers [W]; every name in `STATIC`.
        latency, barrier: times [s]; every name in `LATENCIES`; the barrier between steps by number of tiles.
        whole_task: figures of whole tasks, never multiplied with counts.
        uncounted: published figures of operations that no count covers; shown and never added.

    Raises:
        RmpDeployError: per-term and all-in figures are mixed, there is more than one all-in figure, an all-in figure
            stands beside routing, memory or static power, a term is included in figures that do not exist, barriers
            repeat a number of tiles or fall with it, or the precision is not one.
    """

    name: str
    title: str
    prices: Mapping[str, Price]
    notes: tuple[str, ...] = ()
    uncounted: Mapping[str, Price] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    precision: str = UNSTATED
    precision_source: str = ""
    memory: tuple[Memory, ...] = ()
    routing: Mapping[str, Price] = field(default_factory=dict)
    mesh: Mapping[str, Limit] = field(default_factory=dict)
    static: Mapping[str, Quantity] = field(default_factory=dict)
    latency: Mapping[str, Quantity] = field(default_factory=dict)
    barrier: tuple[Barrier, ...] = ()
    whole_task: Mapping[str, WholeTask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not PRECISION.fullmatch(self.precision):
            allowed = f"fp, bf or int and bits (fp32, int8), or {UNSTATED}"
            raise bad(self.name, f"precision = '{self.precision}'", allowed, "Correct it")
        price, watts, seconds = Price(why=ABSENT), Quantity(None, "W", why=ABSENT), Quantity(None, "s", why=ABSENT)
        prices = {term: self.prices.get(term, price) for term in TERMS}
        routing = {name: self.routing.get(name, price) for name in ROUTES}
        object.__setattr__(self, "prices", prices)
        object.__setattr__(self, "routing", routing)
        object.__setattr__(self, "limits", _limits(self.limits, LIMITS))
        object.__setattr__(self, "mesh", _limits(self.mesh, MESH))
        object.__setattr__(self, "static", {name: self.static.get(name, watts) for name in STATIC})
        object.__setattr__(self, "latency", {name: self.latency.get(name, seconds) for name in LATENCIES})
        self._check_scopes()
        self._check_barriers()
        for name, known in (*((f"terms.{t}", p) for t, p in prices.items()), *_parts(self)):
            held = [prices[t].status for t in known.included_in if t in prices]
            if known.included_in and ("priced" not in held or "included" in held):
                what = f"{name}.included_in = {list(known.included_in)}"
                raise bad(self.name, what, "terms with a figure of their own, one of them priced", "Correct it")

    def _check_scopes(self) -> None:
        """One scope; and nothing stands beside an all-in figure that would be added to it a second time."""
        figures = {term: price.figure for term, price in self.prices.items() if price.figure is not None}
        all_in = [term for term, figure in figures.items() if figure.scope == "all_in"]
        per_term = [term for term, figure in figures.items() if figure.scope == "per_term"]
        if all_in and per_term:
            raise bad(
                self.name,
                f"{all_in[0]} is all_in and {per_term[0]} is per_term",
                "one scope (an all-in figure already holds the others)",
                "Split it into two profiles",
            )
        if len(all_in) > 1:
            raise bad(self.name, f"all_in terms = {', '.join(all_in)}", "1 (two would count twice)", "Keep one")
        beside = [
            *(name for name, price in _parts(self) if price.figure is not None),
            *(f"static.{name}" for name, quantity in self.static.items() if quantity.low is not None),
        ]
        if all_in and beside:
            what = f"{beside[0]} has a figure and {all_in[0]} is all_in"
            raise bad(self.name, what, "none beside an all-in figure, which holds it already", "Remove it")

    def _check_barriers(self) -> None:
        """Between two sizes the time lies between their times, which holds only where it grows with the tiles."""
        for less, more in pairwise(sorted(self.barrier, key=lambda each: each.tiles)):
            ends = ((less.time.low, more.time.low), (less.time.high, more.time.high))
            falls = any(a is not None and b is not None and a > b for a, b in ends)
            if falls or less.tiles == more.tiles:
                what = f"barriers of {less.tiles} and {more.tiles} tiles"
                raise bad(self.name, what, "more tiles and no less time", "Correct them")


def _parts(profile: HardwareProfile) -> list[tuple[str, Price]]:
    """What a message and an access to memory cost, by name."""
    routing = [(f"routing.{name}", price) for name, price in profile.routing.items()]
    return [*routing, *((f"memory '{each.name}'", each.price) for each in profile.memory)]


def bad(where: str, what: str, allowed: str, todo: str) -> RmpDeployError:
    """The one line that says what is wrong with a profile."""
    return RmpDeployError(f"profile {where}: {what}, allowed {allowed}. {todo}.")


def _limits(given: Mapping[str, Limit], kinds: Mapping[str, LimitKind]) -> dict[str, Limit]:
    return {name: given.get(name, Limit(None, kind.unit, kind.scope, why=ABSENT)) for name, kind in kinds.items()}
