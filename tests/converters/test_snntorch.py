"""snnTorch -> SpikingGraph: its own steps against the reference and ONNX Runtime, spike by spike; refusals."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("snntorch")

import snntorch as snn
from snntorch import surrogate

from rmp_deploy import backends
from rmp_deploy.converters.snntorch import to_graph
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.ops import LIF, Add, Conv2d, CubaLIF, Delay, Linear
from rmp_deploy.ir.reference import read_out
from rmp_deploy.ir.trace import Trace

T = 16


def run(model, x, graph, states=()):
    """The loop of snnTorch's tutorials around its own forward, spikes of every neuron layer recorded."""
    calls: dict[str, list[torch.Tensor]] = {}

    def record(path):
        return lambda _m, _x, out: calls.setdefault(path, []).append(out[0] if isinstance(out, tuple) else out)

    neurons = {path: m for path, m in model.named_modules() if isinstance(m, snn.SpikingNeuron)}
    hooks = [module.register_forward_hook(record(path)) for path, module in neurons.items()]
    for module in neurons.values():
        module.reset_mem()
    samples = torch.from_numpy(x)
    steps = samples.unbind(1) if graph.input.encoding == "time_series" else [samples] * graph.T
    read = []
    with torch.no_grad():
        for step in steps:
            out = model(step, *states)
            read.append(out[0] if isinstance(out, tuple) else out)
            if states:
                states = out[1:]
    for hook in hooks:
        hook.remove()
    spikes = {path: torch.stack(s, 1).numpy() > 0 for path, s in calls.items()}
    output = read_out(graph.readout, torch.stack(read).double().numpy())
    return Trace(backend="snntorch", output=output, spikes=spikes)


def conv_net(make):
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 6, (3, 2), padding=(2, 1), dilation=(2, 1), bias=False),
            bn1=nn.BatchNorm2d(6),
            lif1=make(init_hidden=True),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 8, 3, padding="same", groups=2),
            lif2=make(init_hidden=True),
            pool2=nn.AvgPool2d(2),
            flat=nn.Flatten(),
            drop=nn.Dropout(0.3),
            fc1=nn.Linear(32, 10),
            lif3=make(init_hidden=True, output=True),
        )
    )


NEURONS = {
    "Leaky(0.9)": lambda **o: snn.Leaky(0.9, **o),
    "Leaky learned, out of range": lambda **o: snn.Leaky(torch.tensor(1.3), threshold=2.1, learn_beta=True, **o),
    "Leaky threshold": lambda **o: snn.Leaky(0.37, threshold=1.7, learn_threshold=True, **o),
    "Leaky zero": lambda **o: snn.Leaky(0.8, reset_mechanism="zero", **o),
    "Leaky zero at once": lambda **o: snn.Leaky(0.8, reset_mechanism="zero", reset_delay=False, **o),
    "Leaky beta 0, zero": lambda **o: snn.Leaky(0.0, reset_mechanism="zero", **o),
    "Leaky none": lambda **o: snn.Leaky(0.4, threshold=2.2, reset_mechanism="none", **o),
    "Synaptic": lambda **o: snn.Synaptic(0.6, 0.8, threshold=2.5, **o),
    "Synaptic zero at once": lambda **o: snn.Synaptic(0.5, 0.7, 2.0, reset_mechanism="zero", reset_delay=False, **o),
    "Synaptic none": lambda **o: snn.Synaptic(0.3, 0.5, threshold=2.9, reset_mechanism="none", **o),
    "Lapicque beta": lambda **o: snn.Lapicque(beta=0.6, threshold=0.7, **o),
    "Lapicque R C": lambda **o: snn.Lapicque(R=2.0, C=1.5, time_step=0.7, threshold=0.9, **o),
    "Lapicque none": lambda **o: snn.Lapicque(beta=0.5, R=3.0, reset_mechanism="none", **o),
    "one-to-one": lambda **o: snn.RLeaky(0.7, V=-0.6, all_to_all=False, threshold=1.5, **o),
    "one-to-one zero at once": lambda **o: snn.RLeaky(
        0.7, V=0.4, all_to_all=False, reset_mechanism="zero", reset_delay=False, threshold=1.5, **o
    ),
    "one-to-one synaptic": lambda **o: snn.RSynaptic(0.5, 0.7, V=-0.8, all_to_all=False, threshold=2.0, **o),
    "another surrogate": lambda **o: snn.Leaky(0.9, spike_grad=surrogate.fast_sigmoid(slope=3), **o),
    "no surrogate": lambda **o: snn.Leaky(0.9, surrogate_disable=True, **o),
}


