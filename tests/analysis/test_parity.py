"""Parity finds the first neuron and step that differ, and lets pass only what float rounding explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy import backends
from rmp_deploy.analysis.parity import climb, compare
from rmp_deploy.analysis.replay import replay
from rmp_deploy.backends import onnxruntime
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, BatchNorm, Linear
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm


@pytest.fixture
def exact(convnet, images):
    graph, x = convnet(), images(4)
    return graph, x, reference.run(graph, x, ("spikes", "u", "v"))


def flipped(trace: Trace, layer: str, *indices: tuple[int, ...]) -> Trace:
    spikes = {name: s.copy() for name, s in trace.spikes.items()}
    for index in indices:
        spikes[layer][index] ^= True
    return replace(trace, backend="other", spikes=spikes, v={})


def test_equal_traces_hold(exact):
    graph, x, trace = exact
    rung = compare(graph, x, trace, replace(trace, backend="other"))
    assert rung.holds
    assert rung.mismatches == 0
    assert rung.compared == sum(s.size for s in trace.spikes.values())
    assert [(row.max_v_error, row.first) for row in rung.layers] == [(0.0, None), (0.0, None)]
    assert (rung.source, rung.target, rung.max_output_error) == ("reference", "other", 0.0)


def test_the_replay_of_a_reference_run_is_that_run(exact):
    graph, x, trace = exact
    again = replay(graph, x, trace)
    for name, layer in again.layers.items():
        np.testing.assert_array_equal(layer.u, trace.u[name])
        np.testing.assert_array_equal(layer.v, trace.v[name])
        assert (layer.tolerance > 0).all()
        assert layer.tolerance.max() < 1e-4
    np.testing.assert_array_equal(again.output, trace.output)


def test_one_flipped_spike_is_found_with_its_place_and_distance(exact):
    graph, x, trace = exact
    index = (2, 1, 3, 4, 5)
    rung = compare(graph, x, trace, flipped(trace, "lif1", index))
    row = rung.layers[0]
    assert not rung.holds
    assert not row.holds
    assert row.mismatches == 1
    first = row.first
    assert (first.sample, first.step, first.neuron) == (2, 1, (3, 4, 5))
    assert first.spike_from == int(trace.spikes["lif1"][index])
    assert first.spike_to == 1 - first.spike_from
    assert first.u == trace.u["lif1"][index]
    assert first.distance == pytest.approx(abs(first.u - first.v_threshold))
    assert first.distance > first.tolerance


def test_the_earliest_step_is_shown(exact):
    graph, x, trace = exact
    other = flipped(trace, "lif2", (0, 3, 0, 0, 0), (3, 1, 5, 3, 3), (1, 2, 1, 1, 1))
    first = compare(graph, x, trace, other).layers[1].first
    assert (first.sample, first.step, first.neuron) == (3, 1, (5, 3, 3))


def test_an_inverted_layer_does_not_hide_behind_a_flip_upstream(exact):
    graph, x, trace = exact
    other = flipped(trace, "lif1", (0, 0, 0, 0, 0))
    other.spikes["lif2"][:] = ~other.spikes["lif2"]
    rung = compare(graph, x, trace, other)
    assert [row.holds for row in rung.layers] == [False, False]


def chain(threshold: float) -> SpikingGraph:
    """Two layers whose first potential can be put within rounding of its threshold."""
    return SpikingGraph(
        "chain",
        Input("x", (3,), "direct"),
        (
            Linear(name="fc1", inputs=("x",), weight=[[0.1, 0.2, 0.3]]),
            LIF(name="lif1", inputs=("fc1",), decay=0.0, v_threshold=threshold, v_reset=0.0),
            Linear(name="fc2", inputs=("lif1",), weight=[[1.0]]),
            LIF(name="lif2", inputs=("fc2",), decay=0.0, v_threshold=0.5, v_reset=0.0),
        ),
        Readout("lif2", "sum"),
        3,
    )


def tied_runs() -> tuple[SpikingGraph, np.ndarray, Trace, Trace]:
    """A sum that is just above the threshold, and the run of a backend whose rounding puts it just below."""
    x = np.ones((1, 3))
    total = float(chain(1.0).by_name["fc1"].weight.astype(float).sum())
    graph = chain(np.nextafter(np.float32(total), np.float32(0)))
    a = reference.run(graph, x, ("spikes", "v"))
    assert a.spikes["lif1"].all()
    silent = {name: np.zeros_like(s) for name, s in a.spikes.items()}
    return graph, x, a, Trace("other", np.zeros((1, 1)), silent)


def test_a_tie_holds_and_so_does_what_it_leads_to():
    graph, x, a, b = tied_runs()
    rung = compare(graph, x, a, b)
    assert rung.holds, rung
    assert [(row.mismatches, row.ties) for row in rung.layers] == [(3, 3), (3, 0)]
    assert 0 < rung.layers[0].first.distance <= rung.layers[0].first.tolerance
    assert rung.max_output_error == 3.0  # one answer each, and each the right one for its own spikes


def test_a_tie_excuses_nothing_that_it_did_not_cause():
    graph, x, a, b = tied_runs()
    wrong = {"lif1": b.spikes["lif1"], "lif2": a.spikes["lif2"]}  # lif2 fires although nothing reaches it
    rung = compare(graph, x, a, replace(b, spikes=wrong, output=a.output))
    assert [row.holds for row in rung.layers] == [True, False]
    assert rung.layers[1].first.distance == 0.5


def test_the_tolerance_follows_the_summands_and_not_the_sum():
    """1e4 + 0.3 - 1e4 rounds to 0.2998 in float32: a sound network; a large potential elsewhere excuses nothing."""
    graph = SpikingGraph(
        "cancelling",
        Input("x", (3,), "direct"),
        (
            Linear(name="fc", inputs=("x",), weight=[[1e4, 0.3, -1e4]]),
            LIF(name="lif", inputs=("fc",), decay=0.0, v_threshold=0.2999, v_reset=0.0),
        ),
        Readout("lif", "sum"),
        1,
    )
    x = np.ones((1, 3), np.float32)
    runs = [backends.run(graph, x, name, ("spikes",)) for name in ("reference", "onnxruntime")]
    assert compare(graph, x, *runs).holds
    tolerance = replay(graph, np.array([[1e-3, 1.0, 1e-3], [1e5, 1e5, 1e5]]), Trace("t", np.zeros((2, 1)), {
        "lif": np.ones((2, 1, 1), bool)})).layers["lif"].tolerance.ravel()  # fmt: skip
    assert tolerance[0] < 1e-4 < tolerance[1]


def test_a_wrong_readout_does_not_hold(exact):
    """The last synapse has no neurons behind it: its spikes cannot tell, so its values must."""
    graph, x, trace = exact
    rung = compare(graph, x, trace, replace(trace, backend="other", output=-trace.output))
    assert rung.mismatches == 0
    assert not rung.output_holds
    assert not rung.holds


def test_wrong_potentials_do_not_hold_though_no_spike_shows_it(exact):
    graph, x, trace = exact
    off = {name: v + 1e-3 for name, v in trace.v.items()}
    rung = compare(graph, x, trace, replace(trace, backend="other", v=off))
    assert rung.mismatches == 0
    assert not rung.holds
    assert [row.v_holds for row in rung.layers] == [False, False]
    assert [row.max_v_error for row in rung.layers] == pytest.approx([1e-3, 1e-3])
    silent = compare(graph, x, trace, replace(trace, v={}))
    assert [row.max_v_error for row in silent.layers] == [None, None]


def test_the_ladder_needs_traces_of_the_same_samples(exact):
    graph, x, trace = exact
    rungs = climb(graph, x, [replace(trace, backend="torch"), trace, replace(trace, backend="lava")])
    assert [(r.source, r.target) for r in rungs] == [("torch", "reference"), ("reference", "lava")]
    with pytest.raises(RmpDeployError, match="traces = 1, allowed 2 or more"):
        climb(graph, x, [trace])
    fewer = {name: s[:2] for name, s in trace.spikes.items()}
    with pytest.raises(RmpDeployError, match="parity of LIF 'lif1': spikes of other"):
        compare(graph, x, trace, replace(trace, backend="other", spikes=fewer))
    with pytest.raises(RmpDeployError, match="spikes of other = None"):
        compare(graph, x, trace, replace(trace, backend="other", spikes={}))


def test_torch_is_judged_with_the_roundings_of_its_batchnorm():
    """mean and beta of 1e4 that cancel when folded: float32 computes 0.50098 instead of 0.501."""
    norm = BatchNorm(
        name="bn", inputs=("fc",), gamma=[1.0], beta=[1e4 + 0.5], mean=[1e4], var=[1.0 - 2**-17], eps=2**-17
    )
    trained = SpikingGraph(
        "norm",
        Input("x", (1,), "direct"),
        (
            Linear(name="fc", inputs=("x",), weight=[[1e-3]]),
            norm,
            LIF(name="lif", inputs=("bn",), decay=0.0, v_threshold=10.0, v_reset=0.0),
        ),
        Readout("lif", "sum"),
        1,
    )
    graph = fold_batchnorm(trained)
    x = np.ones((1, 1))
    exact = reference.run(graph, x, ("spikes", "v"))
    rounded = np.float32(1e-3) - np.float32(1e4) + np.float32(1e4 + 0.5)
    assert abs(exact.v["lif"].item() - rounded) > 1e-5
    torch = replace(exact, backend="torch", v={"lif": np.full((1, 1, 1), rounded, np.float32)})
    assert not climb(graph, x, [torch, exact])[0].holds
    assert climb(graph, x, [torch, exact], trained)[0].holds
    wrong = replace(torch, v={"lif": np.full((1, 1, 1), rounded + 1.0)})
    assert not climb(graph, x, [wrong, exact], trained)[0].holds


def soft_network(T: int = 1000, fan_in: int = 1024) -> tuple[SpikingGraph, np.ndarray]:
    """Four IF neurons with soft reset: nothing in them forgets an error."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.3, (4, fan_in))
    weight += 0.001 - weight.mean(axis=1, keepdims=True)
    ops = (
        Linear(name="fc", inputs=("x",), weight=weight),
        LIF(name="lif", inputs=("fc",), decay=1.0, v_threshold=1.0, reset="soft"),
    )
    graph = SpikingGraph("soft", Input("x", (fan_in,), "time_series"), ops, Readout("lif", "sum"), T)
    return graph, rng.integers(0, 2, (1, T, fan_in)).astype(np.float32)


