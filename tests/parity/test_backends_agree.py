"""Every op and random networks of them on every backend: the same spikes as the NumPy reference."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmp_deploy import backends
from rmp_deploy.analysis.parity import climb, compare
from rmp_deploy.backends import onnxruntime
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import MAX_T, Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, AvgPool2d, Conv2d, Flatten, Linear, Op


def random_graph(rng: np.random.Generator, encoding: str, on_lava: bool) -> SpikingGraph:
    """One to three spiking layers of random kinds and options behind each other, then a linear readout."""
    shape: tuple[int, ...] = (int(rng.integers(1, 3)), 8, 8)
    net: list[Op] = []
    value = "x"

    def add(op: Op) -> None:
        nonlocal value, shape
        net.append(op)
        value, shape = op.name, op.output_shape(shape)

    for i in range(int(rng.integers(1, 4))):
        groups = int(rng.choice([g for g in (1, 2) if shape[0] % g == 0]))
        kernel = tuple(int(k) for k in rng.integers(1, 4, 2))
        c_out = 2 * int(rng.integers(1, 4))
        fan_in = shape[0] // groups * kernel[0] * kernel[1]
        add(
            Conv2d(
                name=f"conv{i}",
                inputs=(value,),
                weight=rng.normal(size=(c_out, shape[0] // groups, *kernel)) * 2 / np.sqrt(fan_in),
                bias=rng.normal(0.1, 0.2, c_out) if rng.integers(2) else None,
                stride=tuple(int(s) for s in rng.integers(1, 3, 2)),
                padding=(kernel[0] // 2 + 1, kernel[1] // 2 + 1),
                groups=groups,
            )
        )
        per_channel = (c_out, 1, 1) if rng.integers(2) else ()
        per_neuron = shape if rng.integers(2) else ()
        resets = [{}, {"v_reset": rng.uniform(-0.3, 0.1, per_channel)}, {"reset": "soft"},
                  {"reset": "soft", "v_subtract": rng.uniform(0, 0.8, per_channel)}]  # fmt: skip
        after_a_spike = resets[0 if on_lava else int(rng.integers(4))]
        add(
            LIF(
                name=f"lif{i}",
                inputs=(value,),
                decay=rng.uniform(0, 1, per_channel),
                v_threshold=rng.uniform(0.2, 0.8, per_neuron),
                **after_a_spike,
            )
        )
        if shape[1] % 2 == 0 and shape[2] % 2 == 0 and rng.integers(2):
            add(AvgPool2d(name=f"pool{i}", inputs=(value,), kernel=(2, 2), stride=(2, 2)))
    add(Flatten(name="flatten", inputs=(value,)))
    add(Linear(name="fc", inputs=(value,), weight=rng.normal(size=(4, shape[0])), bias=rng.normal(size=4)))
    c = net[0].weight.shape[1] * net[0].groups
    rule = str(rng.choice(["mean", "sum", "last"]))
    T = int(rng.integers(1, 6))
    return SpikingGraph("random", Input("x", (c, 8, 8), encoding), tuple(net), Readout("fc", rule), T)


def samples(rng: np.random.Generator, graph: SpikingGraph, n: int) -> np.ndarray:
    if graph.input.encoding == "direct":
        return rng.random((n, *graph.input.shape), dtype=np.float32)
    return (rng.random((n, graph.T, *graph.input.shape)) < 0.4).astype(np.float32)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), encoding=st.sampled_from(["direct", "time_series"]))
def test_random_networks_on_onnx_runtime(seed, encoding, tmp_path_factory):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, encoding, on_lava=False)
    x = samples(rng, graph, 5)
    path = onnx_io.save(graph, tmp_path_factory.mktemp("random") / "net.onnx")
    loaded = onnx_io.load(path)
    assert loaded == graph
    exact = backends.run(graph, x, "reference", ("spikes", "u", "v"))
    rung = compare(graph, x, exact, backends.run(loaded, x, "onnxruntime", ("spikes", "v")))
    assert rung.holds, rung
    if rung.mismatches == 0:
        # an error of the membrane is at most a rounding; soft resets and decays near 1 carry it along
        assert all(row.max_v_error < 1e-4 for row in rung.layers)
        assert rung.max_output_error < 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_on_lava(seed):
    pytest.importorskip("lava", reason="Lava is an optional extra")
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, ["direct", "time_series"][seed % 2], on_lava=True)
    x = samples(rng, graph, 4)
    exact = backends.run(graph, x, "reference", ("spikes", "u", "v"))
    rung = compare(graph, x, exact, backends.run(graph, x, "lava", ("spikes", "v")))
    # both are float64: nothing but the order of sums and the folded pools' rounded weights differs
    assert rung.holds, rung
    assert rung.mismatches == 0, rung
    assert all(row.max_v_error < 1e-5 for row in rung.layers)


def test_the_whole_ladder_on_a_convnet(convnet, images):
    pytest.importorskip("lava", reason="Lava is an optional extra")
    graph, x = convnet(), images(10)
    record = {"reference": ("spikes", "u", "v"), "onnxruntime": ("spikes", "v"), "lava": ("spikes", "v")}
    rungs = climb(graph, x, [backends.run(graph, x, name, what) for name, what in record.items()])
    assert [(r.source, r.target) for r in rungs] == [("reference", "onnxruntime"), ("onnxruntime", "lava")]
    assert all(r.holds and r.mismatches == 0 for r in rungs)


def test_batches_change_nothing(convnet, images, monkeypatch):
    graph, x = convnet(), images(7)
    whole = backends.run(graph, x, "onnxruntime", ("spikes", "v", "u"))
    monkeypatch.setattr(backends, "BATCH", 3)
    parts = backends.run(graph, x, "onnxruntime", ("spikes", "v", "u"))
    for what in ("spikes", "v", "u"):
        for name, array in getattr(whole, what).items():
            np.testing.assert_array_equal(array, getattr(parts, what)[name])
    np.testing.assert_allclose(whole.output, parts.output, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_how_a_batch_is_cut_for_the_threads_changes_nothing(convnet, images, monkeypatch, size):
    graph, x = convnet(), images(7)
    record = ("spikes", "v", "u", "readout")
    whole = backends.run(graph, x, "onnxruntime", record)
    values = sum(math.prod(shape) for shape in graph.shapes.values())
    monkeypatch.setattr(onnxruntime, "PART", size * values)
    cut = backends.run(graph, x, "onnxruntime", record)
    np.testing.assert_array_equal(whole.output, cut.output)
    for what in record:
        for name, array in getattr(whole, what).items():
            assert array.dtype == getattr(cut, what)[name].dtype
            np.testing.assert_array_equal(array, getattr(cut, what)[name])


def test_samples_are_read_one_part_ahead_and_no_further(convnet, images):
    graph, x, read = convnet(), images(5), []

    def parts():
        for i in range(5):
            read.append(i)
            yield x[i : i + 1]

    expected = backends.run(graph, x, "onnxruntime", ("spikes",)).spikes
    for i, (part, trace) in enumerate(backends.stream(graph, parts(), "onnxruntime", ("spikes",))):
        assert len(read) == min(i + 2, 5)
        np.testing.assert_array_equal(part, x[i : i + 1])
        for name, spikes in trace.spikes.items():
            np.testing.assert_array_equal(spikes, expected[name][i : i + 1])


def test_who_stops_reading_or_gives_unfit_samples_later_leaves_no_thread(convnet, images):
    graph, x = convnet(), images(3)
    traces = backends.stream(graph, (x for _ in range(4)), "onnxruntime")
    next(traces)
    traces.close()
    with pytest.raises(RmpDeployError, match="samples for graph 'convnet': NaN"):
        list(backends.stream(graph, [x, np.full_like(x, np.nan)], "onnxruntime"))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("onnxruntime")]


def test_traces_that_no_memory_holds_are_one_line(convnet, images):
    graph, x = replace(convnet(), T=MAX_T), np.broadcast_to(images(1), (2**22, *images(1).shape[1:]))
    traces = onnxruntime.stream(graph, [x], ("v",))  # 256 TiB
    with pytest.raises(RmpDeployError, match=r"onnxruntime: .*allocate.*\. Try fewer samples at a time\."):
        next(traces)


def test_an_unknown_backend_and_unfit_samples_are_refused(convnet, images):
    with pytest.raises(RmpDeployError, match="backend 'brian': unknown, allowed reference, onnxruntime, lava"):
        backends.run(convnet(), images(), "brian")
    with pytest.raises(RmpDeployError, match="samples for graph 'convnet'"):
        backends.run(replace(convnet(), T=2), images()[:, :1], "onnxruntime")
