"""Energy: exact counts times a hardware profile, with everything that the profile cannot price listed beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rmp_deploy.analysis.counts import Counts, Twin
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.hw_profiles.figures import Evidence, Scope
from rmp_deploy.hw_profiles.schema import UNSTATED

SYNAPTIC = ("mac", "ac")
ALL_IN_TWIN = "an all-in figure of a spiking chip says nothing about an ANN"


class Energy(NamedTuple):
    """``low <= E <= high`` [J]; `joule` is the point where both are one; all None where nothing is priced."""

    low: float | None = None
    high: float | None = None
    joule: float | None = None


@dataclass(frozen=True)
class PricedTerm:
    """``joule = count * price_joule`` [J], over all samples; with `low` and `high` where the price is a range."""

    term: str
    count: int
    price_joule: float | None
    price_low: float
    price_high: float
    joule: float | None
    low: float
    high: float
    scope: Scope
    evidence: Evidence
    source: str


@dataclass(frozen=True)
class UnpricedTerm:
    """Operations that happened and whose energy the profile does not know, or that no charged term holds."""

    term: str
    count: int
    why: str


@dataclass(frozen=True)
class IncludedTerm:
    """Operations whose energy the figures of other terms hold already."""

    term: str
    count: int
    included_in: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class LayerEnergy:
    """One row of the counts [J per sample]: all priced terms and their sum (None if nothing that happened is priced).

    `terms`, `terms_low` and `terms_high` hold the energy of each priced term.
    """

    layer: str
    joule: float | None
    low: float | None
    high: float | None
    terms: dict[str, float | None]
    terms_low: dict[str, float]
    terms_high: dict[str, float]


@dataclass(frozen=True)
class QuantizedTwin:
    """The ANN twin with as many activation levels as T steps can count: ``bits = ceil(log2(T + 1))`` [bit].

    Source: Yan, Bai and Wong 2024, arXiv 2409.08290. `joule_per_sample` and its range are None, and `why` says why,
    unless the profile's mac is one of integers of at least `bits` bits; `assumed` says what it then stands for.
    """

    bits: int
    joule_per_sample: float | None
    low_per_sample: float | None
    high_per_sample: float | None
    assumed: str
    why: str


@dataclass(frozen=True)
class EnergyLedger:
    """What one profile says of one run; every counted term stands in exactly one of rows, included and unpriced.

    Each energy has its range beside it: where a price is a range without a point, `joule` is None and `low` and `high`
    bound it.

    Attributes:
        precision: the numbers that every price of this ledger is for, network and twin alike.
        rows: the priced terms, [J] over all `samples`.
        joule: their sum [J]; None where nothing that happened has a price, 0 where nothing happened. A lower bound if
            `unpriced` is not empty.
        joule_per_sample: `joule` / `samples` [J].
        synaptic_joule_per_sample: mac + ac alone [J]; None where none of those that happened has a price, or where the
            price is all-in and so cannot be told apart from the rest.
        twin_joule_per_sample: the ANN's dense MACs, padding left out, times the price of a mac [J]; None if unknown.
        twin_why: why the twin has no price.
        ratio: twin / synaptic, both without neurons and memory [1]; None unless every synaptic operation has a price.
            `ratio_low` and `ratio_high` pair the ends that are farthest apart; `ratio_high` is None where the synaptic
            energy may be 0.
    """

    name: str
    title: str
    notes: tuple[str, ...]
    precision: str
    precision_source: str
    samples: int
    rows: tuple[PricedTerm, ...]
    layers: tuple[LayerEnergy, ...]
    joule: float | None
    low: float | None
    high: float | None
    joule_per_sample: float | None
    low_per_sample: float | None
    high_per_sample: float | None
    synaptic_joule_per_sample: float | None
    synaptic_low_per_sample: float | None
    synaptic_high_per_sample: float | None
    twin_joule_per_sample: float | None
    twin_low_per_sample: float | None
    twin_high_per_sample: float | None
    twin_why: str
    quantized_twin: QuantizedTwin
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    included: tuple[IncludedTerm, ...]
    unpriced: tuple[UnpricedTerm, ...]


def price(counts: Counts, twin: Twin, profile: HardwareProfile) -> EnergyLedger:
    """Price `counts` and the ANN `twin` with `profile`: ``E = sum over terms of count * price`` [J].

    A profile holds per-term figures or one all-in figure, never both (`HardwareProfile` refuses the mixture), so the
    sum never counts an operation twice; and all its figures are for numbers of one `precision`, so that the network
    and its twin are compared at the same. The twin is priced only by a per-term mac: an all-in figure of a spiking
    chip says nothing about an ANN.
    """
    totals, samples = counts.totals, counts.samples
    rows = _rows(totals, profile)
    included, unpriced = [], []
    for term, count in totals.items():
        known = profile.prices[term]
        if count and known.included_in:
            if any(totals[each] and profile.prices[each].figure for each in known.included_in):
                included.append(IncludedTerm(term, count, known.included_in, known.why))
            else:
                why = f"nothing was charged that could hold it ({', '.join(known.included_in)})"
                unpriced.append(UnpricedTerm(term, count, why))
        elif count and known.figure is None:
            unpriced.append(UnpricedTerm(term, count, known.why))
    total = _total(totals, rows)
    per_sample = _divide(total, samples)
    all_in = any(row.scope == "all_in" for row in rows)
    happened = [term for term in SYNAPTIC if totals[term]]
    priced = [row for row in rows if row.term in happened]
    silent = Energy() if all_in else _energy(0.0, 0.0)
    synaptic = _divide(_sum(priced), samples) if happened and not all_in else silent
    dense, twin_why = _twin(twin, profile, all_in)
    ratio = _ratio(dense, synaptic) if len(priced) == len(happened) else Energy()
    return EnergyLedger(
        name=profile.name,
        title=profile.title,
        notes=profile.notes,
        precision=profile.precision,
        precision_source=profile.precision_source,
        samples=samples,
        rows=rows,
        layers=tuple(_layer(row.layer, row.counts, profile, samples) for row in counts.layers),
        joule=total.joule,
        low=total.low,
        high=total.high,
        joule_per_sample=per_sample.joule,
        low_per_sample=per_sample.low,
        high_per_sample=per_sample.high,
        synaptic_joule_per_sample=synaptic.joule,
        synaptic_low_per_sample=synaptic.low,
        synaptic_high_per_sample=synaptic.high,
        twin_joule_per_sample=dense.joule,
        twin_low_per_sample=dense.low,
        twin_high_per_sample=dense.high,
        twin_why=twin_why,
        quantized_twin=_quantized(dense, twin_why, counts.T, profile.precision),
        ratio=ratio.joule,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        included=tuple(included),
        unpriced=tuple(unpriced),
    )


def energy_at(counts: Counts, profile: HardwareProfile) -> tuple[Energy, ...]:
    """Energy of the first t steps, for t = 1 .. T [J per sample]: all priced terms of ``counts.at(t)``.

    Raises:
        RmpDeployError: the counts were not taken step by step.
    """
    of_t = (counts.at(t) for t in range(1, counts.T + 1))
    return tuple(_divide(_total(totals, _rows(totals, profile)), counts.samples) for totals in of_t)


def _rows(totals: Mapping[str, int], profile: HardwareProfile) -> tuple[PricedTerm, ...]:
    rows = []
    for term, count in totals.items():
        figure = profile.prices[term].figure
        if figure is not None:
            low, high = count * figure.low, count * figure.high
            prices = (figure.joule, figure.low, figure.high)
            energies = (low if low == high else None, low, high)
            rows.append(PricedTerm(term, count, *prices, *energies, figure.scope, figure.evidence, figure.source))
    return tuple(rows)


def _layer(name: str, counts: Mapping[str, int], profile: HardwareProfile, samples: int) -> LayerEnergy:
    rows = _rows(counts, profile)
    total = _divide(_total(counts, rows), samples)
    return LayerEnergy(
        layer=name,
        joule=total.joule,
        low=total.low,
        high=total.high,
        terms={row.term: None if row.joule is None else row.joule / samples for row in rows},
        terms_low={row.term: row.low / samples for row in rows},
        terms_high={row.term: row.high / samples for row in rows},
    )


def _twin(twin: Twin, profile: HardwareProfile, all_in: bool) -> tuple[Energy, str]:
    """Energy of the dense twin [J per sample], or why there is none."""
    mac = profile.prices["mac"]
    if all_in:
        return Energy(), ALL_IN_TWIN
    if mac.figure is None:
        return Energy(), mac.why
    return _energy(twin.macs * mac.figure.low, twin.macs * mac.figure.high), ""


def _quantized(dense: Energy, why: str, T: int, precision: str) -> QuantizedTwin:
    """The twin of ceil(log2(T + 1)) bits: a mac of integers at least as wide holds its activations."""
    bits = T.bit_length()
    assumed = ""
    if not why:
        width = int(precision.removeprefix("int")) if precision.startswith("int") else None
        needed = f"Use a profile of integers of at least {bits} bits, such as cmos45_int8"
        if precision == UNSTATED:
            why = f"the profile does not state the precision of its mac. {needed}"
        elif width is None:
            why = f"a mac of {precision} is not one of {bits} bits. {needed}"
        elif width < bits:
            why = f"a mac of {precision} cannot hold {bits} bits. {needed}"
        else:
            assumed = f"activations of {bits} bits in a mac of {precision}: the dense MACs at the price of {precision}"
    known = Energy() if why else dense
    return QuantizedTwin(bits, known.joule, known.low, known.high, assumed, why)


def _ratio(twin: Energy, synaptic: Energy) -> Energy:
    """``twin / synaptic`` [1] with the ends that are farthest apart: a range even if both hold the same mac."""
    if twin.low is None or twin.high is None or not synaptic.high:
        return Energy()
    low = twin.low / synaptic.high
    high = twin.high / synaptic.low if synaptic.low else None
    return Energy(low, high, low if low == high else None)


def _total(counts: Mapping[str, int], rows: Sequence[PricedTerm]) -> Energy:
    """Sum of the rows; all None where something happened and nothing of it has a price."""
    unknown = any(counts.values()) and not any(row.count for row in rows)
    return Energy() if unknown else _sum(rows)


def _sum(rows: Sequence[PricedTerm]) -> Energy:
    """Sum of the rows; all None where there are none."""
    return _energy(math.fsum(row.low for row in rows), math.fsum(row.high for row in rows)) if rows else Energy()


def _divide(energy: Energy, samples: int) -> Energy:
    return Energy(*(None if joule is None else joule / samples for joule in energy))


def _energy(low: float, high: float) -> Energy:
    return Energy(low, high, low if low == high else None)
