"""The firing rate at which a network's synapses cost as much as its ANN twin: by hand, and by firing so often."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmp_deploy.analysis.break_even import Bound, break_even
from rmp_deploy.analysis.counts import Counts, LayerCounts, Twin, TwinLayer, count, twin
from rmp_deploy.analysis.energy import price
from rmp_deploy.hw_profiles import TERMS, HardwareProfile, Price, load
from rmp_deploy.hw_profiles.figures import Figure
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Linear

PJ = 1e-12


def profile(mac: object, ac: object, precision: str = "int8") -> HardwareProfile:
    """Prices [pJ]: a number, (low, high) or None for unknown."""

    def figure(of: object) -> Price:
        if of is None:
            return Price(why="nobody measured it")
        point, (low, high) = (None, of) if isinstance(of, tuple) else (of * PJ, (of, of))
        return Price(Figure(point, "per_term", "estimated", "test", low * PJ, high * PJ))

    return HardwareProfile("test", "test", {"mac": figure(mac), "ac": figure(ac)}, precision=precision)


def row(layer: str, read: str, events: int = 0, elements: int = 0, **counts: int) -> LayerCounts:
    activity = {"input_events": events, "input_elements": elements, "ac_nonzero": 0, "mac_nonzero": 0}
    return LayerCounts(layer, None, read, {**dict.fromkeys(TERMS, 0), **counts}, 0, activity=activity)


# Two samples, T = 4. conv reads real values: 50 MACs a sample. fc reads 10 inputs, of which 8 of 80 are spikes, with 5
# synapses each; out reads 5, of which 10 of 40 are spikes, with 2 synapses each.
COUNTS = Counts(
    2, 4,
    (row("conv", "real-valued", mac=100), row("fc", "spikes", 8, 80, ac=40), row("out", "spikes", 10, 40, ac=20)),
)  # fmt: skip
TWIN = Twin((TwinLayer("conv", 90, 99, 80), TwinLayer("fc", 50, 50, 30), TwinLayer("out", 10, 10, 12)), 2, 3)


def test_by_hand():
    found = break_even(COUNTS, TWIN, profile(mac=6, ac=2))
    rate = 18 / 120
    assert found.network.rate == pytest.approx(rate)
    # (150 - 50) MACs of 6 pJ pay 300 ACs of 2 pJ, 10 times the 30 of a sample: 10 * rate
    assert found.network.dense.value == pytest.approx(10 * rate)
    # (61 - 50) MACs of 6 pJ pay 33 ACs
    assert found.network.effective.value == pytest.approx(33 / 30 * rate)
    assert found.network.quantized == found.network.dense
    conv, fc, out = found.layers
    assert [each.layer for each in found.layers] == ["conv", "fc", "out"]
    assert (conv.rate, conv.dense, conv.quantized) == (None, *[Bound(why="it reads no spikes")] * 2)
    assert (fc.rate, fc.dense.value) == (0.1, pytest.approx(0.1 * 150 / 20))  # 0.75
    assert (out.rate, out.dense.value) == (0.25, pytest.approx(0.25 * 30 / 10))
    assert fc.effective.value == pytest.approx(0.1 * 45 / 20)
    assert out.effective.value == pytest.approx(0.25 * 18 / 10)
    # at 0.75, each of 10 inputs spikes 3 times in 4 steps: 30 * 5 * 2 pJ = 50 * 6 pJ
    assert 10 * 4 * fc.dense.value * 5 * 2 == pytest.approx(50 * 6)


def test_a_range_of_prices_is_a_range_of_rates():
    point, wide = (break_even(COUNTS, TWIN, profile(mac, 2)).network for mac in (6, (3, 9)))
    assert (point.dense.low, point.dense.high) == (point.dense.value, point.dense.value)
    assert wide.dense.value is None
    assert (wide.dense.low, wide.dense.high) == pytest.approx((point.dense.value / 2, 1.5 * point.dense.value))
    both = break_even(COUNTS, TWIN, profile((3, 9), (1, 4))).network.dense
    assert (both.low, both.high) == pytest.approx((point.dense.value / 4, 3 * point.dense.value))


def test_yans_line_is_the_break_even_of_a_layer():
    """T * rate = k (1 - gamma) where each input has as many synapses: the rate of the effective MACs."""
    found = break_even(COUNTS, TWIN, profile(6, 2))
    assert found.line.spikes == pytest.approx(4 * 18 / 120)
    assert found.line.gamma == pytest.approx(1 - 42 / 120)
    assert found.line.limit.value == pytest.approx(3 * 42 / 120)
    alone = break_even(Counts(2, 4, COUNTS.layers[1:2]), Twin(TWIN.layers[1:2], 2, 3), profile(6, 2))
    assert alone.line.limit.value == pytest.approx(4 * alone.network.effective.value)
    assert alone.network == alone.layers[0].__class__(None, *list(vars(alone.layers[0]).values())[1:])


@pytest.mark.parametrize(("T", "published"), [(3, 1.5), (7, 2.338), (15, 3.793)])
def test_the_scaling_law_of_yan(T, published):
    """A dense network (every input spikes at every step) against its twin at equal cost per bit (arXiv 2409.08290)."""
    bits = twin(dense_layer(T)).bits
    x = np.ones((1, T, 6))
    counts = count(dense_layer(T), reference.run(dense_layer(T), x, record=("spikes",)), x)
    network = break_even(counts, twin(dense_layer(T)), profile(mac=bits, ac=1)).network
    assert network.rate == 1
    assert 1 / network.dense.value == pytest.approx(T / math.ceil(math.log2(T + 1)))
    assert 1 / network.dense.value == pytest.approx(published, rel=0.012)


def dense_layer(T: int, outputs: int = 3) -> SpikingGraph:
    weight = np.ones((outputs, 6), np.float32)
    lif = LIF(name="lif", inputs=("fc",), decay=0.5, v_threshold=1.0, v_reset=0.0)
    ops = (Linear(name="fc", inputs=("x",), weight=weight), lif)
    return SpikingGraph("net", Input("x", (6,), "time_series", 0), ops, Readout("lif", "mean"), T)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 9), st.integers(1, 59))
def test_a_network_that_fires_at_the_rate_costs_what_the_twin_costs(k, outputs, price_ac, spikes):
    """k MACs for an AC: with 6 inputs, 6 * k spikes pay the dense twin, however many spikes told us so."""
    graph, rng, prices = dense_layer(10, outputs), np.random.default_rng(spikes), profile(k * price_ac, price_ac)

    def run(n: int) -> tuple[Counts, Twin]:
        x = np.zeros((1, 60))
        x[0, rng.permutation(60)[:n]] = 1
        x = x.reshape(1, 10, 6)
        return count(graph, reference.run(graph, x, record=("spikes",)), x), twin(graph, x)

    found = break_even(*run(spikes), prices).network
    assert found.rate == pytest.approx(spikes / 60)
    assert found.dense.value == found.quantized.value == pytest.approx(k / 10)
    at_break_even = price(*run(round(found.dense.value * 60)), prices)
    assert at_break_even.synaptic_joule_per_sample == pytest.approx(at_break_even.twin_joule_per_sample)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scaling_the_spikes_to_the_rate_gives_equal_energies(data):
    """Of random networks, under random prices and ranges: the ends of a range belong to the ends of mac / ac."""
    whole = st.integers(1, 10**6)
    mac_count, macs = data.draw(st.integers(0, 10**6)), data.draw(whole)
    rows = [row("real", "real-valued", mac=mac_count)]
    for i in range(data.draw(st.integers(1, 4))):
        events = data.draw(whole)
        rows.append(row(f"l{i}", "spikes", events, events + data.draw(whole), ac=events * data.draw(st.integers(1, 9))))
    counts, ann = Counts(1, 5, tuple(rows)), Twin((TwinLayer("l0", macs + mac_count, 0, macs + mac_count),), 1, 3)
    mac, ac = (tuple(sorted(data.draw(st.tuples(*[st.integers(1, 1000)] * 2)))) for _ in range(2))
    network = break_even(counts, ann, profile(mac, ac)).network
    total = sum(each.counts["ac"] for each in rows)
    for rate, price_mac, price_ac in ((network.dense.low, mac[0], ac[1]), (network.dense.high, mac[1], ac[0])):
        scale = rate / network.rate
        ours = mac_count * price_mac + scale * total * price_ac
        assert ours == pytest.approx((macs + mac_count) * price_mac, rel=1e-9)
    assert network.effective == network.dense


def test_a_real_network_and_its_profile(convnet, images):
    graph, x = convnet(pools=False), images(6)
    counts, ann = count(graph, reference.run(graph, x, record=("spikes",)), x), twin(graph, x)
    cmos, prices = break_even(counts, ann, load("cmos45")), load("cmos45").prices
    rate, found = cmos.network.rate, cmos.network.dense.value
    totals = counts.totals
    scaled = totals["mac"] * prices["mac"].joule + found / rate * totals["ac"] * prices["ac"].joule
    assert scaled == pytest.approx(6 * ann.macs * prices["mac"].joule)
    # the first layer reads the image at each of 4 steps: more than the whole twin with its zeros does
    assert counts.totals["mac"] > ann.effective_macs
    assert "alone cost as much" in cmos.network.effective.why
    assert all(each.effective.value < each.dense.value for each in cmos.layers[1:])
    assert [each.layer for each in cmos.layers] == ["conv1", "conv2", "fc"]
    assert cmos.network.quantized.why.startswith("a mac of fp32 is not one of 3 bits")
    loihi = break_even(counts, ann, load("loihi1"))
    assert loihi.network.dense.why.startswith("mac: ")
    assert loihi.network.rate == rate


def test_what_has_no_rate_says_why():
    prices = profile(6, 2)
    silent = Counts(1, 4, (row("fc", "spikes", 0, 80),))
    ann = Twin((TwinLayer("fc", 50, 50),))
    found = break_even(silent, ann, prices)
    assert (found.network.rate, found.network.dense.why) == (0, "no spike reached a synapse: there is nothing to scale")
    assert found.network.effective == Bound(why="effective MACs were not counted")
    assert (found.line.gamma, found.line.limit.why) == (None, "effective MACs were not counted")
    heavy = Counts(1, 4, (row("conv", "real-valued", mac=60), row("fc", "spikes", 8, 80, ac=40)))
    assert "alone cost as much" in break_even(heavy, ann, prices).network.dense.why
    real = break_even(Counts(1, 4, (row("fc", "real-valued", mac=60),)), ann, prices)
    assert (real.network.rate, real.line.spikes) == (None, None)
    assert (real.network.dense.why, real.line.limit.why) == ("it reads no spikes", "no layer reads spikes")
    of_prices = {
        "ac: nobody measured it": profile(6, None),
        "mac: nobody measured it": profile(None, 2),
        "ac: a price of 0 makes every rate a low one": profile(6, 0),
        "an all-in figure of a spiking chip says nothing about an ANN": HardwareProfile(
            "a", "a", {"ac": Price(Figure(26 * PJ, "all_in", "measured", "test")), "mac": Price(why="x")}
        ),
    }
    for why, each in of_prices.items():
        network = break_even(COUNTS, TWIN, each).network
        assert {network.dense.why, network.effective.why, network.quantized.why} == {why}
    uncounted = Counts(1, 4, (LayerCounts("fc", None, "spikes", {**dict.fromkeys(TERMS, 0), "ac": 4}, 0),))
    assert break_even(uncounted, ann, prices).network.dense.why == "it reads no spikes"
