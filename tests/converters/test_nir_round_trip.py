"""Random networks that NIR can hold: through a .nir file and back they are the same, bit for bit."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmp_deploy import backends
from rmp_deploy.converters.nir import from_nir, to_nir, to_nir_graph
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Linear,
    Op,
    SumPool2d,
)


class Builder:
    """Adds random ops that fit; `value` is the last one's, `shape` its shape."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng, self.value, self.shape = rng, "x", shape
        self.ops: list[Op] = []

    def add(self, kind: type[Op], *inputs: str, **parameters: object) -> str:
        name = f"{'abcdef'[int(self.rng.integers(6))]}{kind.__name__}{len(self.ops)}"  # in no alphabetical order
        if kind is Delay:
            parameters["shape"] = self.shape
        op = kind(name=name, inputs=inputs or (self.value,), **parameters)
        self.ops.append(op)
        self.shape = op.output_shape(*([self.shape] * len(op.inputs)))
        self.value = name
        return name

    def synapse(self, c_out: int) -> str:
        rng, n = self.rng, self.shape[0]
        bias = [None, rng.normal(0.1, 0.3, c_out), np.zeros(c_out)][int(rng.integers(3))]
        axes = len(self.shape) - 1
        groups = 2 if axes and n % 2 == 0 and c_out % 2 == 0 and rng.integers(2) else 1
        weight = rng.normal(size=(c_out, n // groups, *(3,) * axes)) * 1.5 / np.sqrt(n * 3**axes)
        if axes == 0:
            return self.add(Linear, weight=weight, bias=bias)
        dilation = (int(rng.integers(1, 3)),) * axes
        return self.add(
            {1: Conv1d, 2: Conv2d}[axes], weight=weight, bias=bias, padding=dilation, dilation=dilation, groups=groups
        )

    def neuron(self) -> str:
        rng, shape = self.rng, self.shape
        each = [(), (shape[0], *(1,) * (len(shape) - 1)), shape][int(rng.integers(3))]
        decay = [rng.uniform(0.01, 0.999, each), np.ones(each)][int(rng.integers(4) == 0)]
        fire = {"v_threshold": rng.uniform(0.1, 0.8, each), "v_reset": rng.uniform(-0.3, 0.1, each)}
        kind = int(rng.integers(4))
        if kind == 0:
            decays = {"decay": rng.uniform(0.01, 0.999, each), "current_decay": rng.uniform(0.01, 0.8, each)}
            return self.add(CubaLIF, **decays, **fire)
        if kind == 1:
            return self.add(LIF, decay=np.zeros(each), v_threshold=fire["v_threshold"])
        return self.add(LIF, decay=decay, **fire)

    def layer(self) -> None:
        rng = self.rng
        before, shape = self.value, self.shape
        residual = rng.integers(2)
        self.synapse(shape[0] if residual else 2 * int(rng.integers(1, 4)))
        if residual:
            self.add(Add, self.value, before)
        if rng.integers(3) == 0:
            self.gain()
        elif rng.integers(2):
            self.recurrent()
        else:
            self.neuron()
        choice = rng.integers(4)
        if choice == 0:
            self.add(Delay, steps=int(rng.integers(1, 4)))
        elif choice == 1:
            late = self.add(Delay, self.value, steps=1)
            self.add(Add, self.ops[-2].name, late)  # read by the next layer, perhaps as its shortcut too
        elif len(self.shape) == 3 and min(self.shape[1:]) >= 4:
            kind = [AvgPool2d, SumPool2d][int(rng.integers(2))]
            self.add(kind, kernel=(3, 2), stride=(2, 2), padding=(1, 0))

    def gain(self) -> None:
        """A gain and a constant current of its own before leaky neurons."""
        rng, c = self.rng, self.shape[0]
        beta = rng.normal(size=c) / 5
        self.add(BatchNorm, gamma=rng.uniform(0.5, 2, c), beta=beta, mean=np.zeros(c), var=np.ones(c), eps=0.0)
        self.add(LIF, decay=rng.uniform(0.1, 0.9), v_threshold=rng.uniform(0.1, 0.8))

    def recurrent(self) -> None:
        current, shape, at = self.value, self.shape, len(self.ops)
        before = self.add(Delay, "nobody", steps=1)
        self.synapse(shape[0])
        self.add(Add, current, self.value)
        spikes = self.neuron()
        self.ops[at] = Delay(name=before, inputs=(spikes,), steps=1, shape=shape)


def random_graph(rng: np.random.Generator) -> SpikingGraph:
    builder = Builder(rng, [(4, 8, 7), (2, 9), (5,)][int(rng.integers(3))])
    shape = builder.shape
    for _ in range(int(rng.integers(1, 4))):
        builder.layer()
    if not any(isinstance(op, LIF) for op in builder.ops):
        builder.neuron()
    if len(builder.shape) > 1:
        builder.add(Flatten)
    builder.add(Linear, weight=rng.normal(size=(3, builder.shape[0])))
    if rng.integers(2):
        builder.add(LI, decay=[rng.uniform(0.01, 0.99), 1.0][int(rng.integers(2))])
    encoding, rule = str(rng.choice(["direct", "time_series"])), str(rng.choice(["mean", "sum", "last"]))
    dt = float(rng.choice([1e-4, 1e-3, 1.0]))
    return SpikingGraph(
        "random",
        Input("x", shape, encoding),
        tuple(builder.ops),
        Readout(builder.value, rule),
        int(rng.integers(1, 8)),
        dt,
        {"seed": "of the test"},
    )


@pytest.mark.parametrize("rule", ["euler", "exponential"])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_graph_that_nir_can_hold_comes_back_bit_for_bit(rule, seed, tmp_path_factory):
    graph = random_graph(np.random.default_rng(seed))
    path = tmp_path_factory.mktemp("nir") / "net.nir"
    assert from_nir(to_nir(graph, path, rule=rule), graph.dt, rule) == graph


def without_metadata(path, rule, graph):
    """The graph of a reader that ignores what we note beside the network."""
    network = nir.read(path, type_check=False)
    network.metadata = {}
    return from_nir(network, graph.dt, rule, T=graph.T, readout=graph.readout.rule, encoding=graph.input.encoding)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_without_our_metadata_the_dynamics_are_the_same(seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    path = to_nir(graph, tmp_path_factory.mktemp("nir") / "net.nir")
    again = without_metadata(path, "euler", graph)
    steps = () if graph.input.encoding == "direct" else (graph.T,)
    x = rng.normal(0.3, 0.6, (2, *steps, *graph.input.shape))
    a, b = (backends.run(g, x, "reference", ("spikes", "v")) for g in (graph, again))
    assert a.spikes.keys() == b.spikes.keys()
    for layer, spikes in a.spikes.items():
        assert np.array_equal(spikes, b.spikes[layer])
        np.testing.assert_allclose(a.v[layer], b.v[layer], rtol=0, atol=1e-12)  # sums in another order
    np.testing.assert_allclose(a.output, b.output, rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), rule=st.sampled_from(["euler", "exponential"]))
def test_nir_to_ir_to_nir_to_ir_is_the_first_ir(seed, rule, tmp_path_factory):
    """The first IR comes from a file without our metadata, as another tool would write it."""
    graph = random_graph(np.random.default_rng(seed))
    folder = tmp_path_factory.mktemp("nir")
    first = without_metadata(to_nir(graph, folder / "a.nir", rule=rule), rule, graph)
    assert from_nir(to_nir(first, folder / "b.nir", rule=rule), first.dt, rule) == first


def test_the_random_graphs_hold_every_op():
    """Otherwise the tests above would test less than they say; recurrence is written as a bare cycle."""
    kinds: set[type[Op]] = set()
    bare = 0
    for seed in range(60):
        graph = random_graph(np.random.default_rng(seed))
        kinds |= {type(op) for op in graph.ops}
        delays = [n for n in to_nir_graph(graph).nodes.values() if isinstance(n, nir.Delay)]
        bare += len(delays) < len(graph.of_type(Delay))
    assert kinds == {LI, LIF, Add, AvgPool2d, BatchNorm, Conv1d, Conv2d, CubaLIF, Delay, Flatten, Linear, SumPool2d}
    assert bare > 10
