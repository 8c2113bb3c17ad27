"""SpikingJelly -> SpikingGraph: its own forward against the reference and ONNX Runtime, spike by spike; refusals."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("spikingjelly", reason="SpikingJelly 2.0.0 needs Python >= 3.11")

from spikingjelly.activation_based import functional, layer, neuron, surrogate

from rmp_deploy import backends
from rmp_deploy.converters.spikingjelly import to_graph
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.ops import LIF, AvgPool2d, CubaLIF
from rmp_deploy.ir.reference import read_out
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm

T = 16


def run(model, x, graph):
    """SpikingJelly's own forward from `reset_net` on, spikes of every neuron layer recorded."""
    calls: dict[str, list[torch.Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _x, s, path=path: calls.setdefault(path, []).append(s))
        for path, module in model.named_modules()
        if isinstance(module, neuron.BaseNode)
    ]
    samples = torch.from_numpy(x)
    series = graph.input.encoding == "time_series"
    steps = samples.transpose(0, 1) if series else samples.expand(graph.T, *samples.shape)
    functional.reset_net(model)
    with torch.no_grad():
        if isinstance(model, ReadsOut):
            output = model(samples)
        elif any(getattr(m, "step_mode", "s") == "m" for m in model.modules()):
            output = model(steps)
        else:
            output = torch.stack([model(step) for step in steps])
    for hook in hooks:
        hook.remove()
    if not isinstance(model, ReadsOut):
        output = torch.from_numpy(read_out(graph.readout, output.double().numpy()))
    by_layer = {path: s[0] if len(s) == 1 else torch.stack(s) for path, s in calls.items()}
    spikes = {path: s.transpose(0, 1).numpy() > 0 for path, s in by_layer.items()}
    return Trace(backend="spikingjelly", output=output.numpy(), spikes=spikes)


def conv_net(make, mode="m"):
    """Every layer of one step that SpikingJelly shares with the IR, three layers of neurons."""
    net = nn.Sequential(
        OrderedDict(
            conv1=layer.Conv2d(2, 6, (3, 2), padding=(2, 1), dilation=(2, 1), bias=False),
            bn1=layer.BatchNorm2d(6),
            sn1=make(),
            pool1=layer.MaxPool2d(2),
            conv2=layer.Conv2d(6, 8, 3, padding="same", groups=2),
            sn2=make(),
            pool2=layer.AvgPool2d(2),
            flat=layer.Flatten(),
            drop=layer.Dropout(0.3),
            fc1=layer.Linear(32, 24),
            bn3=layer.BatchNorm1d(24, affine=False),
            sn3=make(),
            fc2=layer.Linear(24, 10),
        )
    )
    functional.set_step_mode(net, mode)
    return net


