"""What was counted: exact integers per layer. Counts add up over shards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir.ops.base import same

InputKind = Literal["spikes", "graded", "real-valued", "mixed"]
ACTIVITY: dict[str, str] = {
    "input_events": "elements that the synaptic layer read and that were not 0, over samples and steps",
    "input_elements": "all elements that the synaptic layer read, over samples and steps",
    "ac_nonzero": "accumulates of inputs that were not 0 with weights that are not 0",
    "mac_nonzero": "multiply-accumulates of inputs that were not 0 with weights that are not 0",
}
_Joined = TypeVar("_Joined", int, "Spread")


@dataclass(frozen=True)
class Spread:
    """How a count differs from sample to sample: ``min``, ``max`` and ``sum(count^2)`` over the samples, exact."""

    minimum: int
    maximum: int
    squares: int

    def std(self, total: int, samples: int) -> float:
        """``sqrt(samples * squares - total^2) / samples``, the standard deviation of a count that sums to `total`.

        Raises:
            RmpDeployError: samples < 1.
        """
        if samples < 1:
            raise RmpDeployError(f"spread: samples = {samples}, allowed >= 1. Count some.")
        return math.sqrt(samples * self.squares - total * total) / samples

    def __add__(self, other: Spread) -> Spread:
        """Of the samples of both."""
        low, high = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        return Spread(low, high, self.squares + other.squares)


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """One synaptic layer and the neurons it feeds, summed over all samples and steps.

    Attributes:
        layer: name of the synaptic op (of the neurons or the pool itself where they have no synaptic op).
        neurons: the spiking neurons that the layer feeds, if any.
        input: what the layer reads; "mixed" where some samples of a time series are binary and others are not.
        counts: exact integers, one for every name in `TERMS`.
        mac_if_cached: `mac` if a layer whose input does not change over the steps computed it once per sample.
        spreads: each of the `counts` over the samples.
        steps: each of the `counts` at each of the T steps, summed over the samples.
        activity: exact integers by the names in `ACTIVITY`, 0 for rows without a synapse. A name is absent where the
            spikes do not tell: of real values that were not given, or that a synapse or an integrator made.
        neuron_spikes: spikes of each neuron in order of its flat index, int64 [neurons]; None without `neurons`.
    """

    layer: str
    neurons: str | None
    input: InputKind
    counts: Mapping[str, int]
    mac_if_cached: int
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    steps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    activity: Mapping[str, int] = field(default_factory=dict)
    neuron_spikes: npt.NDArray[np.int64] | None = None

    @property
    def firing_rate(self) -> float | None:
        """Spikes per neuron and step [1]; None for a layer without neurons that spike."""
        if self.neurons is None:
            return None
        return self.counts["spike"] / self._updates

    @property
    def dead(self) -> int | None:
        """Neurons that never fired; None where nobody counted the spikes of each."""
        return None if self.neuron_spikes is None else int(np.count_nonzero(self.neuron_spikes == 0))

    @property
    def saturated(self) -> int | None:
        """Neurons that fired at every step of every sample; None where nobody counted the spikes of each."""
        if self.neuron_spikes is None:
            return None
        return int(np.count_nonzero(self.neuron_spikes * self.neuron_spikes.size == self._updates))

    @property
    def _updates(self) -> int:
        """Neurons * steps * samples."""
        return self.counts["neuron_active"] + self.counts["neuron_inactive"]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerCounts):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: LayerCounts) -> LayerCounts:
        steps = {
            term: tuple(a + b for a, b in zip(ours, other.steps[term], strict=True))
            for term, ours in self.steps.items()
            if term in other.steps
        }
        spikes = (self.neuron_spikes, other.neuron_spikes)
        return LayerCounts(
            layer=self.layer,
            neurons=self.neurons,
            input=self.input if self.input == other.input else "mixed",
            counts=_join(self.counts, other.counts),
            mac_if_cached=self.mac_if_cached + other.mac_if_cached,
            spreads=_join(self.spreads, other.spreads),
            steps=steps,
            activity=_join(self.activity, other.activity),
            neuron_spikes=None if spikes[0] is None or spikes[1] is None else spikes[0] + spikes[1],
        )


@dataclass(frozen=True)
class Counts:
    """What `samples` samples of T steps did, one row per layer in topological order; `+` joins shards.

    `spreads`: each of the totals over the samples.

    Raises:
        RmpDeployError: samples < 1.
    """

    samples: int
    T: int
    layers: tuple[LayerCounts, ...]
    spreads: Mapping[str, Spread] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise RmpDeployError(f"counts: samples = {self.samples}, allowed >= 1. Count some.")

    @property
    def totals(self) -> dict[str, int]:
        """Every term summed over the layers."""
        return {term: sum(row.counts[term] for row in self.layers) for term in TERMS}

    def at(self, t: int) -> dict[str, int]:
        """Totals of the first t steps: what the network would have cost with T = t.

        Raises:
            RmpDeployError: t is not one of 1..T, or the steps were not counted.
        """
        if not 1 <= t <= self.T:
            raise RmpDeployError(f"counts: t = {t}, allowed 1..{self.T}. Ask for a step that was run.")
        missing = next((row.layer for row in self.layers if not row.steps), None)
        if missing is not None:
            raise RmpDeployError(f"counts: steps of layer '{missing}' = none, allowed {self.T}. Count with `count`.")
        return {term: sum(sum(row.steps[term][:t]) for row in self.layers) for term in TERMS}

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
        for a, b in zip(self.layers, other.layers, strict=True):
            sizes = [len(row.neuron_spikes) for row in (a, b) if row.neuron_spikes is not None]
            if len(set(sizes)) > 1:
                raise RmpDeployError(
                    f"counts: neurons of layer '{a.layer}' = {sizes[1]}, allowed {sizes[0]} "
                    "(those of the first shard). Add counts of one network."
                )
        rows = tuple(a + b for a, b in zip(self.layers, other.layers, strict=True))
        return Counts(self.samples + other.samples, self.T, rows, _join(self.spreads, other.spreads))


def _join(ours: Mapping[str, _Joined], theirs: Mapping[str, _Joined]) -> dict[str, _Joined]:
    """The sums of what both know."""
    return {name: value + theirs[name] for name, value in ours.items() if name in theirs}
