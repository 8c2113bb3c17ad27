"""What a network costs more where it is written for Loihi: relays for joins of unequal depth, neurons for OR pools."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rmp_deploy.analysis.counts import Counts
from rmp_deploy.ir.graph import SpikingGraph


@dataclass(frozen=True)
class Relays:
    """Neurons more, and by term what they cost more over all samples (less, where negative); terms of 0 are absent.

    `refused`: why the network cannot be written so, in which case neither is known.
    """

    neurons: int
    terms: Mapping[str, int]
    refused: str | None = None


def relays(graph: SpikingGraph, balanced: SpikingGraph, counts: Counts, on_loihi: Counts) -> Relays | None:
    """What `balanced`, `passes.balance_latency` of `graph`, costs more; None where it has the same neurons."""
    neurons = _neurons(balanced) - _neurons(graph)
    if neurons == 0:
        return None
    before = counts.totals
    return Relays(neurons, {term: n - before[term] for term, n in on_loihi.totals.items() if n != before[term]})


def _neurons(graph: SpikingGraph) -> int:
    return sum(math.prod(graph.shapes[op.name]) for op in graph.spiking)
