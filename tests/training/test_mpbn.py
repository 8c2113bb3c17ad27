"""MPBN neurons against the authors' equations, step by step with torch's own BatchNorm and autograd, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from rmp_deploy.training.mpbn import MPBNLIF
from rmp_deploy.training.neurons import neurons
from rmp_deploy.training.rmp_loss import RMPLoss, quantization_distance
from rmp_deploy.training.surrogate import Arctan, Rectangular, Sigmoid, Tanh

T, B, C = 5, 6, 4
NORMS = {(C,): nn.BatchNorm1d, (C, 7): nn.BatchNorm1d, (C, 3, 2): nn.BatchNorm2d}  # by the shape of a sample
SLOPES = {  # ds/dm at distance x from the threshold
    Rectangular(): lambda x: (x.abs() <= 0.5).to(x.dtype),
    Tanh(): lambda x: (x.abs() <= 0.5) * 3 * (1 - torch.tanh(3 * x) ** 2) / (2 * math.tanh(1.5)),
    Sigmoid(): lambda x: 4 * torch.sigmoid(4 * x) * torch.sigmoid(-4 * x),
    Arctan(): lambda x: 1 / (1 + (torch.pi * x) ** 2),
}


def spike(m: torch.Tensor, threshold: torch.Tensor, slope) -> torch.Tensor:
    """The step function with the surrogate's gradient: a straight line through the point, values replaced."""
    line = slope((m - threshold).detach()) * m
    return (m > threshold).to(m.dtype) + line - line.detach()


def authors(x, norm, layer, slope, power):
    """``mem = decay mem + x; mem2 = bn(mem); spike = mem2 > th; mem = mem (1 - spike)`` and the soft reset."""
    mem, spikes, potentials, raw = torch.zeros_like(x[0]), [], [], []
    for x_t in x:
        mem = layer.decay * mem + x_t
        raw.append(mem)
        mem2 = norm(mem)
        s = spike(mem2, layer.v_threshold, slope)
        r = s.detach() if layer.detach_reset else s
        mem = mem - layer.v_threshold * r if layer.reset == "soft" else mem * (1 - r) + layer.v_reset * r
        spikes.append(s)
        potentials.append(mem2)
    m = torch.stack(potentials)
    return torch.stack(spikes), m, quantization_distance(m, power), torch.stack(raw)


def twins(shape, reset="hard", surrogate=None, detach=False, learn=False):
    """The layer, and torch's BatchNorm with the same affine part: a channel of either sign, one of almost no gain."""
    torch.manual_seed(0)
    each = (C, *(1,) * (len(shape) - 1))
    decay = 0.2 + 0.6 * torch.rand(each) if learn else 0.25
    threshold = 0.3 + 0.4 * torch.rand(each) if learn else 0.5
    v_reset = -0.2 if reset == "hard" and learn else 0.0
    layer = MPBNLIF(C, decay, threshold, v_reset, reset, surrogate, detach, learn).double()
    norm = NORMS[shape](C).double()
    with torch.no_grad():
        layer.bn.weight.copy_(torch.tensor([1.0, -0.7, 1e-3, 1.3]))
        layer.bn.bias.copy_(torch.tensor([0.2, 0.5, 0.4, -0.1]))
    norm.load_state_dict(layer.bn.state_dict())
    return layer, norm


