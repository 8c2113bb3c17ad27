"""The energy section of the report document: what was counted, and what each profile says of it. No arithmetic here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from rmp_deploy.analysis.conventions import ConventionLedger
from rmp_deploy.analysis.counts import Counts, LayerCounts, Twin
from rmp_deploy.analysis.counts.table import Spread
from rmp_deploy.analysis.ledger import Ledger, ProfileLedger
from rmp_deploy.hw_profiles import TERMS

Section = dict[str, Any]


def energy(ledger: Ledger) -> Section:
    """Everything of `ledger`; docs/report_schema.md describes every key."""
    counts = ledger.counts
    return {
        "samples": counts.samples,
        "T": counts.T,
        "pools": ledger.pools,
        "relays": None if ledger.relays is None else asdict(ledger.relays),
        "terms": [{"name": name, "title": term.title, "unit": term.unit} for name, term in TERMS.items()],
        "layers": [_layer(row, counts.samples) for row in counts.layers],
        "totals": counts.totals,
        "spreads": _spreads(counts.totals, counts.spreads, counts.samples),
        "at": _at(counts, ledger),
        "twin": {**_twin(ledger.twin), "effective_why": ledger.effective_why},
        "profiles": [_profile(each) for each in ledger.profiles],
        "conventions": [_convention(each) for each in ledger.conventions],
    }


def _layer(row: LayerCounts, samples: int) -> Section:
    return {
        "layer": row.layer,
        "neurons": row.neurons,
        "input": row.input,
        "firing_rate": row.firing_rate,
        "size": None if row.neuron_spikes is None else row.neuron_spikes.size,
        "dead": row.dead,
        "saturated": row.saturated,
        "counts": dict(row.counts),
        "spreads": _spreads(row.counts, row.spreads, samples),
        "steps": {term: list(each) for term, each in row.steps.items()},
        "activity": dict(row.activity),
        "mac_if_cached": row.mac_if_cached,
    }


def _spreads(totals: Mapping[str, int], spreads: Mapping[str, Spread], samples: int) -> Section:
    """Each count per sample."""
    return {
        term: {
            "mean": totals[term] / samples,
            "std": spread.std(totals[term], samples),
            "min": spread.minimum,
            "max": spread.maximum,
        }
        for term, spread in spreads.items()
    }


def _at(counts: Counts, ledger: Ledger) -> list[Section]:
    """What T = 1, 2, ... would have cost, and how many predictions were right by then."""
    return [
        {
            "t": t,
            "counts": counts.at(t),
            "correct": None if ledger.accuracy is None else ledger.accuracy.correct[t - 1],
            "accuracy": None if ledger.accuracy is None else ledger.accuracy.accuracy[t - 1],
        }
        for t in range(1, counts.T + 1)
    ]


def _twin(twin: Twin) -> Section:
    sums = {name: getattr(twin, name) for name in ("macs", "macs_with_padding", "effective_macs")}
    return {**asdict(twin), **sums}


def _profile(profile: ProfileLedger) -> Section:
    return {
        **asdict(profile.ledger),
        "at": [each._asdict() for each in profile.at],
        "twins": [{"name": each.name, "macs": each.macs, **each.energy._asdict()} for each in profile.twins],
        "break_even": asdict(profile.break_even),
        "hardware": asdict(profile.hardware),
    }


def _convention(ledger: ConventionLedger) -> Section:
    """Counts of a convention are per sample, and may be fractions: rates times connections."""
    return {
        "name": ledger.name,
        "title": ledger.title,
        "source": ledger.source,
        "joule_per_sample": ledger.joule_per_sample,
        "terms": [
            {
                "term": name,
                "count": _number(term.count),
                "ours": _number(term.ours),
                "price_joule": term.price,
                "joule": term.joule,
                "differences": [{"reason": each.reason, "count": _number(each.count)} for each in term.differences],
                "why": term.why,
            }
            for name, term in ledger.terms.items()
        ],
        "left_out": list(ledger.left_out),
        "notes": list(ledger.notes),
    }


def _number(value: Fraction | None) -> int | float | None:
    if value is None:
        return None
    return value.numerator if value.denominator == 1 else float(value)
