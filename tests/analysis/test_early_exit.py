"""What the network would have answered after t steps is what it answers with T = t, on every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import rmp_deploy
from rmp_deploy.analysis.early_exit import RunningAccuracy, running_accuracy, running_predictions
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LI, LIF, CubaLIF, Delay, Linear
from rmp_deploy.ir.trace import Trace

RULES = ("mean", "sum", "last")
T, N, CLASSES = 5, 40, 4


def network(rule: str, readout: str, encoding: str) -> SpikingGraph:
    """Two layers; read out are the last one's currents, its spikes, a leaky integrator of it, or its spikes delayed."""
    rng = np.random.default_rng(3)
    first, second = (rng.normal(size=size).astype(np.float32) for size in ((8, 6), (CLASSES, 8)))
    last = {
        "fc": (),
        "spikes": (CubaLIF(name="spikes", inputs=("fc",), decay=0.5, current_decay=0.5, v_threshold=0.5, v_reset=0.0),),
        "li": (LI(name="li", inputs=("fc",), decay=0.75),),
        "late": (
            LIF(name="out", inputs=("fc",), decay=0.5, v_threshold=0.25, v_reset=0.0),
            Delay(name="late", inputs=("out",), steps=2, shape=(CLASSES,)),
        ),
    }
    ops = (
        Linear(name="fc0", inputs=("x",), weight=first),
        LIF(name="lif", inputs=("fc0",), decay=0.5, v_threshold=0.5, v_reset=0.0),
        Linear(name="fc", inputs=("lif",), weight=second, bias=rng.normal(size=CLASSES).astype(np.float32) / 4),
        *last[readout],
    )
    return SpikingGraph("net", Input("x", (6,), encoding), ops, Readout(readout, rule), T)


def samples(encoding: str) -> np.ndarray:
    shape = (N, 6) if encoding == "direct" else (N, T, 6)
    return np.random.default_rng(4).random(shape).astype(np.float32)


def answers(graph: SpikingGraph, x: np.ndarray, backend: str) -> np.ndarray:
    """The definition: a run with T = t, for every t."""
    of_t = []
    for t in range(1, graph.T + 1):
        part = x if graph.input.encoding == "direct" else x[:, :t]
        of_t.append(rmp_deploy.run(replace(graph, T=t), part, backend).predictions())
    return np.stack(of_t, axis=1)


@pytest.mark.parametrize("encoding", ["direct", "time_series"])
@pytest.mark.parametrize("readout", ["fc", "spikes", "li", "late"])
@pytest.mark.parametrize("rule", RULES)
def test_each_step_answers_as_the_network_with_so_many_steps(rule, readout, encoding):
    graph, x = network(rule, readout, encoding), samples(encoding)
    trace = reference.run(graph, x, record=("readout",))
    running = running_predictions(graph, trace)
    assert running.dtype == np.int64
    np.testing.assert_array_equal(running, answers(graph, x, "reference"))
    np.testing.assert_array_equal(running[:, -1], trace.predictions())
    assert len(np.unique(running)) > 1
    assert (running != running[:, -1:]).any()  # some change their mind


@pytest.mark.parametrize("readout", ["fc", "spikes", "li"])
@pytest.mark.parametrize("rule", RULES)
def test_onnx_runtime_records_what_it_reads_out(rule, readout):
    graph, x = network(rule, readout, "direct"), samples("direct")
    trace = rmp_deploy.run(graph, x, "onnxruntime", record=("readout",))
    np.testing.assert_array_equal(running_predictions(graph, trace), answers(graph, x, "onnxruntime"))
    exact = reference.run(graph, x, record=("readout",))
    np.testing.assert_allclose(trace.readout[readout], exact.readout[readout], atol=1e-5)