NEURONS = {
    "LIFNode()": neuron.LIFNode,
    "LIFNode tau, hard": lambda: neuron.LIFNode(tau=3.3),
    "LIFNode soft": lambda: neuron.LIFNode(tau=1.7, v_reset=None, v_threshold=0.6),
    "LIFNode input undecayed": lambda: neuron.LIFNode(tau=2.7, decay_input=False, v_threshold=1.9),
    "LIFNode input undecayed, soft": lambda: neuron.LIFNode(tau=4.1, decay_input=False, v_reset=None, v_threshold=2.2),
    "LIFNode v_reset < 0": lambda: neuron.LIFNode(v_reset=-0.37, v_threshold=0.51),
    "LIFNode v_reset > 0": lambda: neuron.LIFNode(tau=2.3, decay_input=False, v_reset=0.21, v_threshold=1.7),
    "IFNode hard": lambda: neuron.IFNode(v_threshold=2.3),
    "IFNode soft": lambda: neuron.IFNode(v_reset=None, v_threshold=1.9),
    "IFNode v_reset": lambda: neuron.IFNode(v_reset=0.43, v_threshold=2.1),
    "ParametricLIFNode": lambda: neuron.ParametricLIFNode(init_tau=2.6),
    "ParametricLIFNode soft": lambda: neuron.ParametricLIFNode(init_tau=3.1, v_reset=None, v_threshold=0.7),
    "ParametricLIFNode undecayed": lambda: neuron.ParametricLIFNode(decay_input=False, v_reset=-0.2, v_threshold=1.3),
    "CUBALIFNode()": neuron.CUBALIFNode,
    "CUBALIFNode soft": lambda: neuron.CUBALIFNode(c_decay=0.3, v_decay=0.6, v_threshold=2.3, v_reset=None),
    "another surrogate": lambda: neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True),
}


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("make", NEURONS.values(), ids=NEURONS)
def test_every_neuron_gives_the_same_spikes(make, mode, lively, samples, same_network):
    model = lively(conv_net(make, mode), gain=4)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8), T, readout="mean")
    assert graph.input.encoding == "direct"
    same_network(fold_batchnorm(graph), x, run(model, x, graph))


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_time_series_of_spikes_through_1d_convolutions(mode, lively, same_network):
    net = nn.Sequential(
        layer.Conv1d(3, 5, 3, stride=2, padding=1),
        layer.BatchNorm1d(5),
        neuron.LIFNode(),
        layer.Flatten(),
        layer.Linear(30, 8),
        neuron.IFNode(v_reset=None),
    )
    functional.set_step_mode(net, mode)
    lively(net, gain=3)
    x = np.random.default_rng(2).integers(0, 2, (16, T, 3, 12)).astype(np.float32)
    graph = to_graph(net, (3, 12), T, encoding="time_series", readout="sum", name="events")
    assert (graph.name, graph.input.encoding, graph.readout.rule) == ("events", "time_series", "sum")
    same_network(graph, x, run(net, x, graph))


class Block(nn.Module):
    """The residual block of spiking ResNets."""

    def __init__(self, channels):
        super().__init__()
        self.conv = layer.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = layer.ThresholdDependentBatchNorm2d(1.0, 1.0, channels)
        self.sn = neuron.ParametricLIFNode(v_reset=None)

    def forward(self, x):
        out = self.bn(self.conv(x))
        out += x
        return self.sn(out)


class ReadsOut(nn.Module):
    """A user's own module: it repeats a sample over time and returns firing rates."""

    def __init__(self, n=T):
        super().__init__()
        self.n = n
        self.stem = nn.Sequential(layer.Conv2d(2, 6, 3, padding=1), layer.BatchNorm2d(6), neuron.LIFNode())
        self.block = Block(6)
        self.pool = layer.AdaptiveAvgPool2d((2, 4))
        self.head = nn.Sequential(layer.Flatten(), layer.Linear(48, 5), neuron.IFNode())
        functional.set_step_mode(self, "m")

    def forward(self, x):
        x = x.unsqueeze(0).repeat(self.n, 1, 1, 1, 1)
        return self.head(self.pool(self.block(self.stem(x)))).mean(0)


def test_a_module_of_ones_own_with_a_residual_block_that_repeats_its_input_and_reads_out(lively, samples, same_network):
    model = lively(ReadsOut(), gain=3)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8))
    assert (graph.T, graph.input.encoding, graph.readout.rule) == (T, "direct", "mean")
    assert graph.of_type(AvgPool2d)[0].kernel == (4, 2)
    assert [op.name for op in graph.of_type(LIF)] == ["stem.2", "block.sn", "head.2"]
    same_network(graph, x, run(model, x, graph))


def test_containers_apply_their_layers_step_by_step(lively, samples, same_network):
    def inner(*layers):
        return OrderedDict((f"layer{i}", part) for i, part in enumerate(layers))

    model = nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)),
        neuron.LIFNode(step_mode="m"),
        layer.MultiStepContainer(layer.Conv2d(6, 4, 3), neuron.IFNode(v_reset=None), nn.AvgPool2d(2), nn.Flatten()),
        layer.StepModeContainer(False, "m", nn.Linear(36, 12)),
        layer.StepModeContainer(True, "m", neuron.LIFNode(v_reset=None), nn.Linear(12, 5)),
    )
    lively(model, gain=4)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8), T, readout="last")
    assert [op.name for op in graph.of_type(LIF)] == ["1", "2.1", "4.0"]
    same_network(graph, x, run(model, x, graph))


