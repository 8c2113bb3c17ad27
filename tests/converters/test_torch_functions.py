"""Functions in a forward: residual sums, concatenations, shapes, readouts: torch's numbers, or a refusal by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmp_deploy.converters.torch_layers import LAYERS
from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
from rmp_deploy.converters.torch_trace import Dialect, trace
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, AvgPool2d, Concat
from rmp_deploy.training import neurons
from rmp_deploy.training.models import DirectEncoding, MeanOverTime, TimeDistributed

SHAPE = (2, 6, 6)


def step_graph(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> SpikingGraph:
    """A graph of one step that computes the module, behind neurons that pass on what is not 0 or below."""
    traced = trace(model.eval(), shape, Dialect(LAYERS))
    relay = LIF(name="relay", inputs=("x",), decay=0.0, v_threshold=0.5)
    return SpikingGraph("g", Input("x", shape, "direct"), (relay, *traced.ops), Readout(traced.value, "sum"), 1)


class Step(nn.Module):
    """One step with shared layers for the functions to stand between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 3, padding="same")
        self.c, self.b2 = nn.Conv2d(3, 3, 1), nn.Conv2d(2, 2, 1)
        self.fc = nn.Linear(3 * 6 * 6, 4)
        self.drop = nn.Dropout(0.5)


def returns(body):
    """A module whose forward is `body`."""
    return type("Returns", (Step,), {"forward": body})


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.a(x) + m.b(x),
        lambda m, x: torch.add(m.a(x), m.b(x)).add(m.a(x)),
        lambda m, x: m.c(m.a(x)) + m.c(m.b(x)),  # a layer without state twice
        lambda m, x: torch.cat([m.a(x), x, m.b(x)], dim=1),
        lambda m, x: torch.concat((m.a(x), x), -3),
        lambda m, x: m.fc(torch.flatten(m.a(x), 1)),
        lambda m, x: m.fc(m.a(x).flatten(start_dim=1)),
        lambda m, x: m.fc(m.a(x).view(x.size(0), -1)),
        lambda m, x: m.fc(m.a(x).reshape(-1, 108)),
        lambda m, x: m.fc(m.a(x).contiguous().view(x.shape[0], 3 * 36)),
        lambda m, x: F.avg_pool2d(m.a(x), 2),
        lambda m, x: F.avg_pool2d(m.a(x), 3, stride=2, padding=1),
        lambda m, x: F.adaptive_avg_pool2d(m.a(x), (3, 2)),
        lambda m, x: F.adaptive_avg_pool2d(m.a(x), 1).flatten(1),
        lambda m, x: m.a(x).mean(dim=(2, 3)),
        lambda m, x: m.a(x).mean([-2, -1], keepdim=True),
        lambda m, x: F.dropout(m.a(x), 0.5, m.training),
        lambda m, x: F.dropout2d(m.drop(m.a(x)), training=m.training),
    ],
)
def test_a_step_computes_what_torch_computes(body):
    model = returns(body)()
    graph = step_graph(model)
    x = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).flatten(1).numpy()
    np.testing.assert_allclose(reference.run(graph, x).output, wanted, atol=1e-5)


def test_in_place_sums_are_sums_where_nobody_sees_the_difference():
    def fits(m, x):
        y = m.a(x)
        y += m.b(x)
        return y

    def in_place(m, x):
        return m.a(x).add_(m.b(x))

    for body in (fits, in_place):
        model = returns(body)()
        x = torch.rand(2, *SHAPE)
        found = reference.run(step_graph(model), x.numpy()).output
        np.testing.assert_allclose(found, model(x).detach().flatten(1).numpy(), atol=1e-5)


