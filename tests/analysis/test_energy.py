"""Energies worked out by hand, and the rules: nothing unknown is priced, nothing is priced twice."""

import math

import numpy as np
import pytest

from rmp_deploy.analysis.counts import Counts, LayerCounts, Twin, TwinLayer, count, twin
from rmp_deploy.analysis.energy import price
from rmp_deploy.hw_profiles import TERMS, Figure, HardwareProfile, Price, load
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Linear

PJ = 1e-12
TWIN = Twin((TwinLayer("fc", 1000, 1200),))


def counts_of(*layers, samples=1):
    rows = tuple(
        LayerCounts(f"fc{i}", f"lif{i}", "spikes", {**dict.fromkeys(TERMS, 0), **terms}, 0)
        for i, terms in enumerate(layers)
    )
    return Counts(samples, 1, rows)


def linear_run(encoding, x):
    zero = np.float32(0)
    neurons = LIF(name="lif", inputs=("fc",), decay=zero, v_threshold=zero, v_reset=zero)
    fc = Linear(name="fc", inputs=("x",), weight=np.ones((3, 4)))
    graph = SpikingGraph("net", Input("x", (4,), encoding), (fc, neurons), Readout("lif", "sum"), 1)
    return count(graph, reference.run(graph, x, record=["spikes"]), x), twin(graph)


def profile_of(**figures):
    prices = {term: Price(Figure(joule, scope, "measured", "a test")) for term, (joule, scope) in figures.items()}
    return HardwareProfile("test", "a test", prices)


def test_published_linear_cases():
    """SpikingJelly's own tests: 6 accumulates = 5.4 pJ, 24 multiply-accumulates = 110.4 pJ (research notes G8)."""
    counts, dense = linear_run("time_series", np.array([[[1, 0, 1, 0]]]))
    spiking = price(counts, dense, load("cmos45"))
    assert spiking.synaptic_joule_per_sample == pytest.approx(5.4 * PJ)
    assert spiking.twin_joule_per_sample == pytest.approx(12 * 4.6 * PJ)
    assert spiking.ratio == pytest.approx(12 * 4.6 / 5.4)
    counts, dense = linear_run("direct", np.full((2, 4), 0.5))
    real = price(counts, dense, load("cmos45"))
    assert {row.term: row.joule for row in real.rows}["mac"] == pytest.approx(110.4 * PJ)
    assert real.synaptic_joule_per_sample == pytest.approx(55.2 * PJ)
    assert real.ratio == pytest.approx(1)  # T = 1 with real values is the ANN


def test_cmos45_by_hand():
    counts = counts_of(
        {"mac": 100, "bias_add": 10, "neuron_multiply": 20, "neuron_add": 20, "neuron_compare": 20, "reset": 3},
        {"ac": 50, "pool_add": 7, "neuron_active": 4, "neuron_inactive": 1, "weight_read": 50, "spike": 9},
        samples=2,
    )
    ledger = price(counts, TWIN, load("cmos45"))
    assert ledger.joule == pytest.approx((100 * 4.6 + 50 * 0.9 + 10 * 0.9 + 7 * 0.9 + 20 * 3.7 + 20 * 0.9) * PJ)
    assert ledger.joule_per_sample == pytest.approx(ledger.joule / 2)
    assert ledger.synaptic_joule_per_sample == pytest.approx((460 + 45) / 2 * PJ)
    assert ledger.twin_joule_per_sample == pytest.approx(4600 * PJ)  # padding left out
    assert ledger.ratio == pytest.approx(4600 / 252.5)
    assert [(u.term, u.count) for u in ledger.unpriced] == [
        ("neuron_compare", 20), ("reset", 3), ("spike", 9), ("weight_read", 50),
    ]  # fmt: skip
    assert all(u.why for u in ledger.unpriced)
    assert [(i.term, i.count) for i in ledger.included] == [("neuron_active", 4), ("neuron_inactive", 1)]
    first, second = ledger.layers
    assert first.joule == pytest.approx((460 + 9 + 74 + 18) / 2 * PJ)
    assert second.terms["ac"] == pytest.approx(45 / 2 * PJ)
    assert first.joule + second.joule == pytest.approx(ledger.joule_per_sample)


def test_loihi1_by_hand():
    counts = counts_of(
        {
            "mac": 100,
            "weight_read": 150,
            "ac": 50,
            "bias_add": 10,
            "neuron_active": 4,
            "neuron_inactive": 16,
            "spike": 3,
        },
    )
    ledger = price(counts, TWIN, load("loihi1"))
    assert ledger.joule == pytest.approx((50 * 23.6 + 4 * 81 + 16 * 52 + 3 * 1.7) * PJ)
    assert ledger.synaptic_joule_per_sample == pytest.approx(50 * 23.6 * PJ)
    assert [(u.term, u.count) for u in ledger.unpriced] == [("mac", 100)]
    assert {i.term for i in ledger.included} == {"weight_read", "bias_add"}
    assert ledger.twin_joule_per_sample is None
    assert ledger.ratio is None


