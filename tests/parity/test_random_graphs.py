"""Random graphs of every op (residual, recurrent, delayed, grouped) through the file and on ONNX Runtime."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmp_deploy import backends
from rmp_deploy.analysis.parity import compare
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Linear,
    MaxPool2d,
    Op,
    SumPool2d,
)


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

    def weight(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape) * 1.5 / np.sqrt(np.prod(shape[1:]))

    def synapse(self, c_out: int | None = None, keep: bool = True) -> str:
        """A convolution that keeps the map or strides over it, or a Linear."""
        rng, n = self.rng, self.shape[0]
        c_out = c_out or 2 * int(rng.integers(1, 4))
        bias = rng.normal(0.1, 0.3, c_out) if rng.integers(2) else None
        if len(self.shape) == 1:
            return self.add(Linear, weight=self.weight(c_out, n), bias=bias)
        groups = 2 if n % 2 == 0 and c_out % 2 == 0 and rng.integers(2) else 1
        axes = len(self.shape) - 1
        kind = {1: Conv1d, 2: Conv2d}[axes]
        if keep:
            dilation, kernel = (int(rng.integers(1, 3)),) * axes, (3,) * axes
            options = {"padding": dilation, "dilation": dilation}
        else:  # nothing is the same along both axes
            kernel = (2, 3)[:axes]
            options = {"padding": (1, 2)[:axes], "dilation": (2, 1)[:axes], "stride": (1, 2)[:axes]}
        return self.add(kind, weight=self.weight(c_out, n // groups, *kernel), bias=bias, groups=groups, **options)

    def neuron(self) -> str:
        rng, shape = self.rng, self.shape
        each = [(), (shape[0], *(1,) * (len(shape) - 1)), shape][int(rng.integers(3))]
        fire = {
            "decay": rng.uniform(0, 1, each),
            "v_threshold": rng.uniform(0.1, 0.8, each),
            **[
                {"reset": "hard", "v_reset": rng.uniform(-0.3, 0.1, each)},
                {"reset": "soft"},
                {"reset": "soft", "v_subtract": rng.uniform(0, 0.8, each)},
            ][int(rng.integers(3))],
        }
        if rng.integers(2):
            return self.add(CubaLIF, current_decay=rng.uniform(0, 0.8, each), **fire)
        return self.add(LIF, **fire)

    def layer(self) -> None:
        """Synapse, perhaps a norm, a residual or recurrent current, a neuron, perhaps a delay, a pool or a concat."""
        rng = self.rng
        before, shape = self.value, self.shape
        same = rng.integers(2)
        self.synapse(shape[0] if same else None, keep=bool(same or rng.integers(2)))
        if rng.integers(3) == 0:
            c = self.shape[0]
            norm = {k: rng.uniform(0.5, 1.5, c) for k in ("gamma", "var")}
            self.add(BatchNorm, beta=rng.normal(size=c) / 5, mean=rng.normal(size=c) / 5, eps=1e-5, **norm)
        if same:
            self.add(Add, self.value, before, shape=self.shape)
        if rng.integers(2):
            self.recurrent()
        else:
            self.neuron()
        choice = rng.integers(5)
        if choice == 0:
            self.add(Delay, steps=int(rng.integers(1, 4)), shape=self.shape)
        elif choice == 1:
            spikes = self.value
            late = self.add(Delay, steps=1, shape=self.shape)
            doubled = (2 * self.shape[0], *self.shape[1:])
            self.add(Concat, spikes, late, shape=doubled)
        elif len(self.shape) == 3 and min(self.shape[1:]) >= 4 and choice < 5:
            pool = [AvgPool2d, SumPool2d, MaxPool2d][int(rng.integers(3))]
            self.add(pool, kernel=(3, 2), stride=(2, 2), padding=(1, 0))

    def recurrent(self) -> None:
        """current + own synapse * spikes[t - steps]: the Delay reads a neuron that stands after it."""
        rng, current, shape = self.rng, self.value, self.shape
        at = len(self.ops)
        steps = int(rng.integers(1, 3))
        before = self.add(Delay, "nobody", steps=steps, shape=shape)
        self.shape = shape
        self.synapse(shape[0])
        self.add(Add, current, self.value, shape=shape)
        spikes = self.neuron()
        self.ops[at] = Delay(name=before, inputs=(spikes,), steps=steps, shape=shape)


def random_graph(rng: np.random.Generator) -> SpikingGraph:
    shape = [(3, 8, 7), (2, 9), (5,)][int(rng.integers(3))]
    builder = Builder(rng, shape)
    for _ in range(int(rng.integers(1, 4))):
        builder.layer()
    if len(builder.shape) > 1:
        builder.add(Flatten)
    builder.add(Linear, weight=builder.weight(3, builder.shape[0]))
    if rng.integers(2):
        builder.add(LI, decay=rng.uniform(0, 1))
    encoding = str(rng.choice(["direct", "time_series"]))
    readout = Readout(builder.value, str(rng.choice(["mean", "sum", "last"])))
    dt = 1e-3 if rng.integers(2) else None
    return SpikingGraph("random", Input("x", shape, encoding), tuple(builder.ops), readout, int(rng.integers(1, 8)), dt)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_random_graphs_through_the_file_and_onnx_runtime(seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    steps = () if graph.input.encoding == "direct" else (graph.T,)
    x = rng.normal(0.3, 0.6, (4, *steps, *graph.input.shape)).astype(np.float32)
    loaded = onnx_io.load(onnx_io.save(graph, tmp_path_factory.mktemp("random") / "net.onnx"))
    assert loaded == graph
    exact = backends.run(graph, x, "reference", ("spikes", "u", "v"))
    rung = compare(graph, x, exact, backends.run(loaded, x, "onnxruntime", ("spikes", "v", "u")))
    assert rung.holds, rung
    if rung.mismatches == 0:
        assert all(row.max_v_error < 1e-4 for row in rung.layers)
        assert rung.max_output_error < 1e-3


def features(graph: SpikingGraph) -> set[str]:
    """What a graph has besides kinds of ops."""
    at = {op.name: i for i, op in enumerate(graph.ops)}
    convolutions = graph.of_type(Conv1d, Conv2d)
    delays = graph.of_type(Delay)
    neurons = graph.of_type(LIF)
    passed_on = {
        graph.input.name,
        *(op.name for op in graph.of_type(LIF, Delay, Concat, MaxPool2d, AvgPool2d, SumPool2d)),
    }
    found = {
        "groups": any(op.groups > 1 for op in convolutions),
        "depthwise": any(op.groups == op.weight.shape[0] > 1 for op in convolutions),
        "stride": any(max(op.stride) > 1 for op in convolutions),
        "dilation": any(max(op.dilation) > 1 for op in convolutions),
        "delay": any(op.steps > 1 for op in delays),
        "recurrent": any(at[op.inputs[0]] > at[op.name] for op in delays),
        "slowly recurrent": any(at[op.inputs[0]] > at[op.name] and op.steps > 1 for op in delays),
        "residual": any(passed_on & set(op.inputs) for op in graph.of_type(Add)),
        "per neuron": any(op.v_threshold.shape == graph.shapes[op.name] for op in neurons),
        "soft reset of its own": any(op.v_subtract is not None for op in neurons),
    }
    return {name for name, there in found.items() if there}


def test_the_random_graphs_hold_every_op():
    """Otherwise the test above would test less than it says; most layers fire, and not always."""
    kinds: set[type[Op]] = set()
    seen: set[str] = set()
    rates: list[float] = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        kinds |= {type(op) for op in graph.ops}
        seen |= features(graph)
        steps = () if graph.input.encoding == "direct" else (graph.T,)
        x = rng.normal(0.3, 0.6, (2, *steps, *graph.input.shape))
        rates += [float(s.mean()) for s in backends.run(graph, x, "reference", ("spikes",)).spikes.values()]
    wanted = {LI, LIF, Add, AvgPool2d, BatchNorm, Concat, Conv1d, Conv2d, CubaLIF, Delay, Flatten, Linear, MaxPool2d}
    assert kinds == wanted | {SumPool2d}
    assert np.mean([0.01 < rate < 0.99 for rate in rates]) > 0.8
    assert seen == {
        "groups",
        "depthwise",
        "stride",
        "dilation",
        "delay",
        "recurrent",
        "slowly recurrent",
        "residual",
        "per neuron",
        "soft reset of its own",
    }
