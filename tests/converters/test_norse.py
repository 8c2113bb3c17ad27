"""Norse -> SpikingGraph: its own steps against the reference and ONNX Runtime, spike by spike; refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("norse")

import norse.torch as norse

from rmp_deploy import backends
from rmp_deploy.converters.norse import to_graph
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.ops import LI, LIF, Add, Delay, Linear
from rmp_deploy.ir.reference import read_out
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm

T = 16
SPIKING = (
    norse.LIFBoxCell,
    norse.LIFCell,
    norse.LIFRecurrentCell,
    norse.IAFCell,
    norse.LIF,
    norse.LIFRecurrent,
    norse.IAF,
)


def run(model, x, graph):
    """Norse's own forward from no state on: one sequence, or a loop of steps; spikes of every neuron layer recorded."""
    calls: dict[str, list[torch.Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _x, out, path=path: calls.setdefault(path, []).append(out[0]))
        for path, module in model.named_modules()
        if isinstance(module, SPIKING)
    ]
    samples = torch.from_numpy(x)
    series = graph.input.encoding == "time_series"
    steps = samples.transpose(0, 1) if series else samples.expand(graph.T, *samples.shape)
    with torch.no_grad():
        if any(isinstance(m, (norse.LIF, norse.IAF, norse.LIFRecurrent, norse.Lift)) for m in model.modules()):
            values, _ = model(steps)
        else:
            states, read = None, []
            for step in steps:
                value, states = model(step, states)
                read.append(value)
            values = torch.stack(read)
    for hook in hooks:
        hook.remove()
    # the layer in a Lift has the Lift's own name
    steps_of = {path.replace("lifted_module.", ""): s for path, s in calls.items()}
    by_layer = {path: s[0] if len(s) == 1 else torch.stack(s) for path, s in steps_of.items()}
    spikes = {path: s.transpose(0, 1).numpy() > 0 for path, s in by_layer.items()}
    return Trace(backend="norse", output=read_out(graph.readout, values.double().numpy()), spikes=spikes)


def p(kind, **values):
    """A Norse parameter tuple of tensors."""
    return kind(**{k: torch.as_tensor(v) if isinstance(v, float) else v for k, v in values.items()})


def box(dt=0.001, **values):
    return norse.LIFBoxCell(p(norse.LIFBoxParameters, **values), dt=dt)


def lif(kind=norse.LIFCell, dt=0.001, **values):
    return kind(p(norse.LIFParameters, **values), dt=dt)


def changed(cell, **attributes):
    vars(cell).update(attributes)
    return cell


def iaf(kind=norse.IAFCell, **values):
    return kind(p(norse.IAFParameters, **values))


NEURONS = {  # how to make it, gain of the weights
    "LIFBoxCell()": (norse.LIFBoxCell, 9),
    "LIFBoxCell dt": (lambda: box(dt=0.004, tau_mem_inv=170.0, v_th=0.8), 4),
    "LIFBoxCell v_leak, v_reset": (lambda: box(tau_mem_inv=300.0, v_leak=0.2, v_reset=-0.3, v_th=0.7), 4),
    "LIFBoxCell subtract": (lambda: box(v_leak=-0.1, v_th=0.4, reset_method=norse.reset_subtract), 5),
    "LIFBoxCell heaviside": (lambda: box(tau_mem_inv=500.0, method="heaviside"), 5),
    "LIFCell()": (norse.LIFCell, 5),
    "LIFCell dt": (lambda: lif(dt=0.0025, tau_syn_inv=90.0, tau_mem_inv=130.0, v_th=0.9), 3),
    "LIFCell v_leak, v_reset": (lambda: lif(v_leak=0.3, v_reset=-0.2, v_th=0.6), 4),
    "LIFCell triangle": (lambda: lif(method="triangle"), 5),
    "IAFCell()": (norse.IAFCell, 2),
    "IAFCell v_reset": (lambda: iaf(v_reset=-0.4, v_th=1.3), 2),
}