@pytest.mark.parametrize("container", [layer.SeqToANNContainer, layer.MultiStepContainer])
def test_a_layer_that_stands_twice_in_a_container_is_applied_twice(container, lively, samples, same_network):
    conv = nn.Conv2d(2, 2, 3, padding=1)
    model = lively(nn.Sequential(container(conv, conv), neuron.LIFNode(step_mode="m")), gain=3)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8), T, readout="last")
    assert [op.name for op in graph.ops] == ["0.0", "0.0-2", "1"]
    same_network(graph, x, run(model, x, graph))


def test_a_neuron_that_stands_in_two_containers_has_one_state():
    lif = neuron.LIFNode()
    containers = [layer.MultiStepContainer(nn.Linear(8, 8), lif) for _ in range(2)]
    with pytest.raises(RmpDeployError, match=r"LIFNode '1\.1': called twice, allowed once: it has one state"):
        to_graph(nn.Sequential(*containers), (8,), T, readout="mean")


class ResetsItself(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.fc, self.lif, self.seen = layer.Linear(8, 8), neuron.LIFNode(), []
        self.register_buffer("calls", torch.zeros(()))
        functional.set_step_mode(self, mode)

    def forward(self, x):
        functional.reset_net(self)
        return self.lif(self.fc(x))


class SetsV(ResetsItself):
    def forward(self, x):
        spikes = self.lif(self.fc(x))
        self.lif.v = 0.0
        return spikes


class Records(ResetsItself):
    def forward(self, x):
        spikes = super().forward(x)
        self.seen.append(spikes)
        self.calls += 1
        return spikes


@pytest.mark.parametrize("kind", [ResetsItself, SetsV])
def test_a_step_leaves_the_neurons_alone(kind):
    with pytest.raises(RmpDeployError, match="LIFNode 'lif': 'v' changed by the forward of every step"):
        to_graph(kind("s"), (8,), T, readout="mean")


def test_a_sequence_may_begin_with_a_reset_and_what_it_records_is_taken_back(lively, samples, same_network):
    model = lively(Records("m"), gain=3)
    seen, calls = model.seen, model.calls
    x = samples(8)
    graph = to_graph(model, (8,), T, readout="mean")
    assert model.seen is seen
    assert model.calls is calls
    assert (seen, calls.item()) == ([], 0)
    same_network(graph, x, run(model, x, graph))


@pytest.mark.parametrize("v_reset", [0.0, None, -1.0])
def test_neurons_fire_at_equality_as_in_spikingjelly(v_reset):
    """Multiples of 1/4 add up without rounding: every step where u is the threshold itself counts."""
    model = nn.Sequential(layer.Linear(4, 8, bias=False), neuron.IFNode(v_reset=v_reset, v_threshold=1.0))
    weight = np.random.default_rng(3).integers(-1, 3, (8, 4)) / 4
    model[0].weight.data = torch.from_numpy(weight.astype(np.float32))
    x = np.random.default_rng(4).integers(0, 2, (64, T, 4)).astype(np.float32)
    graph = to_graph(model, (4,), T, encoding="time_series", readout="sum")
    wanted = run(model, x, graph)
    for backend in ("reference", "onnxruntime"):
        found = backends.run(graph, x, backend, ("spikes", "u"))
        np.testing.assert_array_equal(found.spikes["1"], wanted.spikes["1"])
        np.testing.assert_array_equal(found.output, wanted.output)
        rest = v_reset or 0.0
        assert (found.u["1"] + rest == 1.0).mean() > 0.03
        assert wanted.spikes["1"][found.u["1"] + rest == 1.0].all()


def test_the_weights_stay_as_trained_and_the_gain_scales_the_potential():
    model = nn.Sequential(layer.Linear(4, 3), neuron.LIFNode(tau=2.0, v_threshold=0.7, v_reset=None))
    linear, lif = to_graph(model, (4,), T, readout="mean").ops
    np.testing.assert_array_equal(linear.weight, model[0].weight.detach().numpy())
    assert (lif.decay, lif.subtracted) == (0.5, np.float32(1.4))
    assert lif.v_threshold == np.nextafter(np.float32(1.4), np.float32(0))


def test_the_default_neuron_is_not_its_nir_export():
    """SpikingJelly's own NIR formulas give LIFNode(tau=2) a decay of 0 where dt is tau / r; here it is 1/2."""
    (lif,) = to_graph(nn.Sequential(neuron.LIFNode()), (4,), T, readout="mean").ops
    assert lif.decay == 0.5
    assert lif.reset == "hard"


MUTATIONS = {
    "decay": lambda op: replace(op, decay=0.98 * op.decay),
    "threshold": lambda op: replace(op, v_threshold=1.01 * op.v_threshold),
    "hard instead of soft": lambda op: replace(op, reset="hard", v_subtract=None),
    "subtracts too little": lambda op: replace(op, v_subtract=0.98 * op.subtracted),
    "current": lambda op: CubaLIF(
        name=op.name, inputs=op.inputs, decay=op.decay, v_threshold=op.v_threshold, v_subtract=op.v_subtract,
        reset="soft", current_decay=0.02,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_another_rule_than_the_neurons_is_found(mutate, lively, samples, rungs):
    model = lively(conv_net(NEURONS["LIFNode soft"]), gain=4)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8), T, readout="mean")
    wrong = replace(graph, ops=tuple(mutate(op) if op.name == "sn2" else op for op in graph.ops))
    assert rungs(graph, x, run(model, x, graph))[0].holds
    rung = rungs(wrong, x, run(model, x, wrong))[0]
    assert [layer.layer for layer in rung.layers if not layer.holds] == ["sn2"]


def with_start(node, v):
    node.set_reset_value("v", v)
    return node


def with_threshold(node, v_threshold):
    node.v_threshold = v_threshold
    return node


def with_v_reset(node, v_reset):
    node.v_reset = v_reset
    return node


class Own(neuron.LIFNode):
    """A subclass may compute anything."""


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([with_v_reset(neuron.LIFNode(), torch.zeros(8))], "LIFNode '1': v_reset is of type Tensor"),
        ([nn.Linear(8, 8, device="meta"), neuron.IFNode()], "Linear '1': weight is on device 'meta'"),
        ([nn.LazyLinear(8), neuron.IFNode()], "LazyLinear '1': has no weights yet"),
        ([neuron.QIFNode()], "QIFNode '1': no such op in the IR"),
        ([neuron.EIFNode()], "EIFNode '1': no such op in the IR"),
        ([neuron.IzhikevichNode()], "IzhikevichNode '1': no such op in the IR"),
        ([neuron.KLIFNode()], "KLIFNode '1': no such op in the IR"),
        ([neuron.HalfThresholdIFNode()], "HalfThresholdIFNode '1': no such op in the IR"),
        ([neuron.ILIFNode()], "ILIFNode '1': no such op in the IR"),
        ([neuron.TernaryIFNode()], "TernaryIFNode '1': no such op in the IR"),
        ([neuron.SimpleIFNode()], "SimpleIFNode '1': no such op in the IR"),
        ([Own()], "Own '1': no such op in the IR"),
        ([layer.SynapseFilter()], "SynapseFilter '1': no such op in the IR"),
        ([layer.VotingLayer()], "VotingLayer '1': no such op in the IR"),
        ([layer.WSLinear(8, 8)], "WSLinear '1': no such op in the IR"),
        ([layer.LinearRecurrentContainer(neuron.IFNode(), 8, 8)], "LinearRecurrentContainer '1': no such op in the IR"),
        ([neuron.LIFNode(step_mode="m"), layer.Flatten()], "Flatten '2': step_mode = 's', allowed 'm'"),
        ([layer.SeqToANNContainer(nn.Linear(8, 8)), neuron.LIFNode()], "LIFNode '2': step_mode = 's', allowed 'm'"),
        ([layer.SeqToANNContainer(nn.Linear(8, 8), neuron.IFNode())], "IFNode '1': inside SeqToANNContainer"),
        (
            [layer.StepModeContainer(True, "s", neuron.IFNode()), neuron.IFNode(step_mode="m")],
            "StepModeContainer: step_mode = 's', allowed 'm'",
        ),
        ([neuron.CUBALIFNode(v_reset=0.1)], "CUBALIFNode '1': v_reset = 0.1"),
        ([with_start(neuron.LIFNode(), 0.5)], "LIFNode '1': v before the first step = 0.5"),
        ([with_threshold(neuron.LIFNode(), torch.ones(8))], "LIFNode '1': v_threshold is of type Tensor"),
        ([neuron.IFNode(surrogate_function=surrogate.PoissonPass())], "surrogate_function = PoissonPass(spiking=True)"),
        ([neuron.IFNode(surrogate_function=surrogate.Sigmoid(spiking=False))], "Sigmoid(spiking=False)"),
        ([neuron.IFNode(surrogate_function=torch.relu)], "surrogate_function = builtin_function_or_method"),
        ([layer.BatchNorm1d(8, track_running_stats=False), neuron.IFNode()], "track_running_stats = False"),
        ([neuron.LIFNode(), layer.MaxPool2d(2, ceil_mode=True)], "MaxPool2d '2': ceil_mode = True"),
    ],
)
def test_what_the_ir_cannot_carry_is_named(layers, said):
    with pytest.raises(RmpDeployError) as e:
        to_graph(nn.Sequential(layer.Linear(8, 8), *layers), (8,), T, readout="mean")
    assert said in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"T": 4}, "T = 4 given twice, 16 in the model"),
        ({"readout": "sum"}, "readout = 'sum' given twice, 'mean' in the model"),
        ({"encoding": "time_series"}, "encoding = 'time_series', allowed 'direct'"),
    ],
)
def test_what_the_model_says_itself_is_not_said_again(options, said):
    with pytest.raises(RmpDeployError) as e:
        to_graph(ReadsOut(), (2, 8, 8), **options)
    assert said in str(e.value)


