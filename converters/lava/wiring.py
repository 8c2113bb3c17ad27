"""What is connected with what, before any process is made: the links of a synapse, and the summands of a current."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, Flatten, LoihiConv2d, LoihiLinear, Op, Shape
from rmp_deploy.passes.paths import Part

GRADED_BITS = 32  # Loihi 2's widest payload; any number > 0 makes Lava's models pass values on unchanged


@dataclass(frozen=True)
class Link:
    """One connection process of a synapse op: its weights of a block of inputs, read from one or more senders.

    Attributes:
        start: where the block begins in the flat order of what the op reads.
        shape: of the block, as its senders have it, in our order with a height (`lava_shape`).
        delay: steps that it is read late; it sees zeros in the first `delay` steps of every sample.
        message_bits: 0 for spikes of one sender, which Lava's models turn into bool; else GRADED_BITS.
        senders: neuron ops, or values of the host; their messages add up.
    """

    start: int
    shape: Shape
    delay: int
    message_bits: int
    senders: tuple[str, ...]


def links(graph: SpikingGraph, op: Op, parts: Iterable[Part]) -> list[Link]:
    """The connection processes of synapse `op`, which reads `parts`: one, unless of a Concat or of different delays.

    A Concat needs no process: the op's columns (or input channels) are split between its parts. Loihi's synapses read
    integers, and Lava's real-valued neurons send floats, which must not be summed before they are read as spikes.
    Spikes that are added to themselves need a second process: Lava connects two ports once.
    """
    loihi = isinstance(op, LoihiLinear | LoihiConv2d)
    blocks: dict[tuple[int, Shape, int, object], list[str]] = {}
    seen: Counter[Part] = Counter()
    for part in parts:
        apart = part.source if loihi and not _sends_integers(graph, part.source) else "", seen[part]
        seen[part] += 1
        block = part.start, lava_shape(graph.shapes[part.source]), part.delay, apart
        blocks.setdefault(block, []).append(part.source)
    return [
        Link(
            start=start,
            shape=shape,
            delay=delay,
            message_bits=0 if len(senders) == 1 and graph.is_spikes(senders[0]) else GRADED_BITS,
            senders=tuple(senders),
        )
        for (start, shape, delay, _), senders in blocks.items()
    ]


def summands(graph: SpikingGraph, value: str, host: Collection[str]) -> list[str]:
    """The synapses, or values of the `host`, that a current is the sum of, through Add and Flatten."""
    found, waiting = [], [value]
    while waiting:
        name = waiting.pop()
        op = graph.by_name.get(name)
        if isinstance(op, Add | Flatten) and name not in host:
            waiting += op.inputs
        else:
            found.append(name)
    return found


def lava_shape(shape: Shape) -> Shape:
    """(C, L) as a map of height 1, (C, 1, L); others as they are. A Lava array has the axes in reverse: (W, H, C)."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _sends_integers(graph: SpikingGraph, source: str) -> bool:
    return not isinstance(graph.by_name.get(source), LIF)
