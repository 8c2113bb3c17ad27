"""LIF in torch computes what the reference defines, and its gradients are those of the surrogate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rmp_deploy.ir import ops, reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.training.neurons import IF, LI, LIF, CubaLIF, neurons
from rmp_deploy.training.surrogate import Arctan, Rectangular, Sigmoid, Tanh


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_spikes_and_potentials_are_the_references(reset, per_channel):
    rng = np.random.default_rng(0)
    T, B, shape = 6, 5, (3, 4, 4)
    x = rng.normal(0.3, 0.6, (B, T, *shape)).astype(np.float32)
    decay = np.array([0.0, 0.5, 1.0], np.float32).reshape(3, 1, 1) if per_channel else np.float32(0.25)
    threshold = np.array([0.3, 0.5, 0.8], np.float32).reshape(3, 1, 1) if per_channel else np.float32(0.5)
    v_reset = -0.1 if reset == "hard" else 0.0
    layer = LIF(torch.as_tensor(decay), torch.as_tensor(threshold), v_reset, reset).eval()
    spikes = layer(torch.from_numpy(x).transpose(0, 1))

    op = ops.LIF(name="lif", inputs=("x",), decay=decay, v_threshold=threshold, v_reset=v_reset, reset=reset)
    graph = SpikingGraph("g", Input("x", shape, "time_series"), (op,), Readout("lif", "sum"), T)
    wanted = reference.run(graph, x, ("spikes", "u", "v"))
    assert 0.1 < wanted.spikes["lif"].mean() < 0.9
    np.testing.assert_array_equal(spikes.transpose(0, 1).numpy(), wanted.spikes["lif"])
    np.testing.assert_allclose(layer.u.transpose(0, 1).numpy(), wanted.u["lif"], atol=1e-6)
    np.testing.assert_allclose(layer.v.transpose(0, 1).numpy(), wanted.v["lif"], atol=1e-6)


def test_gradients_by_hand_over_two_steps():
    """Gradient through time and through the reset, which is not detached.

    u0 = x0, s0 = H(u0), v0 = u0 (1 - s0), u1 = d v0 + x1, s1 = H(u1); L = 3 s0 + s1, surrogate ds/du = 1 on [0, 1].
    dL/dx1 = 1; dL/du0 = 3 + d * (1 - s0 - u0).
    """
    x = torch.tensor([[0.8], [0.2]], dtype=torch.float64, requires_grad=True)
    layer = LIF(decay=0.5, v_threshold=0.5)
    spikes = layer(x)
    (3 * spikes[0] + spikes[1]).sum().backward()
    assert spikes.ravel().tolist() == [1, 0]
    np.testing.assert_allclose(x.grad.ravel().numpy(), [3 + 0.5 * (1 - 1 - 0.8), 1.0], rtol=1e-12)


def test_potentials_after_the_reset_are_kept_in_eval_only():
    layer = LIF()
    layer.train()(torch.rand(3, 2, 4))
    assert layer.v is None
    layer.eval()(torch.rand(3, 2, 4))
    assert layer.v.shape == layer.u.shape == (3, 2, 4)
    assert list(neurons(torch.nn.Sequential(torch.nn.Linear(2, 2), layer))) == ["1"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"decay": 1.2}, "decay = 1.2"),
        ({"reset": "no"}, "reset = 'no'"),
        ({"reset": "soft", "v_reset": 0.5}, "v_reset = 0.5 with reset = 'soft'"),
        ({"decay": 1.0, "learn_decay": True}, "both excluded, to be learnt"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        LIF(**options)


@pytest.mark.parametrize("kind", [Rectangular, Tanh, Sigmoid, Arctan])
def test_a_surrogate_without_sharpness_is_refused(kind):
    with pytest.raises(ValueError, match="allowed finite and > 0"):
        kind(0.0)


@pytest.mark.parametrize(
    ("layer", "op"),
    [
        (IF(0.7), ops.LIF(name="n", inputs=("x",), decay=1.0, v_threshold=0.7)),
        (
            CubaLIF(0.5, 0.25, 0.7, reset="soft"),
            ops.CubaLIF(name="n", inputs=("x",), current_decay=0.5, decay=0.25, v_threshold=0.7, reset="soft"),
        ),
        (
            CubaLIF(0.75, 0.5, 0.7, -0.25),
            ops.CubaLIF(name="n", inputs=("x",), current_decay=0.75, decay=0.5, v_threshold=0.7, v_reset=-0.25),
        ),
    ],
    ids=["IF", "CubaLIF-soft", "CubaLIF-hard"],
)
def test_whole_sequences_and_single_steps_are_the_references(layer, op):
    T, B, shape = 8, 4, (5,)
    x = np.random.default_rng(2).normal(0.2, 0.5, (B, T, *shape)).astype(np.float32)
    graph = SpikingGraph("g", Input("x", shape, "time_series"), (op,), Readout("n", "sum"), T)
    wanted = reference.run(graph, x, ("spikes", "v")).spikes["n"]
    assert 0.1 < wanted.mean() < 0.9
    steps = torch.from_numpy(x).transpose(0, 1)
    np.testing.assert_array_equal(layer.eval()(steps).transpose(0, 1).numpy(), wanted)
    state, streamed = None, []
    for x_t in steps:
        spikes, state = layer.step(x_t, state)
        streamed.append(spikes)
    np.testing.assert_array_equal(torch.stack(streamed, 1).numpy(), wanted)
    torch.testing.assert_close(state[0], layer.v[-1])


def test_the_leaky_integrator_sums_with_its_decay():
    x = torch.tensor([[1.0], [0.0], [2.0]])
    layer = LI(0.5)
    assert layer(x).ravel().tolist() == [1.0, 0.5, 2.25]
    _, state = layer.step(x[0])
    assert layer.step(x[1], state)[0].tolist() == [0.5]


def test_a_learnt_decay_starts_where_it_is_told_and_moves():
    torch.manual_seed(0)
    layer = LIF(torch.tensor([0.25, 0.75]), learn_decay=True)
    torch.testing.assert_close(layer.decay, torch.tensor([0.25, 0.75]))
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(20):
        optimizer.zero_grad()
        (layer(torch.rand(6, 16, 2) * 0.4).mean() - 0.5).square().backward()
        optimizer.step()
    assert (layer.decay > torch.tensor([0.26, 0.76])).all()  # more memory fires more
    assert (layer.decay < 1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, []])
def test_a_parameter_that_is_no_finite_number_is_refused(value):
    for what in ("v_threshold", "v_reset", "decay"):
        with pytest.raises(ValueError, match=rf"LIF: {what} = .*, allowed"):
            LIF(**{what: torch.tensor(value)})


def test_v_is_the_layer_s_own_whatever_becomes_of_its_spikes():
    layer = LIF().eval()
    spikes = layer(torch.full((2, 1, 3), 0.75))
    spikes.mul_(0)
    assert layer.v.tolist() == [[[0, 0, 0]], [[0, 0, 0]]]


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("kind", [LIF, CubaLIF])
def test_single_steps_are_the_whole_sequence_to_the_last_bit(kind, reset):
    """A potential that is rounded once more fires or not where it stands at the threshold."""
    x = torch.randn(20, 8, 64, generator=torch.Generator().manual_seed(3)) * 0.5 + 0.2
    for decay in (0.3, torch.linspace(0.1, 0.9, 64)):
        layer = kind(decay=decay, reset=reset).eval()
        spikes, state = layer(x), None
        for x_t, s_t, v_t in zip(x, spikes, layer.v, strict=True):
            s, state = layer.step(x_t, state)
            assert torch.equal(s, s_t)
            assert torch.equal(state[0], v_t)
