"""A convention as a table: switches that say how it counts, and terms that say what it adds up and at which price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Switches:
    """How operations are counted; the defaults are our exact counts, and `REASONS` says what each other value does.

    They are set one after the other, in this order, where a difference to our counts is told apart.
    """

    identities: Literal["synapses", "nothing"] = "synapses"
    graded: Literal["messages", "real", "spikes"] = "messages"
    spikes: Literal["each", "rate", "kernel", "all"] = "each"
    real: Literal["all", "mean"] = "all"
    zeros: Literal["count", "skip"] = "count"
    padding: Literal["out", "in"] = "out"
    steps: Literal["all", "first once", "one"] = "all"
    bias: Literal["every step", "at rate"] = "every step"
    residual: Literal["messages", "elements"] = "messages"


REASONS: dict[tuple[str, str], str] = {
    ("identities", "nothing"): "spikes that join a current or neurons without a synapse are no operation",
    ("graded", "real"): "integers other than 0 and 1 are no spikes: dense multiply-accumulates",
    ("graded", "spikes"): "integers are counted as spikes: one accumulate per synapse, whatever their value",
    ("spikes", "rate"): "the layer's average rate times its connections, not the fan-out of each spike",
    ("spikes", "kernel"): "each spike meets ceil(kernel / stride) outputs per axis: borders are ignored",
    ("spikes", "all"): "every connection works in every step, spike or not",
    ("real", "mean"): "the mean of the real input is taken for a rate in Hz, a step for 1 ms",
    ("zeros", "skip"): "weights that are 0, and zeros of a real input, are left out",
    ("padding", "in"): "connections to padding are counted",
    ("steps", "first once"): "a layer whose input is the same in every step works once, not T times",
    ("steps", "one"): "one pass in place of T steps",
    ("bias", "at rate"): "the bias is part of its layer: times the spike rate, or a multiply-accumulate",
    ("residual", "elements"): "a residual sum is counted by elements, also where the neuron accumulates it",
}

EXTRAS: dict[str, str] = {
    "bias_mac": "the bias of a layer that reads real values is a multiply-accumulate",
    "pool_event": "a pool accumulates each spike that it reads",
    "pool_element": "a pool multiplies and accumulates each real value that it reads",
    "batch_norm_element": "BatchNorm is counted, which is folded into the weights here: per element and step",
    "batch_norm_channel": "BatchNorm is counted, which is folded into the weights here: per channel and step",
    "address_add": "each address of a synapse is computed by an addition",
    "address_multiply": "two multiplications find a spike's first output in a map",
    "read_spikes": "spikes are read from a queue in SRAM",
    "write_spikes": "spikes are written to a queue in SRAM",
    "read_parameters": "weights and biases are read from SRAM",
    "read_potentials": "potentials are read from SRAM at each synaptic operation, and once more",
    "write_potentials": "potentials are written to SRAM at each synaptic operation, and once more",
}


@dataclass(frozen=True)
class Sram:
    """Energy of one access by the size of the memory, linear between `points` (bytes, [J]) and constant behind them."""

    points: tuple[tuple[int, float], ...]

    def joule(self, size: int) -> float:
        """[J] of one access to a memory of `size` bytes."""
        (low, below), *rest = self.points
        for high, above in rest:
            if size <= high:
                return below + (above - below) * (size - low) / (high - low)
            low, below = high, above
        return below


@dataclass(frozen=True)
class Rule:
    """One term of a convention: the sum of these quantities, each at this price.

    Attributes:
        quantities: our terms (`TERMS`), as the switches count them, `ac_convolution` of the rows of convolutions and
            `ac_dense` of all others, and `EXTRAS`. A factor may stand before a name: ``2 batch_norm_element``.
        price: [J] of one operation, by the size of the memory for an `Sram`, None where the convention has none.
    """

    quantities: tuple[str, ...]
    price: float | Sram | None = None


@dataclass(frozen=True)
class Convention:
    """How one tool or paper counts and prices.

    Attributes:
        name: in `CONVENTIONS`.
        title: for people.
        source: where it is defined, with its version.
        switches: how it counts.
        terms: what it adds up, and its own prices [J].
        left_out: what it has no term for, in words, beside our terms that none of its rules holds.
        notes: what is our reading of it.
    """

    name: str
    title: str
    source: str
    switches: Switches
    terms: Mapping[str, Rule]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
