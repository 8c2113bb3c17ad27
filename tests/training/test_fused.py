"""The fused neurons against plain autograd through the unrolled loop: values and gradients, float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rmp_deploy.training.fused import Options, leaky_sum, lif
from rmp_deploy.training.surrogate import Arctan, Rectangular, Sigmoid, Tanh

T, B, SHAPE = 5, 3, (4, 2, 2)
SURROGATES = [Rectangular(), Rectangular(0.6), Tanh(), Tanh(5.0), Sigmoid(), Sigmoid(2.5), Arctan(), Arctan(3.0)]


def slope(x: torch.Tensor, surrogate) -> torch.Tensor:
    """ds/du at distance x from the threshold, as the papers write it."""
    if isinstance(surrogate, Rectangular):
        return (x.abs() <= surrogate.width / 2).to(x.dtype) / surrogate.width
    if isinstance(surrogate, Tanh):
        k = surrogate.k
        return torch.where(x.abs() <= 0.5, k / (2 * math.tanh(k / 2)) / torch.cosh(k * x) ** 2, 0.0)
    if isinstance(surrogate, Sigmoid):
        p = 1 / (1 + torch.exp(-surrogate.alpha * x))
        return surrogate.alpha * p * (1 - p)
    return surrogate.alpha / 2 / (1 + (math.pi / 2 * surrogate.alpha * x) ** 2)


def spike(u: torch.Tensor, threshold: torch.Tensor, surrogate) -> torch.Tensor:
    """The step function whose gradient is the surrogate's: a linear function through the point, values replaced."""
    x = u - threshold
    straight = slope(x.detach(), surrogate) * x
    return (x > 0).to(u.dtype) + straight - straight.detach()


def unrolled(x, decay, threshold, v_reset, o: Options):
    v, spikes, potentials = torch.zeros_like(x[0]), [], []
    for x_t in x:
        u = decay * v + x_t
        s = spike(u, threshold, o.surrogate)
        r = s.detach() if o.detach_reset else s
        v = u - threshold * r if o.reset == "soft" else u * (1 - r) + v_reset * r
        spikes.append(s)
        potentials.append(u)
    u = torch.stack(potentials)
    distance = x.new_zeros(())
    if o.distance_power is not None:
        distance = torch.minimum(u.abs(), (1 - u).abs()).pow(o.distance_power).mean()
    return torch.stack(spikes), u, distance


def parameters(per_channel: bool, learn: bool, dtype=torch.float64):
    each = (SHAPE[0], 1, 1) if per_channel else ()
    g = torch.Generator().manual_seed(3)
    decay = 0.2 + 0.7 * torch.rand(each, generator=g, dtype=dtype)
    threshold = 0.3 + 0.4 * torch.rand(each, generator=g, dtype=dtype)
    v_reset = -0.2 * torch.rand(each, generator=g, dtype=dtype)
    return [p.requires_grad_(learn) for p in (decay, threshold, v_reset)]


def compare(o: Options, decay, threshold, v_reset, only_spikes: bool = False):
    x = torch.randn(T, B, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.7 + 0.3
    weight = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for run in (lif, unrolled):
        leaf = x.clone().requires_grad_()
        spikes, u, distance = run(leaf, decay, threshold, v_reset, o)
        total = (weight[0] * spikes).sum()
        if not only_spikes:
            total = total + (weight[1] * u).sum() + 7 * distance
        learnt = [p for p in (decay, threshold, v_reset) if isinstance(p, torch.Tensor) and p.requires_grad]
        gradients = torch.autograd.grad(total, [leaf, *learnt], materialize_grads=True)
        found.append([spikes, u, distance, *gradients])
    assert 0.2 < found[0][0].mean() < 0.8
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=repr)
@pytest.mark.parametrize(("reset", "detach"), itertools.product(["hard", "soft"], [False, True]))
def test_gradients_of_every_reset_and_surrogate(reset, detach, surrogate):
    for power, (per_channel, learn) in itertools.product((None, 1, 2), ((False, False), (True, True))):
        o = Options(reset, detach, surrogate, power)
        compare(o, *parameters(per_channel, learn))


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_numbers_as_parameters(reset):
    for v_reset in (0.0, -0.3):
        compare(Options(reset), 0.25, 0.5, v_reset)
        compare(Options(reset), 1.0, 0.5, v_reset, only_spikes=True)


def test_potentials_alone_carry_gradients():
    x = torch.randn(T, B, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for run in (lif, unrolled):
        leaf = x.clone().requires_grad_()
        _, u, _ = run(leaf, 0.25, 0.5, 0.0, Options(detach_reset=True))
        found.append(torch.autograd.grad(u.square().sum(), leaf)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("learn", [False, True])
def test_the_leaky_sum(learn):
    x = torch.randn(T, B, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    decay = parameters(per_channel=True, learn=learn)[0]
    found = []
    for run in (leaky_sum, unrolled_leak):
        leaf = x.clone().requires_grad_()
        y = run(leaf, decay)
        gradients = torch.autograd.grad((y * x).sum(), [leaf, decay] if learn else [leaf])
        found.append([y, *gradients])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def unrolled_leak(x, decay):
    y, steps = torch.zeros_like(x[0]), []
    for x_t in x:
        y = decay * y + x_t
        steps.append(y)
    return torch.stack(steps)


def test_the_ends_of_the_rectangle_belong_to_it():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[-1e-7, 0.0, 0.5, 1.0, 1 + 3e-7]], dtype=dtype, requires_grad=True)
        spikes, _, _ = lif(x, 0.25, 0.5, 0.0, Options())
        spikes.sum().backward()
        assert spikes.tolist() == [[0, 0, 0, 1, 1]]  # strict: 0.5 does not fire
        assert x.grad.tolist() == [[0, 1, 1, 1, 0]]