def test_every_counted_term_stands_in_exactly_one_list():
    counts = counts_of({term: i + 1 for i, term in enumerate(TERMS)})
    for name in ("cmos45", "loihi1"):
        ledger = price(counts, TWIN, load(name))
        listed = [entry.term for entry in (*ledger.rows, *ledger.included, *ledger.unpriced)]
        assert sorted(listed) == sorted(TERMS)
        assert ledger.joule == math.fsum(row.count * row.price_joule for row in ledger.rows)
        assert all(row.source and row.evidence and row.scope == "per_term" for row in ledger.rows)


def test_what_did_not_happen_is_not_listed_as_unpriced():
    ledger = price(counts_of({"ac": 1}), TWIN, load("cmos45"))
    assert ledger.unpriced == ledger.included == ()
    assert {row.term: row.joule for row in ledger.rows}["mac"] == 0.0  # a price is known, so its 0 is a true 0


def test_a_profile_that_prices_nothing_gives_no_energy_rather_than_0():
    ledger = price(counts_of({"ac": 5, "mac": 2}), TWIN, HardwareProfile("empty", "empty", {}))
    assert ledger.joule is ledger.joule_per_sample is ledger.synaptic_joule_per_sample is ledger.ratio is None
    assert ledger.layers[0].joule is None
    assert [(u.term, u.why) for u in ledger.unpriced] == [("mac", "not in the profile"), ("ac", "not in the profile")]


def test_no_ratio_while_a_synaptic_operation_has_no_price():
    """With ac unknown, mac alone would make the spiking network look better than it is."""
    ledger = price(counts_of({"ac": 5, "mac": 2}), TWIN, profile_of(mac=(1 * PJ, "per_term")))
    assert ledger.synaptic_joule_per_sample == pytest.approx(2 * PJ)
    assert ledger.twin_joule_per_sample == pytest.approx(1000 * PJ)
    assert ledger.ratio is None


def test_no_ratio_to_a_silent_network():
    ledger = price(counts_of({"neuron_add": 5}), TWIN, load("cmos45"))
    assert (ledger.synaptic_joule_per_sample, ledger.ratio) == (0.0, None)


def test_an_all_in_figure_is_a_total_and_not_a_synaptic_share():
    ledger = price(counts_of({"ac": 10, "spike": 2}, samples=2), TWIN, profile_of(ac=(26 * PJ, "all_in")))
    assert ledger.joule_per_sample == pytest.approx(130 * PJ)
    assert ledger.synaptic_joule_per_sample is ledger.twin_joule_per_sample is ledger.ratio is None
    assert ledger.rows[0].scope == "all_in"


def test_an_all_in_mac_does_not_price_the_ann():
    ledger = price(counts_of({"mac": 10}), TWIN, profile_of(mac=(26 * PJ, "all_in")))
    assert ledger.twin_joule_per_sample is None


def test_energy_is_proportional_to_counts():
    one, ten = (dict.fromkeys(TERMS, k) for k in (1, 10))
    profile = load("cmos45")
    a, b = price(counts_of(one), TWIN, profile), price(counts_of(ten), TWIN, profile)
    assert b.joule == pytest.approx(10 * a.joule)
    shards = counts_of(one) + counts_of(ten)
    assert price(shards, TWIN, profile).joule == pytest.approx(a.joule + b.joule)
    assert price(shards, TWIN, profile).samples == 2


def test_a_profile_without_energies_prices_nothing_and_lists_everything():
    """Unknown is not 0: no sum, no ratio, every operation that happened is unpriced."""
    counts = counts_of({"ac": 7, "neuron_active": 3, "spike": 2})
    ledger = price(counts, TWIN, load("loihi2"))
    assert ledger.rows == ()
    assert [ledger.joule, ledger.joule_per_sample, ledger.synaptic_joule_per_sample] == [None] * 3
    assert [ledger.twin_joule_per_sample, ledger.ratio] == [None] * 2
    assert {layer.joule for layer in ledger.layers} == {None}
    happened = {term: n for term, n in counts.totals.items() if n}
    assert {term.term: term.count for term in ledger.unpriced} == happened
    assert {term.why for term in ledger.unpriced} == {"Intel has published no energy per operation of Loihi 2"}
