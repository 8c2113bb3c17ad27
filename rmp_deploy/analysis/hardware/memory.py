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
from rmp_deploy.analysis.hardware.estimate import ZERO, Estimate, of, total
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.hw_profiles.schema import UNSTATED
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Delay, LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.passes.paths import SYNAPSES

FLOAT_BITS = 32  # of a weight or a state of a real-valued network, as the file holds it, under prices of no precision
LOIHI_STATE_BITS = 24  # sign included
TERMS_OF: dict[str, tuple[str, ...]] = {"weights": ("weight_read",), "states": ("state_read", "state_write")}


@dataclass(frozen=True)
class MemoryUse:
    """The weights or the states of one row of the counts.

    Attributes:
        layer, holds: the row, and what of it.
        words, bits: how many it keeps, and bits of each; a kernel is kept once.
        accesses: words read and written over all samples.
        memory: name of the smallest memory of the profile that holds them; None where there is none.
        packed, whole: energy [J per sample] of the two ways to charge a word.
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
    """Every row's weights and states, and the sums over those that the profile prices with a memory [J per sample].

    `held`: terms whose energy other terms of the profile hold, so that it is in neither sum.
    """

    rows: tuple[MemoryUse, ...]
    packed: Estimate
    whole: Estimate
    held: tuple[str, ...]


def memory_costs(graph: SpikingGraph, counts: Counts, profile: HardwareProfile) -> MemoryCosts:
    """Accesses to weights and states of `graph` by the size of the memory that holds them.

    Only what the profile's terms leave unknown is priced here: `weight_read`, `state_read` and `state_write` that have
    a figure, or that another term's figure holds, are not priced twice.
    """
    held = tuple(t for terms in TERMS_OF.values() for t in terms if profile.prices[t].status != "unknown")
    rows = tuple(_priced(row, counts.samples, profile) for row in _uses(graph, counts, _bits(profile)))
    free = [row for row in rows if not set(TERMS_OF[row.holds]) & set(held)]
    nothing = Estimate("J", why="other figures of the profile hold it") if held and not free else ZERO
    return MemoryCosts(
        rows,
        total("J", (row.packed for row in free)) if free else nothing,
        total("J", (row.whole for row in free)) if free else nothing,
        held,
    )


def _bits(profile: HardwareProfile) -> int:
    """Of one word of a real-valued network: 8 under int8, 32 where the profile does not state its precision."""
    return FLOAT_BITS if profile.precision == UNSTATED else int(profile.precision.lstrip("bfinpt"))


def _uses(graph: SpikingGraph, counts: Counts, word: int) -> Iterator[MemoryUse]:
    """What each row keeps, and how often it was read and written; not yet priced."""
    state_bits = LOIHI_STATE_BITS if graph.of_type(LoihiLIF) else word
    rows, nothing = row_of(graph), Estimate("J")
    for row in counts.layers:
        op = graph.by_name.get(row.layer)
        if isinstance(op, SYNAPSES) and row.counts["weight_read"]:
            bits = op.num_weight_bits if isinstance(op, LoihiLinear | LoihiConv2d) else word
            reads = row.counts["weight_read"]
            yield MemoryUse(row.layer, "weights", op.weight.size, bits, reads, None, nothing, nothing)
        # every state is read once a step, of a Delay the oldest of its `steps` words
        words = row.counts["state_read"] // (counts.samples * counts.T)
        words += sum((d.steps - 1) * math.prod(d.shape) for d in graph.of_type(Delay) if rows[d.name] == row.layer)
        if words:
            accesses = row.counts["state_read"] + row.counts["state_write"]
            yield MemoryUse(row.layer, "states", words, state_bits, accesses, None, nothing, nothing)


def _priced(use: MemoryUse, samples: int, profile: HardwareProfile) -> MemoryUse:
    sized = sorted(profile.memory, key=lambda m: math.inf if m.bytes is None else m.bytes)
    memory = next((m for m in sized if m.bytes is None or m.bytes >= use.bytes), None)
    if memory is None:
        largest = max((m.bytes or 0 for m in sized), default=0)
        has = f"a memory of {use.bytes} bytes (the largest has {largest})" if sized else "any memory"
        unknown = Estimate("J", why=f"the profile has no figure for {has}")
        return replace(use, packed=unknown, whole=unknown)
    access, words = of(memory.price), use.accesses / samples
    return replace(
        use,
        memory=memory.name,
        packed=access.times(words * use.bits / memory.access_bits),
        whole=access.times(words * -(-use.bits // memory.access_bits)),
    )