@pytest.mark.parametrize(("start", "threshold"), [(100, 3.0), (500, 15.0), (900, 2.0)])
def test_no_length_of_run_excuses_another_threshold(start, threshold):
    """Neurons without a leak keep every error; still a spike is only excused near its threshold."""
    graph, x = soft_network()
    right = reference.run(graph, x, ("spikes", "v"))
    current = x[0] @ graph.by_name["fc"].weight.T.astype(np.float64)
    v, spikes, potentials = np.zeros(4), [], []
    for t, i in enumerate(current):
        u = v + i
        s = u > (1.0 if t < start else threshold)
        v = u - s
        spikes.append(s)
        potentials.append(v)
    wrong = Trace(
        "wrong",
        np.sum(spikes, axis=0)[None].astype(float),
        {"lif": np.array([spikes])},
        {"lif": np.array([potentials])},
    )
    rung = compare(graph, x, right, wrong)
    assert rung.mismatches > 0
    assert not rung.holds
    assert rung.layers[0].first.step >= start
    float32 = onnxruntime.run(graph, x, ("spikes", "v"))
    assert compare(graph, x, right, float32).holds


def test_the_readout_of_a_sum_is_bounded_by_all_its_branches():
    rng = np.random.default_rng(1)
    ops = (
        LIF(name="lif", inputs=("x",), decay=0.5, v_threshold=0.5),
        Linear(name="thin", inputs=("lif",), weight=np.full((3, 2000), 1e-6)),
        Linear(name="wide", inputs=("lif",), weight=rng.normal(0, 30, (3, 2000))),
        Add(name="sum", inputs=("thin", "wide")),
    )
    graph = SpikingGraph("sum", Input("x", (2000,), "direct"), ops, Readout("sum", "mean"), 50)
    x = rng.random((3, 2000), dtype=np.float32)
    rung = compare(graph, x, reference.run(graph, x, ("spikes",)), onnxruntime.run(graph, x, ("spikes",)))
    assert rung.holds
    assert rung.max_output_error > 0