def kept_alive(m, x):
    y = m.a(x)
    z = y.flatten(1)
    y += m.b(x)
    return m.fc(z)  # torch: of the sum


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (kept_alive, "Returns: function 'iadd' in place changes a value that is used elsewhere, allowed a + b"),
        (lambda m, x: x.add_(m.b2(x)), "function 'add_' in place changes a value that is used elsewhere"),
        (lambda m, x: m.a(x) + 1, "function 'add' of 1, allowed values of the network"),
        (lambda m, x: torch.add(m.a(x), m.b(x), alpha=2), "with alpha = 2, allowed 1"),
        (lambda m, x: m.a(x) * m.b(x), "function 'mul' has no op in the IR"),
        (lambda m, x: torch.cat([m.a(x), m.b(x)], 2), "function 'cat' along dim = 2, allowed 1"),
        (lambda m, x: m.a(x).flatten(), "function 'flatten' of dims 0..-1, allowed 1..-1"),
        (lambda m, x: m.a(x).view(-1, 9), "function 'view' to (-1, 9) of a sample (3, 6, 6)"),
        (lambda m, x: m.a(x).view(x.shape[0], 6, 3, 6), "to (size, 6, 3, 6)"),
        (lambda m, x: F.dropout(m.a(x)), "function 'dropout' with training = True"),
        (lambda m, x: F.adaptive_avg_pool2d(m.a(x), 4), "output_size = 4 of a value (3, 6, 6)"),
        (lambda m, x: m.a(x).mean(0), "function 'mean' over dim = 0"),
        (lambda m, x: m.a(x)[-1], "function 'getitem' [-1]"),
        (lambda m, x: m.a(x) + m.fc.bias, "function 'bias' has no op in the IR"),
        (lambda m, x: (m.a(x), m.b(x)), "returns tuple"),
        (lambda m, x: m.a(x).sum(1, dtype=torch.float64), "function 'sum' has other arguments"),
    ],
)
def test_what_has_no_op_is_named_by_function_and_module(body, said):
    with pytest.raises(RmpDeployError) as e:
        trace(returns(body)(), SHAPE, Dialect(LAYERS))
    assert said in str(e.value)
    assert "\n" not in str(e.value)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.spike = TimeDistributed(nn.Conv2d(2, 2, 3, padding=1)), neurons.LIF(0.5, 0.1)
        self.bad = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x
        spikes: Tensor = self.spike(y)
        return torch.relu(spikes) if self.bad else spikes


class Net(nn.Module):
    """Sequences [T, B, ...]: blocks, a concatenation over channels, a readout that the forward computes itself."""

    def __init__(self, rule: str = "mean", encode: str = "repeat") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rule, self.encode = rule, encode
        self.first, self.blocks = neurons.IF(0.4), nn.ModuleList([Block(), Block()])
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.encode == "repeat":
            x = x.unsqueeze(0).repeat(3, 1, 1, 1, 1)
        elif self.encode == "expand":
            x = x.unsqueeze(0).expand((3, -1, -1, -1, -1))
        x = self.first(x)
        for block in self.blocks:
            y, x = x, block(x)
        currents = self.fc(torch.cat([x, y], dim=2).flatten(2))
        return {"mean": lambda: currents.mean(0), "sum": lambda: currents.sum(dim=0), "last": lambda: currents[-1]}[
            self.rule
        ]()


@pytest.mark.parametrize("encode", ["repeat", "expand", "given"])
@pytest.mark.parametrize("rule", ["mean", "sum", "last"])
def test_sequences_are_encoded_joined_and_read_out(rule, encode):
    model = Net(rule, encode).eval()
    graph = to_graph(model, SHAPE, T=3 if encode == "given" else None)
    assert [op.name for op in graph.ops] == [
        "first", "blocks.0.conv", "blocks.0.add", "blocks.0.spike", "blocks.1.conv", "blocks.1.add", "blocks.1.spike",
        "cat", "flatten", "fc",
    ]  # fmt: skip
    assert (graph.readout, graph.T) == (Readout("fc", rule), 3)
    x = np.random.default_rng(0).random((4, *((3,) if encode == "given" else ()), *SHAPE), dtype=np.float32)
    found = reference.run(graph, x, ("spikes", "u", "v"))
    with torch.no_grad():
        inputs = torch.from_numpy(x)
        wanted = model(inputs.transpose(0, 1) if encode == "given" else inputs)
    np.testing.assert_allclose(found.output, wanted.numpy(), atol=1e-5)
    traced = trace_torch(model, x, graph.input.encoding)
    np.testing.assert_array_equal(traced.output, wanted.numpy())
    for name, spikes in found.spikes.items():
        np.testing.assert_array_equal(traced.spikes[name], spikes)
        np.testing.assert_allclose(traced.v[name], found.v[name], atol=1e-5)


@pytest.mark.parametrize(
    "repeated",
    [
        lambda x: x.unsqueeze(0).repeat(3, 2, 1, 1, 1),
        lambda x: x.unsqueeze(0).repeat(3, 1, 1, 1, 2),
        lambda x: x.unsqueeze(0).expand(3, 4, -1, -1, -1),
    ],
)
def test_only_time_is_repeated(repeated):
    class Repeats(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(repeated(x)).mean(0)

    with pytest.raises(RmpDeployError, match=r"T, then -?1 for the other axes. Repeat over time alone"):
        to_graph(Repeats(), SHAPE)


def test_a_mean_over_time_is_not_joined_with_a_sequence():
    """In torch it broadcasts: the mean, added at every step."""

    class Mixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            spikes = self.first(x.unsqueeze(0).repeat(3, 1, 1, 1, 1))
            return (spikes + spikes.mean(0)).mean(0)

    with pytest.raises(RmpDeployError, match="function 'add' after the readout, allowed the readout last"):
        to_graph(Mixed(), SHAPE)


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=2, padding=1)


