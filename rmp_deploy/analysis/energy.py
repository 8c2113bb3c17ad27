"""Energy: exact counts times a hardware profile, with everything that the profile cannot price listed beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rmp_deploy.analysis.counts import Counts, Twin
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.hw_profiles.schema import Evidence, Scope

SYNAPTIC = ("mac", "ac")


@dataclass(frozen=True)
class PricedTerm:
    """``joule = count * price_joule`` [J], over all samples."""

    term: str
    count: int
    price_joule: float
    joule: float
    scope: Scope
    evidence: Evidence
    source: str


@dataclass(frozen=True)
class UnpricedTerm:
    """Operations that happened and whose energy the profile does not know."""

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
    """One row of the counts [J per sample]: all priced terms and their sum (None if the profile prices nothing)."""

    layer: str
    joule: float | None
    terms: dict[str, float]


@dataclass(frozen=True)
class EnergyLedger:
    """What one profile says of one run; every counted term stands in exactly one of rows, included and unpriced.

    Attributes:
        rows: the priced terms, [J] over all `samples`.
        joule: their sum [J]; None where the profile prices nothing. A lower bound if `unpriced` is not empty.
        joule_per_sample: `joule` / `samples` [J].
        synaptic_joule_per_sample: mac + ac alone [J]; None where none of those that happened has a price, or where the
            price is all-in and so cannot be told apart from the rest.
        twin_joule_per_sample: the ANN's dense MACs, padding left out, times the price of a mac [J]; None if unknown.
        ratio: twin / synaptic, both without neurons and memory [1]; None unless every synaptic operation has a price.
    """

    name: str
    title: str
    notes: tuple[str, ...]
    samples: int
    rows: tuple[PricedTerm, ...]
    layers: tuple[LayerEnergy, ...]
    joule: float | None
    joule_per_sample: float | None
    synaptic_joule_per_sample: float | None
    twin_joule_per_sample: float | None
    ratio: float | None
    included: tuple[IncludedTerm, ...]
    unpriced: tuple[UnpricedTerm, ...]


def price(counts: Counts, twin: Twin, profile: HardwareProfile) -> EnergyLedger:
    """Price `counts` and the ANN `twin` with `profile`: ``E = sum over terms of count * price`` [J].

    A profile holds per-term figures or one all-in figure, never both (`HardwareProfile` refuses the mixture), so the
    sum never counts an operation twice. The twin is priced only by a per-term mac: an all-in figure of a spiking chip
    says nothing about an ANN.
    """
    totals, samples = counts.totals, counts.samples
    rows, included, unpriced = [], [], []
    for term, count in totals.items():
        known = profile.prices[term]
        figure = known.figure
        if figure is not None:
            joule = count * figure.joule
            rows.append(PricedTerm(term, count, figure.joule, joule, figure.scope, figure.evidence, figure.source))
        elif count and known.included_in:
            included.append(IncludedTerm(term, count, known.included_in, known.why))
        elif count:
            unpriced.append(UnpricedTerm(term, count, known.why))
    joule_of = {row.term: row.joule for row in rows}
    total = math.fsum(joule_of.values()) if rows else None
    all_in = any(row.scope == "all_in" for row in rows)
    happened = [term for term in SYNAPTIC if totals[term]]
    priced = [joule_of[term] for term in happened if term in joule_of]
    synaptic = None if all_in or (happened and not priced) else math.fsum(priced) / samples
    mac = None if all_in else profile.prices["mac"].joule
    twin_joule = None if mac is None else twin.macs * mac
    complete = len(priced) == len(happened)
    return EnergyLedger(
        name=profile.name,
        title=profile.title,
        notes=profile.notes,
        samples=samples,
        rows=tuple(rows),
        layers=tuple(_layer(row.layer, row.counts, rows, samples) for row in counts.layers),
        joule=total,
        joule_per_sample=None if total is None else total / samples,
        synaptic_joule_per_sample=synaptic,
        twin_joule_per_sample=twin_joule,
        ratio=twin_joule / synaptic if twin_joule is not None and synaptic and complete else None,
        included=tuple(included),
        unpriced=tuple(unpriced),
    )


def _layer(name: str, counts: Mapping[str, int], rows: Sequence[PricedTerm], samples: int) -> LayerEnergy:
    terms = {row.term: counts[row.term] * row.price_joule / samples for row in rows}
    return LayerEnergy(name, math.fsum(terms.values()) if terms else None, terms)