@pytest.mark.parametrize(("rule", "readout"), [("mean", "fc"), ("sum", "spikes"), ("last", "li")])
def test_lava_records_what_it_reads_out(rule, readout):
    pytest.importorskip("lava")
    graph, x = network(rule, readout, "time_series"), samples("time_series")[:8]
    trace = rmp_deploy.run(graph, x, "lava", record=("readout",))
    exact = reference.run(graph, x, record=("readout",))
    np.testing.assert_allclose(trace.readout[readout], exact.readout[readout], atol=1e-5)
    np.testing.assert_array_equal(running_predictions(graph, trace), answers(graph, x, "reference"))


def test_a_quantized_network_answers_early_on_every_step(convnet, images, quantized):
    graph, x = quantized(convnet()), images(20)
    for backend in ("reference", "onnxruntime"):
        trace = rmp_deploy.run(graph, x, backend, record=("readout",))
        np.testing.assert_array_equal(running_predictions(graph, trace), answers(graph, x, backend))


def test_batches_join_into_one_trace(monkeypatch):
    monkeypatch.setattr("rmp_deploy.backends.BATCH", 16)
    graph, x = network("mean", "li", "direct"), samples("direct")
    joined = rmp_deploy.run(graph, x, "onnxruntime", record=("spikes", "readout"))
    assert joined.readout["li"].shape == (N, T, CLASSES)
    np.testing.assert_array_equal(running_predictions(graph, joined), answers(graph, x, "onnxruntime"))


def test_running_accuracy_by_hand_and_over_shards():
    graph = network("sum", "fc", "direct")
    votes = np.zeros((2, T, CLASSES))
    votes[0, :, 1] = [0, 0, 1, 0, 0]  # class 0 (the first of equals) until a vote for 1 in step 3
    votes[1, :, 2] = [1, 0, 0, 0, 0]
    votes[1, :, 3] = [0, 1, 1, 0, 0]  # a tie in step 2, overtaken in step 3
    trace = Trace("by hand", votes.sum(axis=1), readout={"fc": votes})
    np.testing.assert_array_equal(running_predictions(graph, trace), [[0, 0, 1, 1, 1], [2, 2, 3, 3, 3]])
    found = running_accuracy(graph, trace, np.array([1, 2]))
    assert found == RunningAccuracy(2, (1, 1, 1, 1, 1))
    whole = found + RunningAccuracy(1, (0, 0, 0, 1, 1))
    assert whole.correct == (1, 1, 1, 2, 2)
    assert whole.accuracy == pytest.approx((1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3))
    with pytest.raises(RmpDeployError, match=r"T = 1, allowed 5"):
        found + RunningAccuracy(1, (1,))


def test_what_cannot_be_answered_is_refused_in_one_line():
    graph, x = network("mean", "fc", "direct"), samples("direct")
    with pytest.raises(RmpDeployError, match=r"early exit of 'fc': readout = none.*record=\['readout'\]"):
        running_predictions(graph, reference.run(graph, x))
    trace = reference.run(graph, x, record=("readout",))
    with pytest.raises(RmpDeployError, match=r"readout = \(40, 5, 4\), allowed \(40, 3, 4\)"):
        running_predictions(replace(graph, T=3), trace)
    with pytest.raises(RmpDeployError, match=r"labels: shape = \(3,\), allowed \(40,\)"):
        running_accuracy(graph, trace, np.zeros(3, np.int64))
    for wrong in (-1, CLASSES):
        with pytest.raises(RmpDeployError, match=rf"labels: {wrong}, allowed 0\.\.3"):
            running_accuracy(graph, trace, np.full(N, wrong))
    for labels, what in (([0] * N, "list"), (np.full(N, np.nan), "float64"), (np.full(N, 0.5), "float64")):
        with pytest.raises(RmpDeployError, match=f"labels: {what}, allowed an array of integers"):
            running_accuracy(graph, trace, labels)
    empty = Trace("none", trace.output[:0], readout={"fc": trace.readout["fc"][:0]})
    with pytest.raises(RmpDeployError, match="labels: samples = 0, allowed >= 1"):
        running_accuracy(graph, empty, np.zeros(0, np.int64))
