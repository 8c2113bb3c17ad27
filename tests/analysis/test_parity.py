"""Parity finds the first neuron and step that differ, and lets pass only what float rounding explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy.analysis.parity import climb, compare
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.trace import Trace


@pytest.fixture
def exact(convnet, images):
    graph = convnet()
    return graph, reference.run(graph, images(4), ("spikes", "u", "v"))


def flipped(trace: Trace, layer: str, *indices: tuple[int, ...]) -> Trace:
    spikes = {name: s.copy() for name, s in trace.spikes.items()}
    for index in indices:
        spikes[layer][index] ^= True
    return replace(trace, backend="other", spikes=spikes)


def on_the_threshold(trace: Trace, graph, layer: str, index: tuple[int, ...]) -> Trace:
    """The same trace with one potential within rounding of its threshold."""
    u = {name: a.copy() for name, a in trace.u.items()}
    threshold = np.broadcast_to(graph.by_name[layer].v_threshold, u[layer].shape)[index]
    u[layer][index] = threshold + 1e-9
    return replace(trace, u=u)


def test_equal_traces_hold(exact):
    graph, trace = exact
    rung = compare(graph, trace, replace(trace, backend="other"), trace.u)
    assert rung.holds
    assert rung.mismatches == 0
    assert rung.compared == sum(s.size for s in trace.spikes.values())
    assert [row.max_v_error for row in rung.layers] == [0.0, 0.0]
    assert (rung.source, rung.target, rung.max_output_error) == ("reference", "other", 0.0)


def test_one_flipped_spike_is_found_with_its_place_and_distance(exact):
    graph, trace = exact
    index = (2, 1, 3, 4, 5)
    rung = compare(graph, trace, flipped(trace, "lif1", index), trace.u)
    row = rung.layers[0]
    assert not rung.holds
    assert not row.holds
    assert rung.layers[1].holds
    assert (row.mismatches, row.ties) == (1, 0)
    first = row.first
    assert (first.sample, first.step, first.neuron) == (2, 1, (3, 4, 5))
    assert first.spike_from == int(trace.spikes["lif1"][index])
    assert first.spike_to == 1 - first.spike_from
    assert first.u == trace.u["lif1"][index]
    assert first.distance == pytest.approx(abs(first.u - first.v_threshold))
    assert first.distance > first.tolerance


def test_the_earliest_step_is_shown(exact):
    graph, trace = exact
    other = flipped(trace, "lif2", (0, 3, 0, 0, 0), (3, 1, 5, 3, 3), (1, 2, 1, 1, 1))
    first = compare(graph, trace, other, trace.u).layers[1].first
    assert (first.sample, first.step, first.neuron) == (3, 1, (5, 3, 3))


def test_a_tie_holds_and_so_do_its_consequences(exact):
    graph, trace = exact
    index = (1, 1, 0, 2, 2)
    tied = on_the_threshold(trace, graph, "lif1", index)
    # the tie itself, the same neuron a step later, and a neuron downstream at the same step
    other = flipped(flipped(tied, "lif1", index, (1, 2, 0, 2, 2)), "lif2", (1, 1, 0, 0, 0), (1, 3, 2, 1, 1))
    rung = compare(graph, tied, other, tied.u)
    assert rung.holds
    assert [(row.mismatches, row.ties) for row in rung.layers] == [(2, 1), (2, 0)]
    assert rung.layers[0].first.distance < rung.layers[0].first.tolerance


@pytest.mark.parametrize(
    ("layer", "index"),
    [
        ("lif2", (1, 0, 0, 0, 0)),  # a step before the tie
        ("lif2", (2, 2, 0, 0, 0)),  # another sample
        ("lif1", (1, 2, 0, 2, 3)),  # another neuron of the same layer
    ],
)
def test_a_tie_excuses_nothing_that_it_did_not_cause(exact, layer, index):
    graph, trace = exact
    tie = (1, 1, 0, 2, 2)
    tied = on_the_threshold(trace, graph, "lif1", tie)
    rung = compare(graph, tied, flipped(flipped(tied, "lif1", tie), layer, index), tied.u)
    assert not rung.holds
    row = next(row for row in rung.layers if row.layer == layer)
    assert (row.first.sample, row.first.step, row.first.neuron) == (index[0], index[1], index[2:])


def test_membrane_errors_come_from_samples_that_agree(exact):
    graph, trace = exact
    v = {name: a + 1e-7 for name, a in trace.v.items()}
    v["lif1"][0] += 5.0  # sample 0 differs anyway
    other = replace(flipped(trace, "lif1", (0, 0, 0, 0, 0)), v=v)
    errors = [row.max_v_error for row in compare(graph, trace, other, trace.u).layers]
    assert errors == pytest.approx([1e-7, 1e-7], rel=1e-6)
    silent = compare(graph, trace, replace(trace, v={}), trace.u)
    assert [row.max_v_error for row in silent.layers] == [None, None]


def test_the_ladder_needs_the_reference_and_equal_samples(exact):
    graph, trace = exact
    rungs = climb(graph, [replace(trace, backend="torch"), trace, replace(trace, backend="lava", u={})])
    assert [(r.source, r.target) for r in rungs] == [("torch", "reference"), ("reference", "lava")]
    with pytest.raises(RmpDeployError, match="need the reference"):
        climb(graph, [trace])
    with pytest.raises(RmpDeployError, match="need the reference"):
        climb(graph, [replace(trace, u={}), replace(trace, backend="lava", u={})])
    fewer = {name: s[:2] for name, s in trace.spikes.items()}
    with pytest.raises(RmpDeployError, match="parity of LIF 'lif1': shapes"):
        compare(graph, trace, replace(trace, backend="other", spikes=fewer), trace.u)
