"""What was counted: exact integers per layer, and the dense work of the ANN twin. Counts add up over shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import TERMS

InputKind = Literal["spikes", "graded", "real-valued", "mixed"]


@dataclass(frozen=True)
class LayerCounts:
    """One synaptic layer and the neurons it feeds, summed over all samples and steps.

    Attributes:
        layer: name of the synaptic op (of the neurons or the pool itself where they have no synaptic op).
        neurons: the spiking neurons that the layer feeds, if any.
        input: what the layer reads; "mixed" where some samples of a time series are binary and others are not.
        counts: exact integers, one for every name in `TERMS`.
        mac_if_cached: `mac` if a layer whose input does not change over the steps computed it once per sample.
    """

    layer: str
    neurons: str | None
    input: InputKind
    counts: Mapping[str, int]
    mac_if_cached: int

    @property
    def firing_rate(self) -> float | None:
        """Spikes per neuron and step [1]; None for a layer without neurons that spike."""
        if self.neurons is None:
            return None
        return self.counts["spike"] / (self.counts["neuron_active"] + self.counts["neuron_inactive"])

    def __add__(self, other: LayerCounts) -> LayerCounts:
        counts = {term: self.counts[term] + other.counts[term] for term in TERMS}
        kind = self.input if self.input == other.input else "mixed"
        return LayerCounts(self.layer, self.neurons, kind, counts, self.mac_if_cached + other.mac_if_cached)


@dataclass(frozen=True)
class Counts:
    """What `samples` samples of T steps did, one row per layer in topological order; `+` joins shards."""

    samples: int
    T: int
    layers: tuple[LayerCounts, ...]

    @property
    def totals(self) -> dict[str, int]:
        """Every term summed over the layers."""
        return {term: sum(row.counts[term] for row in self.layers) for term in TERMS}

    def __add__(self, other: Counts) -> Counts:
        """Counts of both shards.

        Raises:
            RmpDeployError: they are counts of different networks.
        """
        ours, theirs = ((c.T, [(row.layer, row.neurons) for row in c.layers]) for c in (self, other))
        if ours != theirs:
            raise RmpDeployError(
                f"counts: (T, layers) = {theirs}, allowed {ours} (those of the first shard). Add counts of one network."
            )
        rows = tuple(a + b for a, b in zip(self.layers, other.layers, strict=True))
        return Counts(self.samples + other.samples, self.T, rows)


@dataclass(frozen=True)
class TwinLayer:
    """Dense multiply-accumulates of one layer for one sample, with zero padding left out and with it counted."""

    layer: str
    macs: int
    macs_with_padding: int


@dataclass(frozen=True)
class Twin:
    """The ANN of the same layers: one pass over one sample."""

    layers: tuple[TwinLayer, ...]

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.layers)

    @property
    def macs_with_padding(self) -> int:
        return sum(row.macs_with_padding for row in self.layers)