@pytest.mark.parametrize("make", NEURONS.values(), ids=NEURONS)
def test_every_neuron_gives_the_same_spikes(make, lively, samples, same_network):
    model = lively(conv_net(make), gain=3)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8), T, readout="sum")
    same_network(graph, x, run(model, x, graph))


PER_NEURON = torch.linspace(0.2, 1.0, 24)
RECURRENT = {
    "RLeaky": (snn.RLeaky(0.8, linear_features=24), Linear),
    "RLeaky none": (snn.RLeaky(0.5, linear_features=24, threshold=1.5, reset_mechanism="none"), Linear),
    "RSynaptic": (snn.RSynaptic(0.5, 0.8, linear_features=24, threshold=2.0), Linear),
    "V per neuron": (snn.RLeaky(PER_NEURON, V=-PER_NEURON, all_to_all=False, threshold=PER_NEURON + 1), Linear),
    "per neuron": (snn.Synaptic(0.9 * PER_NEURON, PER_NEURON, threshold=PER_NEURON + 2), None),
}


class Recurrent(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.fc, self.lif, self.out = nn.Linear(12, 24), neuron, nn.Linear(24, 5)

    def forward(self, x):
        return self.out(self.lif(self.fc(x))[0])


@pytest.mark.parametrize(("neuron", "feedback"), RECURRENT.values(), ids=RECURRENT)
def test_recurrence_and_parameters_per_neuron(neuron, feedback, lively, same_network):
    """States stay in the neurons; a time series of spikes comes in."""
    model = lively(Recurrent(neuron), gain=3)
    x = np.random.default_rng(2).integers(0, 2, (16, T, 12)).astype(np.float32)
    graph = to_graph(model, (12,), T, encoding="time_series", readout="mean")
    same_network(graph, x, run(model, x, graph))
    assert [type(op) for op in graph.ops[1:-2]] == ([] if feedback is None else [Delay, feedback, Add])


def test_recurrent_convolutions(lively, samples, same_network):
    V = torch.tensor([-0.5, 0.3, 0.2, -0.4]).reshape(4, 1, 1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        snn.RLeaky(0.8, conv2d_channels=4, kernel_size=3, init_hidden=True),
        nn.Conv2d(4, 4, 3),
        snn.RSynaptic(0.4, 0.6, V=V, all_to_all=False, threshold=2.0, init_hidden=True, output=True),
        nn.Flatten(),
    )[:4]
    lively(model, gain=2)
    x = samples(2, 7, 7)
    graph = to_graph(model, (2, 7, 7), T, readout="last")
    assert [type(op) for op in graph.ops] == [Conv2d, Delay, Conv2d, Add, LIF, Conv2d, Delay, Conv2d, Add, CubaLIF]
    same_network(graph, x, run(model, x, graph))


class Net(nn.Module):
    """The network of snnTorch's tutorials, one step of it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(10, 20), snn.Leaky(0.9)
        self.fc2, self.lif2 = nn.Linear(20, 8), snn.Synaptic(0.5, 0.8)
        self.mem1 = self.syn2 = self.mem2 = None


class TakesStates(Net):
    def forward(self, x, mem1, syn2, mem2):
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
        return spk2, mem1, syn2, mem2


class TakesStatesIfThereAreSome(Net):
    def forward(self, x, mem1=None, syn2=None, mem2=None):
        if mem1 is None:
            mem1, (syn2, mem2) = self.lif1.reset_mem(), self.lif2.reset_mem()
        spk1, mem1 = self.lif1(self.fc1(x), mem=mem1)
        spk2, syn2, mem2 = self.lif2(self.fc2(spk1), mem=mem2, syn=syn2)
        return spk2, mem1, syn2, mem2


class KeepsStates(Net):
    def forward(self, x):
        spk1, self.mem1 = self.lif1(self.fc1(x), self.mem1)
        spk2, self.syn2, self.mem2 = self.lif2(self.fc2(spk1), self.syn2, self.mem2)
        return spk2


class LeavesThemToTheNeurons(Net):
    def forward(self, x):
        spk1, _ = self.lif1(self.fc1(x))
        return self.lif2(self.fc2(spk1))[0]


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        (TakesStates, (None,) * 3),
        (TakesStatesIfThereAreSome, (None,) * 3),
        (KeepsStates, ()),
        (LeavesThemToTheNeurons, ()),
    ],
)
def test_a_module_of_ones_own_hands_its_states_on(kind, states, lively, samples, same_network):
    model = lively(kind(), gain=2)
    x = samples(10, n=32)
    graph = to_graph(model, (10,), T, readout="mean")
    assert [op.name for op in graph.ops] == ["fc1", "lif1", "fc2", "lif2"]
    assert model.mem1 is None
    same_network(graph, x, run(model, x, graph, states))


class BeginsAnew(Net):
    def forward(self, x):
        return self.lif1(self.fc1(x), self.lif1.reset_mem())[0]


class ResetsItself(Net):
    def forward(self, x):
        self.lif1.reset_mem()
        return self.lif1(self.fc1(x))[0]


class MixesUpStates(Net):
    def forward(self, x):
        spk1, self.mem1 = self.lif1(self.fc1(x), self.mem1)
        spk2, self.syn2, self.mem2 = self.lif2(self.fc2(spk1), self.mem2, self.syn2)
        return spk2


class OthersState(Net):
    def forward(self, x, mem1, syn2, mem2):
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        return self.lif2(self.fc2(spk1), syn2, mem1)


class LoopsOverTime(Net):
    def forward(self, x):
        return torch.stack([self.lif1(self.fc1(x))[0] for _ in range(T)])


class OneStateForTwo(Net):
    def forward(self, x, mem):
        spk1, _ = self.lif1(self.fc1(x), mem)
        spk2, _, mem = self.lif2(self.fc2(spk1), mem, mem)
        return spk2, mem


class SwapsParts(Net):
    def forward(self, x, syn2, mem2):
        spk2, syn2, mem2 = self.lif2(self.fc1(x), mem2, syn2)
        return spk2, syn2, mem2


class ReturnsOutOfOrder(TakesStates):
    def forward(self, x, mem1, syn2, mem2):
        spk2, mem1, syn2, mem2 = super().forward(x, mem1, syn2, mem2)
        return spk2, mem2, syn2, mem1


class ReturnsTooFew(TakesStates):
    def forward(self, x, mem1, syn2, mem2):
        spk2, mem1, syn2, mem2 = super().forward(x, mem1, syn2, mem2)
        return spk2, syn2, mem2


class SetsTheValue(Net):
    def forward(self, x, mem1):
        mem1.data = torch.zeros(1, 20)
        return self.lif1(self.fc1(x), mem1)


class TwoStepsLate(Net):
    def forward(self, x):
        spk1, new = self.lif1(self.fc1(x), self.mem1)
        self.mem1, self.mem2 = self.mem2, new
        return spk1


class ZeroesItself(Net):
    def forward(self, x):
        self.lif1.mem.mul_(0.0)
        return self.lif1(self.fc1(x))[0]


class Counts(Net):
    t = 0

    def forward(self, x):
        self.t += 1
        return self.lif1(self.fc1(x))[0]


class FirstStepDiffers(Net):
    first = True

    def forward(self, x):
        current = self.fc1(x)
        spk1 = self.lif1(current if self.first else current + current)[0]
        self.first = False
        return spk1


class Draws(Net):
    def forward(self, x):
        current = self.fc1(x)
        return self.lif1(current if torch.rand(()) < 2 else current + current)[0]


class FeedsBack(Net):
    def forward(self, x):
        current = self.fc1(x)
        if self.mem1 is not None:
            current = current + self.mem1
        self.mem1 = self.lif1(current)[0]
        return self.mem1


class WritesIntoItsState(Net):
    def __init__(self):
        super().__init__()
        self.lif1 = snn.RLeaky(0.9, linear_features=20)

    def forward(self, x):
        spk1 = self.lif1(self.fc1(x))[0]
        spk1 += self.fc1(x)
        return self.fc2(spk1)


class ReturnsThePotential(Net):
    def forward(self, x):
        return self.lif1(self.fc1(x))[1]


class UsesThePotential(Net):
    def forward(self, x):
        return self.fc2(self.lif1(self.fc1(x))[1])


class ChangesTheState(Net):
    def forward(self, x, mem1):
        return self.lif1(self.fc1(x), 0.5 * mem1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (BeginsAnew, "Leaky 'lif1': mem = a new Tensor, allowed its own, of the step before"),
        (ResetsItself, "Leaky 'lif1': 'mem' changed by the forward of every step"),
        (MixesUpStates, "Synaptic 'lif2': syn = 'mem' of lif2"),
        (OthersState, "Synaptic 'lif2': mem = 'mem' of lif1"),
        (OneStateForTwo, "Synaptic 'lif2': syn = 'mem', which another takes too"),
        (SwapsParts, "SwapsParts: returns something else in place of 'syn2'"),
        (ReturnsOutOfOrder, "ReturnsOutOfOrder: returns something else in place of 'mem1'"),
        (ReturnsTooFew, "ReturnsTooFew: takes 3 states and returns 2"),
        (SetsTheValue, "SetsTheValue: cannot be traced ('PassedState' object has no attribute 'data')"),
        (TwoStepsLate, "Leaky 'lif1': mem = 'mem' of lif1"),
        (ZeroesItself, "Leaky 'lif1': 'mem' changed by the forward of every step"),
        (Counts, "Counts '': 't' changed by the forward of every step"),
        (FirstStepDiffers, "FirstStepDiffers: the forward of a later step differs from that of the first"),
        (Draws, "Draws: its forward draws random numbers"),
        (FeedsBack, "FeedsBack: uses a value that an earlier call has kept"),
        (WritesIntoItsState, "function 'iadd' in place changes a value that is used elsewhere"),
        (LoopsOverTime, "Leaky 'lif1': called twice"),
        (ReturnsThePotential, "ReturnsThePotential: returns a state"),
        (UsesThePotential, "Linear 'fc2': called with a state"),
        (
            ChangesTheState,
            "ChangesTheState: cannot be traced (unsupported operand type(s) for *: 'float' and 'PassedState')",
        ),
    ],
)
def test_a_state_only_goes_back_to_its_neuron(kind, said):
    with pytest.raises(RmpDeployError) as e:
        to_graph(kind(), (10,), T, readout="mean")
    assert said in str(e.value)
    assert "\n" not in str(e.value)


class Masked(Net):
    def forward(self, x, mem1, mask=None):
        return self.lif1(self.fc1(x) if mask is None else self.fc1(self.fc1(x)), mem1)


def test_an_argument_that_no_neuron_takes_keeps_its_default(lively, samples, same_network):
    model = lively(Masked(), gain=3)
    x = samples(10)
    graph = to_graph(model, (10,), T, readout="mean")
    same_network(graph, x, run(model, x, graph, (None,)))


@pytest.mark.parametrize("mechanism", ["subtract", "zero"])
def test_neurons_do_not_fire_at_equality_as_in_snntorch(mechanism):
    """Multiples of 1/4 add up without rounding: no step where u is the threshold itself counts."""
    model = nn.Sequential(nn.Linear(4, 8, bias=False), snn.Leaky(1.0, init_hidden=True, reset_mechanism=mechanism))
    weight = np.random.default_rng(3).integers(-1, 3, (8, 4)) / 4
    model[0].weight.data = torch.from_numpy(weight.astype(np.float32))
    x = np.random.default_rng(4).integers(0, 2, (64, T, 4)).astype(np.float32)
    graph = to_graph(model, (4,), T, encoding="time_series", readout="sum")
    wanted = run(model, x, graph)
    for backend in ("reference", "onnxruntime"):
        found = backends.run(graph, x, backend, ("spikes", "u"))
        np.testing.assert_array_equal(found.spikes["1"], wanted.spikes["1"])
        assert (found.u["1"] == 1.0).mean() > 0.05
        assert not wanted.spikes["1"][found.u["1"] == 1.0].any()


MUTATIONS = {
    "decay": lambda op: replace(op, decay=0.98 * op.decay),
    "threshold": lambda op: replace(op, v_threshold=1.01 * op.v_threshold),
    "subtracts before the leak": lambda op: replace(op, v_subtract=None),
    "no reset": lambda op: replace(op, v_subtract=0.0),
    "hard instead of soft": lambda op: replace(op, reset="hard", v_subtract=None),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_another_rule_than_the_neurons_is_found(mutate, lively, samples, rungs):
    model = lively(conv_net(NEURONS["Leaky(0.9)"]), gain=3)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8), T, readout="mean")
    wrong = replace(graph, ops=tuple(mutate(op) if op.name == "lif2" else op for op in graph.ops))
    assert rungs(graph, x, run(model, x, graph))[0].holds
    rung = rungs(wrong, x, run(model, x, wrong))[0]
    assert [layer.layer for layer in rung.layers if not layer.holds] == ["lif2"]


def test_the_reset_that_its_docstring_describes_is_not_the_one_it_computes(lively, samples):
    """Leaky's docstring has the reset to zero drop the next input, ``(1 - R) (beta U + I)``; its forward keeps it."""
    model = lively(nn.Sequential(nn.Linear(10, 20), snn.Leaky(0.8, reset_mechanism="zero", init_hidden=True)), gain=3)
    x = samples(10)
    graph = to_graph(model, (10,), T, readout="mean")
    spikes = run(model, x, graph).spikes["1"]
    assert (spikes[:, 1:] & spikes[:, :-1]).any()  # it fires twice in a row, from nothing but that input


def changed(neuron, **attributes):
    for name, value in attributes.items():
        setattr(neuron, name, value)
    return neuron


class Own(snn.Leaky):
    """A subclass may compute anything."""


@pytest.mark.parametrize(
    ("neuron", "said"),
    [
        (snn.Alpha(0.9, 0.8), "Alpha '1': no such op in the IR"),
        (snn.SLSTM(8, 8), "SLSTM '1': no such op in the IR"),
        (snn.DeltaLeaky(beta=0.9), "DeltaLeaky '1': no such op in the IR"),
        (snn.LeakyParallel(8, 8), "LeakyParallel '1': no such op in the IR"),
        (snn.GradedSpikes(8, 0.5), "GradedSpikes '1': no such op in the IR"),
        (Own(0.9), "Own '1': no such op in the IR"),
        (changed(snn.Leaky(0.9), fire=torch.relu), "Leaky '1': has a fire of its own"),
        (changed(snn.Leaky(0.9), mem_reset=torch.relu), "Leaky '1': has a mem_reset of its own"),
        (snn.Leaky(0.9, reset_delay=False), "Leaky '1': reset_delay = False with reset_mechanism = 'subtract'"),
        (snn.Leaky(0.0), "Leaky '1': beta = 0 with reset_mechanism = 'subtract'"),
        (snn.Leaky(torch.linspace(-0.5, 0.9, 8)), "Leaky '1': beta = 0"),
        (snn.Leaky(0.9, threshold=-0.1), "Leaky '1': threshold = -0.1, allowed >= 0"),
        (snn.Leaky(0.9, state_quant=torch.round), "Leaky '1': state_quant = True"),
        (snn.Leaky(0.9, graded_spikes_factor=0.5), "Leaky '1': graded_spikes_factor = 0.5"),
        (snn.Leaky(0.9, spike_grad=torch.sigmoid), "Leaky '1': spike_grad = _VariableFunctionsClass.sigmoid"),
        (changed(snn.Leaky(0.9), reset_mechanism="zero"), "Leaky '1': reset_mechanism = 'zero' set after"),
        (changed(snn.Leaky(0.9), reset_mechanism_val=torch.tensor(1)), "reset_mechanism = 'subtract' set after"),
        (snn.Leaky(torch.full((3,), 0.9)), "LIF '1': decay.shape = (3,), allowed what broadcasts to (8,)"),
        (snn.Leaky(torch.full((3,), 0.9), threshold=torch.ones(8)), "LIF '1': parameter shapes = [(3,), (8,)]"),
        (snn.RLeaky(0.9, V=torch.ones(3), all_to_all=False), "RLeaky '1': V.shape = (3,) on (8,)"),
        (snn.Synaptic(0.5, 0.9, reset_mechanism="zero"), "Synaptic '1': reset_mechanism = 'zero', which drops the"),
        (snn.Lapicque(beta=0.9, reset_mechanism="zero"), "Lapicque '1': reset_mechanism = 'zero', which drops the"),
        (snn.Lapicque(beta=0.2), "LIF '1': decay = -0.609438"),
        (snn.RLeaky(0.9, linear_features=8, reset_mechanism="zero"), "RLeaky '1': reset_mechanism = 'zero', which"),
        (snn.RSynaptic(0.5, 0.9, linear_features=8, reset_delay=False), "RSynaptic '1': reset_delay = False"),
    ],
)
def test_what_the_ir_cannot_carry_is_named(neuron, said):
    neuron.init_hidden = True
    with pytest.raises(RmpDeployError) as e:
        to_graph(nn.Sequential(nn.Linear(8, 8), neuron), (8,), T, readout="mean")
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_weights_of_another_precision_are_named():
    model = nn.Sequential(nn.Linear(8, 8), snn.Leaky(0.9, init_hidden=True)).double()
    with pytest.raises(RmpDeployError, match=r"Sequential: '0\.weight' = torch\.float64, allowed torch\.float32"):
        to_graph(model, (8,), T, readout="mean")


def test_inhibition_is_named():
    with pytest.warns(UserWarning, match="unstable"):
        neuron = snn.Leaky(0.9, inhibition=True, init_hidden=True)
    with pytest.raises(RmpDeployError, match="Leaky '1': inhibition = True, allowed False"):
        to_graph(nn.Sequential(nn.Linear(8, 8), neuron), (8,), T, readout="mean")


def test_one_weight_per_neuron_of_a_map_is_named():
    neuron = snn.RLeaky(0.9, V=torch.ones(4, 6, 6), all_to_all=False, init_hidden=True)
    with pytest.raises(RmpDeployError, match=r"RLeaky '1': V.shape = \(4, 6, 6\) on \(4, 6, 6\)"):
        to_graph(nn.Sequential(nn.Conv2d(2, 4, 3), neuron), (2, 8, 8), T, readout="mean")
