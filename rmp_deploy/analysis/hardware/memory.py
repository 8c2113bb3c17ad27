"""Memory accesses by size: the smallest memory of the profile that holds what a layer keeps, and what reading it costs.

A figure per access is a figure per `access_bits`. Horowitz 2014's are for 64 bits, so that one access brings two 32-bit
words. `packed` charges a word its share, ``bits / access_bits``: words lie side by side and are used in that order, as
the synapses of one spike and the states of a layer are. `whole` charges each word accesses of its own,
``ceil(bits / access_bits)``: what a word costs that is fetched alone. The truth lies between them, and `packed` is what
the figures say; to charge 32-bit words whole 64-bit accesses, as is often done, doubles it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rmp_deploy.analysis.counts import Counts
from rmp_deploy.analysis.counts.count import row_of
from rmp_deploy.analysis.hardware.estimate import ZERO, Estimate, of, one_of, total
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.hw_profiles.schema import UNSTATED
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Delay, LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.passes.paths import SYNAPSES

FLOAT_BITS = 32  # of a weight or a state of a real-valued network, as the file holds it, under prices of no precision
HELD = "other figures of the profile hold it"
LOIHI_STATE_BITS = 24  # sign included
TERMS_OF: dict[str, tuple[str, ...]] = {"weights": ("weight_read",), "states": ("state_read", "state_write")}


@dataclass(frozen=True)
class MemoryUse:
    """The weights or the states of one row of the counts.

    Attributes:
        layer, holds: the row, and what of it.
        words, bits: how many it keeps, and bits of each; a kernel is kept once.
        accesses: words read and written over all samples.
        memory: the smallest memory of the profile that holds them, several names where several are of that size; None
            where there is none.
        packed, whole: energy of all the accesses [J per sample], of the two ways to charge a word.
    """

    layer: str
    holds: Literal["weights", "states"]
    words: int
    bits: int
    accesses: int
    memory: str | None
    packed: Estimate
    whole: Estimate

    @property
    def bytes(self) -> int:
        return -(-self.words * self.bits // 8)


@dataclass(frozen=True)
class MemoryCosts:
    """Every row's weights and states, and the sums over the accesses that its memories price [J per sample].

    `held`: terms whose energy other figures of the profile hold, so that their accesses are in neither sum.
    """

    rows: tuple[MemoryUse, ...]
    packed: Estimate
    whole: Estimate
    held: tuple[str, ...]


def memory_costs(graph: SpikingGraph, counts: Counts, profile: HardwareProfile) -> MemoryCosts:
    """Accesses to weights and states of `graph` by the size of the memory that holds them.

    Only what the profile's terms leave unknown is priced here: `weight_read`, `state_read` and `state_write` that have
    a figure, or that the figure of another term holds that happened, are not priced twice.
    """
    totals, prices = counts.totals, profile.prices
    paid = {term for term, n in totals.items() if n and prices[term].figure}
    held = tuple(
        term
        for terms in TERMS_OF.values()
        for term in terms
        if prices[term].figure or paid & set(prices[term].included_in)
    )
    rows, charged = [], []
    for use, terms in _uses(graph, counts, _bits(profile)):
        rows.append(_priced(use, counts.samples, profile))
        accesses = sum(n for term, n in terms.items() if term not in held)
        if accesses:
            charged.append(_priced(replace(use, accesses=accesses), counts.samples, profile))
    nothing = Estimate("J", why=HELD) if rows and not charged else ZERO
    return MemoryCosts(
        tuple(rows),
        total("J", [use.packed for use in charged]) if charged else nothing,
        total("J", [use.whole for use in charged]) if charged else nothing,
        held,
    )


def _bits(profile: HardwareProfile) -> int:
    """Of one word of a real-valued network: 8 under int8, 32 where the profile does not state its precision."""
    return FLOAT_BITS if profile.precision == UNSTATED else int(profile.precision.lstrip("bfinpt"))


def _uses(graph: SpikingGraph, counts: Counts, word: int) -> Iterator[tuple[MemoryUse, dict[str, int]]]:
    """What each row keeps, not yet priced, and how often it was read and written, by term."""
    state_bits = LOIHI_STATE_BITS if graph.of_type(LoihiLIF) else word
    rows, nothing = row_of(graph), Estimate("J")
    for row in counts.layers:
        op = graph.by_name.get(row.layer)
        if isinstance(op, SYNAPSES) and row.counts["weight_read"]:
            bits = op.num_weight_bits if isinstance(op, LoihiLinear | LoihiConv2d) else word
            n = {term: row.counts[term] for term in TERMS_OF["weights"]}
            yield MemoryUse(row.layer, "weights", op.weight.size, bits, sum(n.values()), None, nothing, nothing), n
        # every state is read once a step, of a Delay the oldest of its `steps` words
        words = row.counts["state_read"] // (counts.samples * counts.T)
        words += sum((d.steps - 1) * math.prod(d.shape) for d in graph.of_type(Delay) if rows[d.name] == row.layer)
        if words:
            n = {term: row.counts[term] for term in TERMS_OF["states"]}
            yield MemoryUse(row.layer, "states", words, state_bits, sum(n.values()), None, nothing, nothing), n


def _priced(use: MemoryUse, samples: int, profile: HardwareProfile) -> MemoryUse:
    sizes = [math.inf if each.bytes is None else each.bytes for each in profile.memory]
    fits = min((n for n in sizes if n >= use.bytes), default=None)
    if fits is None:
        has = f"a memory of {use.bytes} bytes (the largest has {max(sizes)})" if sizes else "any memory"
        unknown = Estimate("J", why=f"the profile has no figure for {has}")
        return replace(use, packed=unknown, whole=unknown)
    holding = [each for each, n in zip(profile.memory, sizes, strict=True) if n == fits]
    words = use.accesses / samples
    return replace(
        use,
        memory=" or ".join(each.name for each in holding),
        packed=one_of("J", [of(m.price).times(words * use.bits / m.access_bits) for m in holding]),
        whole=one_of("J", [of(m.price).times(words * -(-use.bits // m.access_bits)) for m in holding]),
    )
