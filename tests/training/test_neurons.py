"""LIF in torch computes what the reference defines, and its gradients are those of the surrogate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmp_deploy.ir import ops, reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.training.neurons import LIF, neurons
from rmp_deploy.training.surrogate import rectangular_spike


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


def test_the_rectangular_surrogate_is_one_on_0_to_1():
    u = torch.tensor([-0.01, 0.0, 0.5, 1.0, 1.01], requires_grad=True)
    spikes = rectangular_spike(u, torch.tensor(0.5), 1.0)
    spikes.sum().backward()
    assert spikes.tolist() == [0, 0, 0, 1, 1]  # strict: 0.5 does not fire
    assert u.grad.tolist() == [0, 1, 1, 1, 0]


def test_a_narrow_surrogate_is_steeper():
    u = torch.tensor([0.2, 0.3, 0.7, 0.8], requires_grad=True)
    rectangular_spike(u, torch.tensor(0.5), 0.5).sum().backward()
    assert u.grad.tolist() == [0, 2, 2, 0]


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
        ({"surrogate_width": 0}, "surrogate_width = 0"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        LIF(**options)