def conv_net(make):
    """The layers of one step between three layers of neurons; a readout that integrates twice."""
    return norse.SequentialState(
        nn.Conv2d(2, 6, (3, 2), padding=(2, 1), dilation=(2, 1), bias=False),
        nn.BatchNorm2d(6),
        make(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding="same", groups=2),
        make(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32, 24),
        make(),
        nn.Linear(24, 10),
        norse.LICell(),
    )


@pytest.mark.parametrize(("make", "gain"), NEURONS.values(), ids=NEURONS)
def test_every_cell_gives_the_same_spikes(make, gain, lively, samples, same_network):
    model = lively(conv_net(make), gain=gain)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8), T, readout="last")
    assert graph.dt == (0.001 if make in (norse.LIFBoxCell, norse.LIFCell, norse.IAFCell) else graph.dt)
    wanted = run(model, x, graph)
    same_network(graph, x, wanted)
    same_network(fold_batchnorm(graph), x, wanted)


READOUTS = {
    "LICell()": norse.LICell,
    "LICell": lambda: norse.LICell(p(norse.LIParameters, tau_syn_inv=120.0, tau_mem_inv=310.0), dt=0.002),
    "LICell per neuron": lambda: norse.LICell(norse.LIParameters(tau_mem_inv=torch.linspace(50, 300, 5))),
    "LIBoxCell()": norse.LIBoxCell,
    "LIBoxCell": lambda: norse.LIBoxCell(p(norse.LIBoxParameters, tau_mem_inv=410.0)),
}


@pytest.mark.parametrize("make", READOUTS.values(), ids=READOUTS)
def test_readouts_hold_their_potential_in_its_own_units(make, lively, samples, same_network):
    """The gain of a readout is a norm before it, which folds into the weights: its value is v, not v / gain."""
    model = lively(norse.SequentialState(nn.Linear(10, 20), norse.LIFCell(), nn.Linear(20, 5), make()), gain=5)
    x = samples(10)
    graph = to_graph(model, (10,), T, readout="last")
    wanted = run(model, x, graph)
    same_network(graph, x, wanted)
    folded = fold_batchnorm(graph)
    assert {type(op) for op in folded.ops[3:]} == {LI}
    same_network(folded, x, wanted)
    np.testing.assert_allclose(backends.run(folded, x, "onnxruntime").output, wanted.output, atol=1e-5)
    assert np.abs(wanted.output).mean() > 0.1


def test_recurrent_cells(lively, samples, same_network):
    model = norse.SequentialState(
        norse.LIFRecurrentCell(10, 20), nn.Linear(20, 16), norse.LIFRecurrentCell(16, 12, autapses=True)
    )
    torch.manual_seed(0)
    for cell in (model[0], model[2]):
        cell.input_weights.data.normal_(1, 1.5)
        cell.recurrent_weights.data.normal_(-0.3, 0.6)
    lively(model, gain=2)
    x = samples(10)
    graph = to_graph(model, (10,), T, readout="mean")
    assert [type(op) for op in graph.ops[:4]] == [Linear, Delay, Linear, Add]
    same_network(graph, x, run(model, x, graph))


SEQUENCES = {
    "LIF, IAF, LI": lambda: norse.SequentialState(
        norse.Lift(nn.Conv2d(2, 6, 3)),
        norse.Lift(nn.BatchNorm2d(6)),
        norse.LIF(),
        norse.Lift(nn.Sequential(nn.AvgPool2d(2), nn.Flatten())),
        nn.Linear(54, 12),
        iaf(norse.IAF, v_th=1.5),
        nn.Linear(12, 5),
        norse.LI(),
    ),
    "a lifted network of cells": lambda: norse.Lift(
        norse.SequentialState(nn.Conv2d(2, 6, 3), norse.LIFCell(), nn.Flatten(), nn.Linear(216, 5), norse.LICell())
    ),
    "LIFRecurrent": lambda: norse.SequentialState(
        nn.Flatten(2), nn.Linear(128, 12), lif(norse.LIF, v_leak=0.1), norse.LIFRecurrent(12, 8), nn.Linear(8, 5)
    ),
}


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES)
def test_networks_on_whole_sequences(make, lively, same_network):
    torch.manual_seed(1)
    model = lively(make(), gain=5)
    x = np.random.default_rng(2).integers(0, 2, (8, T, 2, 8, 8)).astype(np.float32)
    graph = to_graph(model, (2, 8, 8), T, encoding="time_series", readout="mean")
    same_network(graph, x, run(model, x, graph))


