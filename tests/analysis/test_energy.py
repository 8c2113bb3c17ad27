"""Energies worked out by hand, and the rules: nothing unknown is priced, nothing is priced twice."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmp_deploy.analysis.counts import Counts, LayerCounts, Twin, TwinLayer, count, twin
from rmp_deploy.analysis.energy import Energy, energy_at, price
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import TERMS, Figure, HardwareProfile, Price, load, names
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


@pytest.mark.parametrize("name", ["darwin3", "tianjic", "seneca", "reckon", "truenorth", "odin"])
def test_what_happened_without_a_price_costs_nothing_known_rather_than_0(name):
    """These chips publish one accumulate; a network of multiply-accumulates has none."""
    happened = {"mac": 1000, "weight_read": 1000, "neuron_active": 10}
    ledger = price(counts_of(happened), TWIN, load(name))
    assert {row.count for row in ledger.rows} == {0}
    assert [ledger.joule, ledger.low, ledger.high, ledger.joule_per_sample, ledger.layers[0].joule] == [None] * 5
    assert {u.term: u.count for u in ledger.unpriced} == happened
    assert ledger.included == ()
    mixed = price(counts_of(happened, {"ac": 5, "weight_read": 5}), TWIN, load(name))
    assert mixed.low > 0
    assert (mixed.layers[0].low, mixed.layers[1].low) == (None, mixed.low_per_sample)
    nothing = price(counts_of({}), TWIN, load(name))
    assert nothing.joule == nothing.layers[0].joule == 0.0


def test_what_nothing_charged_could_hold_is_unpriced():
    """Weights are read by ac and mac; loihi1 prices the first alone, and here only the second happened."""
    ledger = price(counts_of({"mac": 7, "weight_read": 7, "neuron_active": 1}), TWIN, load("loihi1"))
    assert ledger.joule == pytest.approx(81 * PJ)
    why = {u.term: u.why for u in ledger.unpriced}
    assert why["weight_read"] == "nothing was charged that could hold it (ac, mac)"
    both = price(counts_of({"mac": 7, "ac": 1, "weight_read": 8}), TWIN, load("loihi1"))
    assert [i.term for i in both.included] == ["weight_read"]


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


# -- ranges ----------------------------------------------------------------------------------------------------------


def test_a_range_stays_a_range():
    """SANA-FE's Loihi: a synapse is 24.0 to 35.5 pJ, and a sum that holds one is no point either."""
    counts = counts_of(
        {"ac": 50, "neuron_active": 4, "neuron_inactive": 16, "spike": 3}, {"neuron_active": 2, "spike": 1}, samples=2
    )
    ledger = price(counts, TWIN, load("loihi1_sanafe"))
    fixed = 6 * 72.8 + 16 * 51.2 + 4 * 69.3
    assert ledger.joule is ledger.joule_per_sample is ledger.synaptic_joule_per_sample is None
    assert (ledger.low, ledger.high) == pytest.approx(((50 * 24 + fixed) * PJ, (50 * 35.5 + fixed) * PJ))
    assert ledger.low_per_sample == pytest.approx(ledger.low / 2)
    assert ledger.synaptic_low_per_sample == pytest.approx(25 * 24 * PJ)
    assert ledger.synaptic_high_per_sample == pytest.approx(25 * 35.5 * PJ)
    rows = {row.term: row for row in ledger.rows}
    assert (rows["ac"].price_joule, rows["ac"].joule) == (None, None)
    assert (rows["ac"].price_low, rows["ac"].price_high) == (24 / 1e12, 35.5 / 1e12)
    assert rows["spike"].joule == rows["spike"].low == rows["spike"].high == pytest.approx(4 * 69.3 * PJ)
    with_range, without = ledger.layers
    assert (with_range.joule, with_range.terms["ac"]) == (None, None)
    assert with_range.terms_low["ac"] == pytest.approx(25 * 24 * PJ)
    assert with_range.high == pytest.approx((25 * 35.5 + (4 * 72.8 + 16 * 51.2 + 3 * 69.3) / 2) * PJ)
    assert without.joule == without.low == without.high == pytest.approx((2 * 72.8 + 69.3) / 2 * PJ)


def test_a_range_of_what_did_not_happen_is_a_point():
    ledger = price(counts_of({"neuron_active": 2}), TWIN, load("spinnaker1"))
    assert ledger.joule == ledger.low == ledger.high == pytest.approx(52e-9)