@pytest.mark.parametrize("shape", NORMS, ids=str)
@pytest.mark.parametrize("surrogate", SLOPES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("reset", "detach"), itertools.product(["hard", "soft"], [False, True]))
def test_values_gradients_and_statistics_are_those_of_the_equations(reset, detach, surrogate, shape):
    for learn, power, mode in itertools.product((False, True), (1, 2), ("train", "eval")):
        layer, norm = twins(shape, reset, surrogate, detach, learn)
        layer.distance_power = power
        x, weight, weight_m = torch.randn(3, T, B, *shape, dtype=torch.float64) + 0.2
        layer.train()(x)
        authors(x, norm.train(), layer, SLOPES[surrogate], power)
        layer.train(mode == "train")
        norm.train(mode == "train")
        torch.testing.assert_close(dict(layer.bn.state_dict()), dict(norm.state_dict()), rtol=1e-12, atol=1e-12)

        found = []
        for of_norm in (layer.bn, norm):
            leaf = x.clone().requires_grad_()
            if of_norm is norm:
                results = authors(leaf, norm, layer, SLOPES[surrogate], power)[:3]
            else:
                results = (layer(leaf), layer.u, layer.distance)
            spikes, m, distance = results
            total = (weight * spikes).sum() + (weight_m * m).sum() + 7 * distance
            learnt = [of_norm.weight, of_norm.bias, *([layer.decay_logit] if learn else [])]
            found.append([*results, *torch.autograd.grad(total, [leaf, *learnt])])
        assert 0.2 < found[0][0].mean() < 0.8
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(dict(layer.bn.state_dict()), dict(norm.state_dict()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_the_potentials_of_eval_mode_are_raw_but_for_u(reset):
    layer, norm = twins((C, 3, 2), reset)
    x = torch.randn(T, B, C, 3, 2, dtype=torch.float64)
    for _ in range(3):
        layer.train()(x)
    assert layer.u_raw is None
    assert layer.v is None
    norm.load_state_dict(layer.bn.state_dict())
    with torch.no_grad():
        spikes = layer.eval()(x)
        _, m, _, raw = authors(x, norm.eval(), layer, SLOPES[Rectangular()], 1)
    torch.testing.assert_close(layer.u, m)
    torch.testing.assert_close(layer.u_raw, raw)
    after = raw - 0.5 * spikes if reset == "soft" else raw * (1 - spikes)
    torch.testing.assert_close(layer.v, after)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_single_steps_are_the_sequence(mode):
    layer, _ = twins((C, 3, 2), "soft", learn=True)
    x = torch.randn(T, B, C, 3, 2, dtype=torch.float64)
    layer.train()(x)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    whole = layer.train(mode == "train")(x).detach()
    after = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.load_state_dict(before)
    state, streamed = None, []
    for x_t in x:
        spikes, state = layer.step(x_t, state)
        streamed.append(spikes)
    assert torch.equal(torch.stack(streamed), whole)
    assert all(torch.equal(value, after[name]) for name, value in layer.state_dict().items())


def test_rmp_loss_regularizes_the_potential_that_fires():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, C), MPBNLIF(C))
    assert list(neurons(model)) == ["1"]
    loss = RMPLoss(model, schedule="constant")
    x = torch.randn(T, B, 8)
    model(x)
    value = loss(0, 1)
    torch.testing.assert_close(value, 0.1 * quantization_distance(model[1].u))
    value.backward()
    assert model[1].bn.bias.grad.abs().sum() > 0
    assert model[0].weight.grad.abs().sum() > 0


def test_a_frozen_batchnorm_normalizes_with_its_running_statistics():
    layer, _ = twins((C,))
    x = torch.randn(T, B, C, dtype=torch.float64)
    layer.train()(x)
    layer.bn.eval()
    before = layer.bn.running_mean.clone()
    layer(x)
    torch.testing.assert_close(layer.u[0], layer.bn(x[0]))
    assert torch.equal(layer.bn.running_mean, before)


def test_channels_that_do_not_fit_are_one_line():
    with pytest.raises(ValueError, match="channels = 0, allowed whole numbers >= 1"):
        MPBNLIF(0)
    with pytest.raises(ValueError, match=r"shape of one step = \(2, 3\), allowed currents \[T, B, 4, ...\]"):
        MPBNLIF(4)(torch.rand(5, 2, 3))
    for steps in (torch.rand(0, 2, 4), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"MPBNLIF: shape = \(.*\), allowed currents \[T, B, 4, ...\] with T >= 1"):
            MPBNLIF(4)(steps)
    with pytest.raises(ValueError, match=r"MPBNLIF: decay = 1\.2"):
        MPBNLIF(4, decay=1.2)
