"""Break-even: the firing rate at which the synapses of the network cost as much as its ANN twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rmp_deploy.analysis.counts import Counts, LayerCounts, Twin, TwinLayer
from rmp_deploy.analysis.energy import ALL_IN_TWIN, price
from rmp_deploy.hw_profiles import HardwareProfile


@dataclass(frozen=True)
class Bound:
    """``low <= value <= high`` [1]; `value` is the point where both are one; all None, and `why`, where unknown."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True)
class BreakEvenRate:
    """Rates of one layer, or of the network (`layer` None) [spikes per input of a synaptic layer and step].

    Attributes:
        rate: of the run, over the layers that read spikes; None where none does.
        dense: at which the synapses cost as much as the twin's dense MACs, padding left out.
        effective: as its MACs of activations that are not 0.
        quantized: as the dense MACs of the twin of ceil(log2(T + 1)) bits.
    """

    layer: str | None
    rate: float | None
    dense: Bound
    effective: Bound
    quantized: Bound


@dataclass(frozen=True)
class ComputeLine:
    """Yan 2024's line ``T * rate <= k * (1 - gamma)``, for the layers that read spikes.

    k = E_MAC / E_ACC is the profile's mac / ac, gamma the share of the twin's MACs whose activation is 0. Memory and
    movement are left out on both sides. Source: arXiv 2409.08290; that gamma is this share is our reading.

    Attributes:
        spikes: ``T * rate`` of the run [spikes per input]; None where no layer reads spikes.
        gamma: 0..1; None without effective MACs.
        limit: ``k * (1 - gamma)``.
    """

    spikes: float | None
    gamma: float | None
    limit: Bound


@dataclass(frozen=True)
class BreakEven:
    """What one profile says of one run: the network, each synaptic layer that has a twin, and the line."""

    network: BreakEvenRate
    layers: tuple[BreakEvenRate, ...]
    line: ComputeLine


def break_even(counts: Counts, twin: Twin, profile: HardwareProfile) -> BreakEven:
    """The rates at which ``mac * E_MAC + ac * E_AC`` of the network is ``MACs * E_MAC`` of the twin [J per sample].

    ac is proportional to the spikes; mac (real-valued and graded inputs) is taken not to depend on them, so that

        rate' = rate * (MACs - mac) * E_MAC / (ac * E_AC)

    with every spike that a layer reads scaled alike, the input's too where it is spikes. Solved on exact counts. Both
    sides take the mac at one price, so that a range of the result is that of E_MAC / E_AC. A rate above 1 is one that
    no neuron reaches: the network is cheaper at any. Neurons and memory are left out on both sides.
    """
    k = _price_ratio(profile)
    narrow = price(counts, twin, profile).quantized_twin.why
    quantized = Bound(why=narrow) if narrow and not k.why else k
    rows = {row.layer: row for row in counts.layers}
    layers = tuple(
        _solve(each.layer, [rows[each.layer]], [each], counts.samples, twin.samples, k, quantized)
        for each in twin.layers
        if each.layer in rows
    )
    network = _solve(None, counts.layers, twin.layers, counts.samples, twin.samples, k, quantized)
    return BreakEven(network, layers, _line(counts, twin, k))


def _price_ratio(profile: HardwareProfile) -> Bound:
    """``E_MAC / E_AC``, or why it is unknown."""
    mac, ac = profile.prices["mac"], profile.prices["ac"]
    if any(p.figure is not None and p.figure.scope == "all_in" for p in profile.prices.values()):
        return Bound(why=ALL_IN_TWIN)
    if mac.figure is None:
        return Bound(why=f"mac: {mac.why}")
    if ac.figure is None:
        return Bound(why=f"ac: {ac.why}")
    if not ac.figure.low:
        return Bound(why="ac: a price of 0 makes every rate a low one")
    return _bound(mac.figure.low / ac.figure.high, mac.figure.high / ac.figure.low)


def _solve(
    layer: str | None,
    rows: Sequence[LayerCounts],
    twins: Sequence[TwinLayer],
    samples: int,
    twin_samples: int,
    k: Bound,
    quantized: Bound,
) -> BreakEvenRate:
    rate = _rate(rows)
    ac, mac = (Fraction(sum(row.counts[term] for row in rows), samples) for term in ("ac", "mac"))
    dense = Fraction(sum(row.macs for row in twins))

    def at(macs: Fraction, k: Bound) -> Bound:
        if k.why:
            return k
        if rate is None:
            return Bound(why="it reads no spikes")
        if not ac:
            return Bound(why="no spike reached a synapse: there is nothing to scale")
        if macs <= mac:
            return Bound(why="its multiply-accumulates alone cost as much as the twin, at any rate")
        return _scaled(k, rate * (macs - mac) / ac)

    used = sum(row.effective_macs or 0 for row in twins)
    unknown = Bound(why="effective MACs were not counted")
    return BreakEvenRate(
        layer=layer,
        rate=None if rate is None else float(rate),
        dense=at(dense, k),
        effective=at(Fraction(used, twin_samples), k) if twin_samples else unknown,
        quantized=at(dense, quantized),
    )


def _line(counts: Counts, twin: Twin, k: Bound) -> ComputeLine:
    rate = _rate(counts.layers)
    spikes = None if rate is None else float(counts.T * rate)
    reading = {row.layer for row in counts.layers if _reads_spikes(row)}
    rows = [row for row in twin.layers if row.layer in reading]
    dense = twin.samples * sum(row.macs for row in rows)
    if not dense:
        why = "effective MACs were not counted" if rows else "no layer reads spikes"
        return ComputeLine(spikes, None, Bound(why=why))
    share = Fraction(sum(row.effective_macs or 0 for row in rows), dense)
    return ComputeLine(spikes, float(1 - share), _scaled(k, share))


def _rate(rows: Sequence[LayerCounts]) -> Fraction | None:
    """Spikes per input and step of the layers that read spikes; None where none does."""
    reading = [row for row in rows if _reads_spikes(row)]
    elements = sum(row.activity["input_elements"] for row in reading)
    return Fraction(sum(row.activity["input_events"] for row in reading), elements) if elements else None


def _reads_spikes(row: LayerCounts) -> bool:
    return row.input == "spikes" and row.activity.get("input_elements", 0) > 0


def _scaled(k: Bound, factor: Fraction) -> Bound:
    return k if k.low is None or k.high is None else _bound(k.low * float(factor), k.high * float(factor))


def _bound(low: float, high: float) -> Bound:
    return Bound(low if low == high else None, low, high)