class Own(nn.Module):
    """A user's own step, with its states as a tuple."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(10, 20), norse.LIFCell()
        self.rest = norse.SequentialState(nn.Linear(20, 8), norse.LIFBoxCell())

    def forward(self, x, state=None):
        spikes, first = self.lif1(self.fc1(x), None if state is None else state[0])
        spikes, others = self.rest(spikes, None if state is None else state[1])
        return spikes, (first, others)


def test_a_module_of_ones_own_hands_its_states_on(lively, samples, same_network):
    model = lively(Own(), gain=9)
    x = samples(10)
    graph = to_graph(model, (10,), T, readout="sum")
    assert [op.name for op in graph.of_type(LIF)] == ["lif1", "rest.1"]
    same_network(graph, x, run(model, x, graph))


class BeginsAnew(Own):
    def forward(self, x):
        return self.lif1(self.fc1(x))[0]


class ForgetsAPart(Own):
    def forward(self, x, state):
        spikes, state = self.lif1(self.fc1(x), state)
        return self.rest(spikes)[0], state


class DropsItsState(Own):
    def forward(self, x, state=None):
        spikes, state = self.lif1(self.fc1(x), state)
        return spikes


class SwapsStates(Own):
    def forward(self, x, state=None):
        spikes, first = self.lif1(self.fc1(x), None if state is None else state[1])
        spikes, others = self.rest(spikes, None if state is None else state[0])
        return spikes, [first, others]


class WritesIntoV(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.li, self.lif = nn.Linear(10, 10), norse.LICell(), norse.LIFCell()

    def forward(self, x, state, other):
        v, state = self.li(self.fc(x), state)
        v += x
        v, other = self.lif(v, other)
        return v, state, other


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (DropsItsState(), "DropsItsState: takes 1 states and returns 0, allowed as many"),
        (norse.Lift(DropsItsState()), "takes 1 states and returns 0, allowed as many"),
        (SwapsStates(), "SwapsStates: returns something else in place of 'state'"),
        (WritesIntoV(), "function 'iadd' in place changes a value that is used elsewhere"),
    ],
)
def test_every_state_comes_back_to_its_cell(model, said):
    with pytest.raises(RmpDeployError) as e:
        to_graph(model, (10,), T, readout="mean")
    assert said in str(e.value)


@pytest.mark.parametrize(("kind", "where"), [(BeginsAnew, "LIFCell 'lif1'"), (ForgetsAPart, "LIFBoxCell 'rest.1'")])
def test_a_cell_without_its_state_would_begin_anew(kind, where):
    with pytest.raises(RmpDeployError) as e:
        to_graph(kind(), (10,), T, readout="mean")
    assert f"{where}: called without a state: it begins anew in every step" in str(e.value)


def test_cells_do_not_fire_at_equality_as_in_norse():
    """Multiples of 1/4 add up without rounding: no step where u is the threshold itself counts."""
    model = norse.SequentialState(nn.Linear(4, 8, bias=False), norse.IAFCell())
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
    "current decay": lambda op: replace(op, current_decay=0.98 * op.current_decay),
    "threshold": lambda op: replace(op, v_threshold=1.01 * op.v_threshold),
    "reset to rest": lambda op: replace(op, v_reset=0.0),
    "soft reset": lambda op: replace(op, reset="soft", v_reset=0.0),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_another_rule_than_the_cells_is_found(mutate, lively, samples, rungs):
    make, gain = NEURONS["LIFCell v_leak, v_reset"]
    model = lively(conv_net(make), gain=gain)
    x = samples(2, 8, 8)
    graph = to_graph(model, (2, 8, 8), T, readout="mean")
    wrong = replace(graph, ops=tuple(mutate(op) if op.name == "5" else op for op in graph.ops))
    assert rungs(graph, x, run(model, x, graph))[0].holds
    rung = rungs(wrong, x, run(model, x, wrong))[0]
    assert [layer.layer for layer in rung.layers if not layer.holds] == ["5"]


def test_a_current_of_the_step_before_is_found(lively, samples, rungs):
    """LIFCell's v follows the current that already holds this step's input; one step later is another network."""
    model = lively(norse.SequentialState(nn.Linear(10, 20), norse.LIFCell()), gain=5)
    x = samples(10)
    linear, cell = to_graph(model, (10,), T, readout="mean").ops
    graph = to_graph(model, (10,), T, readout="mean")
    late = Delay(name="late", inputs=("0",), steps=1, shape=(20,))
    wrong = replace(graph, ops=(linear, late, replace(cell, inputs=("late",))))
    assert rungs(graph, x, run(model, x, graph))[0].holds
    assert not rungs(wrong, x, run(model, x, wrong))[0].holds


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (changed(lif(), activation=torch.relu), "LIFCell '1': has an activation of its own"),
        (changed(lif(), state_fallback=torch.zeros_like), "LIFCell '1': has a state_fallback of its own"),
        (norse.LIFAdExCell(), "LIFAdExCell '1': no such op in the IR"),
        (norse.LIFRefracCell(), "LIFRefracCell '1': no such op in the IR"),
        (norse.LSNNCell(), "LSNNCell '1': no such op in the IR"),
        (norse.CobaLIFCell(8, 8), "CobaLIFCell '1': no such op in the IR"),
        (norse.LILinearCell(8, 8), "LILinearCell '1': no such op in the IR"),
        (norse.PoissonEncoder(T), "PoissonEncoder '1': no such op in the IR"),
        (norse.RecurrentSequential(nn.Linear(8, 8)), "RecurrentSequential '1': no such op in the IR"),
        (lif(method="adjoint"), "LIFCell '1': method = 'adjoint'"),
        (box(reset_method=lambda z, v, reset, th: v), "LIFBoxCell '1': reset_method = <lambda>"),
        (box(tau_mem_inv=0.0), "LIF '1': gain of its input = 0, allowed > 0"),
        (box(tau_mem_inv=1500.0), "LIF '1': decay = -0.5..-0.5, allowed 0..1"),
        (norse.LIBoxCell(p(norse.LIBoxParameters, v_leak=0.5)), "LIBoxCell '1': v_leak = 0.5, allowed 0"),
        (norse.LICell(norse.LIParameters(tau_mem_inv=torch.ones(3))), "LICell '1': tau_mem_inv of shape (3,)"),
    ],
)
def test_what_the_ir_cannot_carry_is_named(layer, said):
    with pytest.raises(RmpDeployError) as e:
        to_graph(
            norse.SequentialState(nn.Linear(8, 8), layer, nn.Linear(8, 8), norse.LIFCell()), (8,), T, readout="sum"
        )
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_cells_and_sequences_do_not_mix():
    model = norse.SequentialState(nn.Linear(8, 8), norse.LIF(), nn.Linear(8, 8), norse.LIFCell())
    with pytest.raises(RmpDeployError, match="LIFCell '3': outside of a container that applies it step by step"):
        to_graph(model, (8,), T, readout="mean")
    with pytest.raises(RmpDeployError, match="LIF '1': inside a container that applies it step by step"):
        to_graph(norse.Lift(norse.SequentialState(nn.Linear(8, 8), norse.LIF())), (8,), T, readout="mean")