@pytest.mark.parametrize("wrong", [{"T": 4.0}, {"T": True}, {"T": "4"}, {"shape": 8}, {"shape": (8.0,)}])
def test_steps_and_sizes_are_whole_numbers(wrong):
    model = nn.Sequential(layer.Linear(8, 8), neuron.LIFNode())
    with pytest.raises(RmpDeployError, match="whole number"):
        to_graph(model, wrong.get("shape", (8,)), wrong.get("T", T), readout="mean")


def test_a_pool_that_keeps_the_size_and_a_norm_without_bias(lively, samples, same_network):
    norm = nn.BatchNorm1d(18, bias=False)
    model = nn.Sequential(
        layer.Conv2d(2, 2, 3), layer.AdaptiveAvgPool2d((3, 3)), layer.Flatten(), norm, neuron.LIFNode(v_threshold=0.2)
    )
    x = samples(2, 5, 5)
    graph = to_graph(model.eval(), (2, 5, 5), T, readout="mean")
    assert [op.name for op in graph.ops] == ["0", "2", "3", "4"]
    same_network(graph, x, run(model, x, graph))


def test_steps_and_readout_are_never_guessed():
    model = nn.Sequential(layer.Linear(8, 8), neuron.LIFNode())
    with pytest.raises(RmpDeployError, match="T = None given nowhere"):
        to_graph(model, (8,), readout="mean")
    with pytest.raises(RmpDeployError, match="readout = None given nowhere"):
        to_graph(model, (8,), T)


def test_converting_leaves_the_model_as_it_was(lively, samples):
    model = conv_net(NEURONS["LIFNode()"]).train()
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    to_graph(model, (2, 8, 8), T, readout="mean")
    assert all(vars(module) == before[path] for path, module in model.named_modules())
    assert model.training
