"""Random graphs of Loihi's integer ops through the file and on ONNX Runtime: every spike and state, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmp_deploy import backends
from rmp_deploy.analysis.parity import climb
from rmp_deploy.backends import onnxruntime
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io, reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LIF,
    Add,
    Concat,
    Delay,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Quantize,
    SumPool2d,
)
from rmp_deploy.ir.ops.loihi import WEIGHT_SPAN, stored_weight

RECORD = ("spikes", "v", "u")


class Builder:
    """Adds random ops that fit; `value` is the last one's, `shape` its shape."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng, self.value, self.shape = rng, "x", shape
        self.ops: list[Op] = []

    def add(self, kind: type[Op], *inputs: str, shape: tuple[int, ...] | None = None, **parameters: object) -> str:
        name = f"{kind.__name__.lower()}{len(self.ops)}"
        if kind is Delay:
            parameters["shape"] = shape
        op = kind(name=name, inputs=inputs or (self.value,), **parameters)
        self.ops.append(op)
        self.shape = shape or op.output_shape(*([self.shape] * len(op.inputs)))
        self.value = name
        return name

    def synapse(self, c_out: int | None = None) -> str:
        rng, n = self.rng, self.shape[0]
        c_out = c_out or int(rng.integers(1, 7))
        mode = str(rng.choice(["mixed", "mixed", *WEIGHT_SPAN]))
        options = {"num_weight_bits": int(rng.integers(3, 9)), "sign_mode": mode}
        low, high = WEIGHT_SPAN[mode]

        def weight(*shape: int) -> np.ndarray:
            return stored_weight(rng.integers(low, high + 1, shape), **options)

        exp = int(rng.integers(-8, 8))
        if len(self.shape) == 1:
            return self.add(LoihiLinear, weight=weight(c_out, n), weight_exp=exp, **options)
        groups = 2 if n % 2 == 0 and c_out % 2 == 0 and rng.integers(2) else 1
        dilation = int(rng.integers(1, 3))
        geometry = {"padding": (dilation, dilation), "dilation": (dilation, dilation), "groups": groups}
        kernels = weight(c_out, n // groups, 3, 3)
        return self.add(LoihiConv2d, weight=kernels, weight_exp=exp, **geometry, **options)

    def neuron(self) -> str:
        """Thresholds from tiny to the top, decays of every size, so that states wrap, saturate and fire."""
        rng, shape = self.rng, self.shape
        each = [(), (shape[0], *(1,) * (len(shape) - 1)), shape][int(rng.integers(3))]
        return self.add(
            LoihiLIF,
            du=rng.choice(np.array([-1, 0, 1, 2047, 4095, int(rng.integers(4096))]), each),
            dv=rng.choice(np.array([0, 1, 409, 3072, 4096, int(rng.integers(4097))]), each),
            vth=2 ** rng.integers(0, int(rng.choice([6, 12, 18])), each) - 1,
            bias_mant=rng.integers(-4096, 4096, each) // 4 ** rng.integers(0, 6),
            bias_exp=rng.integers(0, 8, each),
        )

    def quantize(self) -> None:
        """The input as integers of a few bits, with one scale or one for each channel."""
        rng = self.rng
        each = [(), (self.shape[0], *(1,) * (len(self.shape) - 1))][int(rng.integers(2))]
        self.add(Quantize, scale=rng.uniform(0.5, 20, each), message_bits=int(rng.integers(1, 5)))

    def dequantize(self) -> None:
        rng, n = self.rng, self.shape[0]
        self.add(Dequantize, scale=rng.uniform(1e-4, 1, [(), n][int(rng.integers(2))]), bias=rng.normal(size=n))

    def layer(self) -> None:
        """Synapse, perhaps a recurrent or second current, a neuron, perhaps a delay, a pool or a concat."""
        rng = self.rng
        before, shape = self.value, self.shape
        same = rng.integers(2)
        self.synapse(shape[0] if same else None)
        if same and rng.integers(2):
            first, made = self.value, self.shape
            self.value, self.shape = before, shape
            self.synapse(shape[0])
            self.add(Add, first, self.value, shape=made)
        if rng.integers(2):
            self.recurrent()
        else:
            self.neuron()
        choice = rng.integers(6)
        if choice == 0:
            self.add(Delay, steps=int(rng.integers(1, 4)), shape=self.shape)
        elif choice == 1:
            spikes = self.value
            late = self.add(Delay, steps=1, shape=self.shape)
            self.add(Concat, spikes, late, shape=(2 * self.shape[0], *self.shape[1:]))
        elif choice == 2:
            spikes = self.value
            late = self.add(Delay, steps=1, shape=self.shape)
            self.add(Add, spikes, late, shape=self.shape)  # counts, not spikes
        elif len(self.shape) == 3 and min(self.shape[1:]) >= 4:
            pool = [SumPool2d, MaxPool2d][int(rng.integers(2))]
            self.add(pool, kernel=(3, 2), stride=(2, 2), padding=(1, 0))

    def recurrent(self) -> None:
        current, shape = self.value, self.shape
        at = len(self.ops)
        before = self.add(Delay, "nobody", steps=1, shape=shape)
        self.synapse(shape[0])
        self.add(Add, current, self.value, shape=shape)
        spikes = self.neuron()
        self.ops[at] = Delay(name=before, inputs=(spikes,), steps=1, shape=shape)


def random_graph(rng: np.random.Generator, on_host: bool = False) -> SpikingGraph:
    """One to three layers; with `on_host`, a real-valued layer before them and a real-valued readout behind."""
    while True:
        try:
            return draw(rng, on_host)
        except RmpDeployError as e:  # its largest possible integer is too large
            assert "largest possible" in str(e)


def draw(rng: np.random.Generator, on_host: bool) -> SpikingGraph:
    shape = [(3, 8, 7), (5,)][int(rng.integers(2))]
    builder = Builder(rng, shape)
    if on_host:
        shape = (6,)
        builder.shape = shape
        builder.add(Linear, weight=rng.normal(size=(8, 6)), bias=rng.normal(size=8))
        builder.add(LIF, decay=rng.uniform(0, 1), v_threshold=rng.uniform(0.1, 0.8))
    bits = None if on_host else [None, 0, 0, 1, 2, 4][int(rng.integers(6))]
    if bits is None and not on_host:
        builder.quantize()
    for _ in range(int(rng.integers(1, 4))):
        builder.layer()
    if len(builder.shape) > 1:
        builder.add(Flatten)
    if on_host:
        builder.add(Linear, weight=rng.normal(size=(3, builder.shape[0])))
    elif rng.integers(2):
        builder.synapse(3)
        if rng.integers(2):
            builder.dequantize()
    encoding = "direct" if on_host else str(rng.choice(["direct", "time_series"]))
    readout = Readout(builder.value, str(rng.choice(["mean", "sum", "last"])))
    x, T = Input("x", shape, encoding, bits), int(rng.integers(1, 8))
    return SpikingGraph("random", x, tuple(builder.ops), readout, T)


def samples(rng: np.random.Generator, graph: SpikingGraph, n: int) -> np.ndarray:
    steps = () if graph.input.encoding == "direct" else (graph.T,)
    bits, shape = graph.input.message_bits, (n, *steps, *graph.input.shape)
    if bits is None:
        return rng.normal(0.3, 0.6, shape).astype(np.float32)
    return (rng.random(shape) < 0.4).astype(np.uint8) if bits == 0 else rng.integers(1 - 2**bits, 2**bits, shape)


def assert_equal(ours, theirs):
    for what in RECORD:
        a, b = getattr(ours, what), getattr(theirs, what)
        assert list(a) == list(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=f"{what} of {name}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_random_integer_graphs_through_the_file_and_onnx_runtime(seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x = samples(rng, graph, 4)
    loaded = onnx_io.load(onnx_io.save(graph, tmp_path_factory.mktemp("random") / "net.onnx"))
    assert loaded == graph
    ours, theirs = (backends.run(loaded, x, name, RECORD) for name in ("reference", "onnxruntime"))
    assert_equal(ours, theirs)
    if graph.readout.value in graph.currents:
        np.testing.assert_array_equal(ours.output, theirs.output)
    else:
        np.testing.assert_allclose(ours.output, theirs.output, rtol=1e-4, atol=1e-4)
    (rung,) = climb(graph, x, [ours, theirs])
    assert rung.holds
    assert rung.mismatches == 0
    assert all(layer.max_v_error == 0 for layer in rung.layers)


@pytest.mark.parametrize("seed", range(4))
def test_golden_samples_check_an_integer_file(seed, tmp_path):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    path = onnx_io.save(graph, tmp_path / "net.onnx", golden=samples(rng, graph, 3))
    golden = onnx_io.load_golden(path)
    found = onnxruntime.run_file(path, golden.x)
    assert {name: found[f"spike_count/{name}"].tolist() for name in golden.spike_count} == golden.spike_count


def test_the_random_graphs_reach_what_matters():
    """Every op, both kinds of Linear, wrapped currents, saturated potentials; layers that fire, and not always."""
    kinds: set[type[Op]] = set()
    nodes: set[str] = set()
    rates: list[float] = []
    wrapped = saturated = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        kinds |= {type(op) for op in graph.ops}
        nodes |= {f.name for f in onnx_io.to_model(graph).functions}
        trace = backends.run(graph, samples(rng, graph, 2), "reference", RECORD)
        rates += [float(s.mean()) for s in trace.spikes.values()]
        saturated += sum(bool((np.abs(u) == 2**23 - 1).any()) for u in trace.u.values())
        wrapped += any(graph.integers[op.inputs[0]] * 64 > 2**24 for op in graph.spiking)
    loihi = {LoihiConv2d, LoihiLIF, LoihiLinear, Quantize, Dequantize}
    assert kinds == {Add, Concat, Delay, Flatten, MaxPool2d, SumPool2d, *loihi}
    assert {"LoihiLIF", "LoihiLinear", "LoihiLinearGraded", "LoihiConv2d"} <= nodes
    assert np.mean([0.01 < rate < 0.99 for rate in rates]) > 0.6
    assert saturated > 3
    assert wrapped > 10


@pytest.mark.parametrize("seed", range(12))
def test_a_host_layer_may_tie_and_loihis_layers_may_not(seed):
    """Float layers are judged with rounding, integer ones without, in one graph."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, on_host=True)
    x = samples(rng, graph, 6)
    ours, theirs = (backends.run(graph, x, name, RECORD) for name in ("reference", "onnxruntime"))
    (rung,) = climb(graph, x, [ours, theirs])
    assert rung.holds
    assert rung.mismatches == 0  # and so no tie either, with these seeds
    last = graph.spiking[-1].name
    off_by_one = {**theirs.v, last: theirs.v[last] + 1}
    (rung,) = climb(graph, x, [ours, replace(theirs, v=off_by_one)])
    assert [layer.layer for layer in rung.layers if not layer.holds] == [last]
    flipped = {**theirs.spikes, last: theirs.spikes[last].copy()}
    flipped[last][0, -1].flat[0] ^= True
    (rung,) = climb(graph, x, [ours, replace(theirs, spikes=flipped)])
    assert not rung.holds
    assert rung.layers[-1].first.tolerance == 0


def test_the_file_shows_lavas_own_parameters(tmp_path):
    weight = np.array([[4, -2, 6]])
    ops = (
        LoihiLinear(name="fc", inputs=("x",), weight=weight, weight_exp=-1),
        LoihiLIF(name="lif", inputs=("fc",), du=4095, dv=409, vth=[3], bias_mant=-1, bias_exp=6),
    )
    graph = SpikingGraph("g", Input("x", (3,), "time_series", 0), ops, Readout("lif", "sum"), 5)
    model = onnx.load(onnx_io.save(graph, tmp_path / "g.onnx"))
    (scan,) = [n for n in model.graph.node if n.op_type == "Scan"]
    body = next(a.g for a in scan.attribute if a.name == "body")
    fc, lif = (next(n for n in body.node if n.name == name) for name in ("fc", "lif"))
    assert {a.name for a in lif.attribute} == {"du", "dv", "vth", "bias_mant", "bias_exp"}
    (stored,) = [onnx.numpy_helper.to_array(i) for i in body.initializer]
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored, weight.T // 2)
    scale = next(a.f for a in fc.attribute if a.name == "scale")
    assert scale == 1.0  # 2 * 2**-1


def test_a_sum_that_float32_cannot_hold_is_read_out_exactly():
    ops = (
        LoihiLinear(name="fc", inputs=("x",), weight=[[255]], sign_mode="excitatory", weight_exp=7),
        LoihiLIF(name="lif", inputs=("fc",), du=4095, dv=0, vth=9),
    )
    graph = SpikingGraph("g", Input("x", (1,), "direct", 8), ops, Readout("fc", "sum"), 4097)
    x = np.array([[253], [255], [-1]])
    exact = 4097 * x * 255 * 128
    assert exact.max() > 2**33
    for name in ("reference", "onnxruntime"):
        np.testing.assert_array_equal(backends.run(graph, x, name).output, exact)
    assert reference.run(graph, x).output.dtype == np.float64