def test_the_ratio_of_ranges_pairs_the_ends_that_are_farthest_apart():
    figures = {"mac": (2, 4), "ac": (1, 5)}
    prices = {t: Price(Figure(None, "per_term", "estimated", "s", a, b)) for t, (a, b) in figures.items()}
    ledger = price(counts_of({"ac": 10}), TWIN, HardwareProfile("p", "t", prices))
    assert (ledger.twin_joule_per_sample, ledger.twin_low_per_sample, ledger.twin_high_per_sample) == (None, 2000, 4000)
    assert (ledger.ratio, ledger.ratio_low, ledger.ratio_high) == (None, 2000 / 50, 4000 / 10)
    free = {**prices, "ac": Price(Figure(None, "per_term", "estimated", "s", 0, 5))}
    ledger = price(counts_of({"ac": 10}), TWIN, HardwareProfile("p", "t", free))
    assert (ledger.ratio, ledger.ratio_low, ledger.ratio_high) == (None, 40, None)  # perhaps it costs nothing


# -- precision -------------------------------------------------------------------------------------------------------


def test_one_precision_on_both_sides():
    """The ratio mac/ac is 5.1 with fp32 and 7.7 with int8: a ledger holds one, and says which."""
    counts = counts_of({"ac": 1000})
    ratios = {}
    for name, precision in (("cmos45", "fp32"), ("cmos45_fp16", "fp16"), ("cmos45_int8", "int8")):
        ledger = price(counts, TWIN, load(name))
        assert ledger.precision == precision
        assert "Horowitz 2014" in ledger.precision_source
        ratios[name] = ledger.ratio
    assert ratios == pytest.approx({"cmos45": 4.6 / 0.9, "cmos45_fp16": 1.5 / 0.4, "cmos45_int8": 0.23 / 0.03})


@pytest.mark.parametrize(
    ("steps", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 3), (8, 4), (255, 8), (256, 9)]
)
def test_the_quantized_twin_needs_integers_that_are_wide_enough(steps, bits):
    """T steps count to T: ceil(log2(T + 1)) bits."""
    assert bits == math.ceil(math.log2(steps + 1))
    counts = dataclasses.replace(counts_of({"ac": 10}), T=steps)
    found = price(counts, TWIN, load("cmos45_int8")).quantized_twin
    assert found.bits == bits
    if bits <= 8:
        assert found.joule_per_sample == found.low_per_sample == found.high_per_sample == pytest.approx(230 * PJ)
        assert (found.why, f"{bits} bits in a mac of int8" in found.assumed) == ("", True)
    else:
        assert (found.joule_per_sample, found.low_per_sample, found.assumed) == (None, None, "")
        assert "a mac of int8 cannot hold 9 bits" in found.why


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cmos45", "a mac of fp32 is not one of 1 bits. Use a profile of integers"),
        ("cpu", "does not state the precision of its mac"),
        ("loihi1", "the chip has no multiply"),
        ("truenorth", "an all-in figure of a spiking chip says nothing about an ANN"),
    ],
)
def test_a_quantized_twin_is_never_priced_by_macs_of_something_else(name, why):
    ledger = price(counts_of({"ac": 10}), TWIN, load(name))
    assert ledger.quantized_twin.joule_per_sample is ledger.quantized_twin.high_per_sample is None
    assert why in ledger.quantized_twin.why
    assert (ledger.twin_why == "") == (ledger.twin_low_per_sample is not None)


def test_a_dense_layer_on_a_cpu():
    """KerasSpiking's example: 784 -> 128 at 8.6 nJ an operation is (100352 + 128) * 8.6e-9 = 8.64e-4 J (notes G7)."""
    counts = counts_of({"mac": 100_352, "neuron_active": 128, "weight_read": 100_352})
    ledger = price(counts, Twin((TwinLayer("fc", 100_352, 100_352),)), load("cpu"))
    assert ledger.joule == pytest.approx(8.64e-4, rel=5e-4)
    assert ledger.unpriced == ()
    assert ledger.ratio == pytest.approx(1)


# -- over the steps --------------------------------------------------------------------------------------------------