def test_max_pooling_of_spikes_keeps_its_stride_and_padding():
    torch.manual_seed(0)
    layers = (neurons.IF(0.7), TimeDistributed(Pool()), nn.Flatten(2), nn.Linear(2 * 3 * 3, 4), MeanOverTime())
    model = nn.Sequential(DirectEncoding(3), *layers).eval()
    x = np.random.default_rng(0).random((8, *SHAPE), dtype=np.float32)
    found = reference.run(to_graph(model, SHAPE), x)
    with torch.no_grad():
        np.testing.assert_allclose(found.output, model(torch.from_numpy(x)).numpy(), atol=1e-6)


def test_a_layer_with_a_forward_of_its_own_is_refused():
    model = returns(lambda m, x: m.a(x))()
    conv = model.a.forward
    model.a.forward = lambda x: 2 * conv(x)
    with pytest.raises(RmpDeployError, match="Conv2d 'a': has a forward of its own, allowed that of its type"):
        trace(model, SHAPE, Dialect(LAYERS))


def test_a_function_is_named_by_the_module_that_calls_it():
    model = Net()
    model.blocks[1].bad = True
    with pytest.raises(RmpDeployError, match=r"Block 'blocks.1': function 'relu' has no op in the IR"):
        to_graph(model, SHAPE)


def test_neurons_may_be_called_once():
    model = Net()
    model.blocks[1].spike = model.blocks[0].spike
    with pytest.raises(RmpDeployError, match=r"LIF 'blocks.0.spike': called twice, allowed once: it has one state"):
        to_graph(model, SHAPE)


def test_every_training_neuron_becomes_its_op():
    layers = [
        DirectEncoding(4),
        TimeDistributed(nn.Conv1d(2, 4, 3, groups=2)),
        neurons.CubaLIF(0.3, 0.6, 0.2, reset="soft"),
        nn.Flatten(2),
        nn.Linear(28, 6),
        neurons.IF(0.3, v_reset=-0.1),
        nn.Linear(6, 5),
        neurons.LIF(torch.full((5,), 0.7), 0.2, learn_decay=True),
        nn.Linear(5, 3),
        neurons.LI(0.8),
    ]
    torch.manual_seed(2)

    class Last(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[-1]

    model = Last(*layers)
    x = np.random.default_rng(0).normal(size=(8, 2, 9)).astype(np.float32)
    graph = to_graph(model, (2, 9))
    assert [op.kind for op in graph.ops] == [
        "Conv1d", "CubaLIF", "Flatten", "Linear", "LIF", "Linear", "LIF", "Linear", "LI",
    ]  # fmt: skip
    wanted, found = trace_torch(model, x, "direct"), reference.run(graph, x, ("spikes", "v"))
    for name, spikes in wanted.spikes.items():
        assert 0.02 < spikes.mean() < 0.98
        np.testing.assert_array_equal(found.spikes[name], spikes)
        np.testing.assert_allclose(found.v[name], wanted.v[name], atol=1e-5)
    np.testing.assert_allclose(found.output, wanted.output, atol=1e-5)


def test_ops_of_functions_do_not_take_the_names_of_modules():
    class Clash(Step):
        def __init__(self) -> None:
            super().__init__()
            self.add = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.add(self.a(x) + self.b(x))

    traced = trace(Clash(), SHAPE, Dialect(LAYERS))
    assert [op.name for op in traced.ops] == ["a", "b", "add-2", "add"]
    assert isinstance(traced.ops[2], Add)
    assert traced.value == "add"


def test_tracing_restores_each_modules_mode():
    model = Net().train()
    model.blocks[0].eval()
    to_graph(model, SHAPE)
    assert (model.training, model.blocks[0].training, model.blocks[1].training) == (True, False, True)


def test_channels_are_joined_and_pools_keep_their_padding():
    class Joined(Step):
        def forward(self, x: Tensor) -> Tensor:
            return F.avg_pool2d(torch.cat([self.a(x), x], 1), 4, 2, 2)

    concat, pool = trace(Joined(), SHAPE, Dialect(LAYERS)).ops[-2:]
    assert isinstance(concat, Concat)
    assert pool == AvgPool2d(name="avg_pool2d", inputs=("cat",), kernel=(4, 4), stride=(2, 2), padding=(2, 2))