def test_energy_as_a_function_of_t():
    steps = {**dict.fromkeys(TERMS, (0, 0, 0)), "ac": (5, 0, 2), "neuron_add": (4, 4, 4)}
    row = LayerCounts("fc", "lif", "spikes", {term: sum(n) for term, n in steps.items()}, 0, steps=steps)
    counts = Counts(2, 3, (row,))
    found = energy_at(counts, load("cmos45"))
    assert [e.joule for e in found] == pytest.approx([n * 0.9 / 2 * PJ for n in (9, 13, 19)])
    assert [e.low for e in found] == [e.high for e in found] == [e.joule for e in found]
    assert found[-1].joule == price(counts, TWIN, load("cmos45")).joule_per_sample
    low, high, joule = energy_at(counts, load("loihi1_sanafe"))[0]
    assert (low, high, joule) == (pytest.approx(2.5 * 24 * PJ), pytest.approx(2.5 * 35.5 * PJ), None)
    assert energy_at(counts, load("loihi2")) == (Energy(None, None, None),) * 3


def test_energy_over_t_needs_counts_of_each_step():
    with pytest.raises(RmpDeployError, match="steps of layer 'fc0' = none"):
        energy_at(counts_of({"ac": 1}), load("cmos45"))


def test_energy_at_the_last_step_is_the_energy_of_the_run():
    counts, dense = linear_run("time_series", np.array([[[1, 0, 1, 0]], [[0, 1, 1, 1]]]))
    for name in names():
        (last,) = energy_at(counts, load(name))
        ledger = price(counts, dense, load(name))
        assert last == (ledger.low_per_sample, ledger.high_per_sample, ledger.joule_per_sample)


# -- what always holds -----------------------------------------------------------------------------------------------

COUNTS = st.fixed_dictionaries({term: st.integers(0, 10**12) for term in TERMS})
PROFILES = st.sampled_from([load(name) for name in names()])


def ends(ledger):
    return [0.0 if end is None else end for end in (ledger.low, ledger.high)]


@settings(deadline=None)
@given(st.lists(COUNTS, min_size=1, max_size=4), PROFILES)
def test_energy_is_additive_over_layers(layers, profile):
    whole = price(counts_of(*layers, samples=3), TWIN, profile)
    alone = [price(counts_of(layer, samples=3), TWIN, profile) for layer in layers]
    assert ends(whole) == pytest.approx([math.fsum(e) for e in zip(*map(ends, alone), strict=True)], rel=1e-12)
    assert whole.low_per_sample == pytest.approx(
        None if whole.low is None else math.fsum(layer.low or 0.0 for layer in whole.layers), rel=1e-12
    )
    for layer in whole.layers:
        assert set(layer.terms) == set(layer.terms_low) == set(layer.terms_high)


@settings(deadline=None)
@given(COUNTS, COUNTS, st.integers(1, 50), st.integers(1, 50), PROFILES)
def test_energy_is_additive_over_samples(first, second, n, m, profile):
    a, b = counts_of(first, samples=n), counts_of(second, samples=m)
    both, one, other = (price(counts, TWIN, profile) for counts in (a + b, a, b))
    assert both.samples == n + m
    assert ends(both) == pytest.approx([x + y for x, y in zip(ends(one), ends(other), strict=True)], rel=1e-12)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 1000), PROFILES)
def test_energy_scales_with_counts_and_the_point_lies_within(counts, k, profile):
    one = price(counts_of(counts), TWIN, profile)
    many = price(counts_of({term: k * n for term, n in counts.items()}), TWIN, profile)
    assert ends(many) == pytest.approx([k * end for end in ends(one)], rel=1e-12)
    for thing in (one, *one.rows, *one.layers):
        assert thing.low is thing.high is thing.joule is None or thing.low <= thing.high
        if thing.joule is not None:
            assert thing.low <= thing.joule <= thing.high
    listed = [entry.term for entry in (*one.rows, *one.included, *one.unpriced)]
    assert len(listed) == len(set(listed))
    assert {term for term, n in counts.items() if n} <= set(listed)


@settings(deadline=None)
@given(COUNTS, st.sampled_from(sorted(TERMS)), PROFILES)
def test_one_more_operation_never_lowers_an_energy(counts, term, profile):
    less, more = (price(counts_of(c), TWIN, profile) for c in (counts, {**counts, term: counts[term] + 10**9}))
    assert all(x <= y for x, y in zip(ends(less), ends(more), strict=True))
