"""The fused neurons against plain autograd through the unrolled loop: values and gradients, float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rmp_deploy.training.fused import Options, leaky_sum, lif
from rmp_deploy.training.neurons import IF, LI, LIF, CubaLIF
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


def module(kind, per_channel: bool, learn: bool, **options):
    """A layer in float64 with parameters of its own: one number each, or one per channel."""
    each = (SHAPE[0], 1, 1) if per_channel else ()
    g = torch.Generator().manual_seed(4)
    draw = [torch.rand(each, generator=g) for _ in range(4)]
    threshold, decays = 0.3 + 0.4 * draw[0], [0.2 + 0.7 * d for d in draw[1:3]]
    if options.get("reset") == "hard":
        options["v_reset"] = -0.2 * draw[3]
    if kind is LIF:
        layer = LIF(decays[0], threshold, learn_decay=learn, **options)
    elif kind is CubaLIF:
        layer = CubaLIF(decays[1], decays[0], threshold, learn_decay=learn, **options)
    else:
        layer = IF(threshold, **options)
    return layer.double()


def decay_of(layer):
    learnt = dict(layer.named_parameters()).get("decay_logit")
    return layer.fixed_decay if learnt is None else 1 / (1 + torch.exp(-learnt))


def unrolled_module(layer, x):
    current = unrolled_leak(x, layer.current_decay) if isinstance(layer, CubaLIF) else x
    o = Options(layer.reset, layer.detach_reset, layer.surrogate, layer.distance_power)
    return unrolled(current, decay_of(layer), layer.v_threshold, layer.v_reset, o)


def fused_module(layer, x):
    spikes = layer(x)
    return spikes, layer.u, x.new_zeros(()) if layer.distance is None else layer.distance


@pytest.mark.parametrize("surrogate", [Rectangular(0.8), Tanh(), Sigmoid(), Arctan()], ids=repr)
@pytest.mark.parametrize(("reset", "detach"), itertools.product(["hard", "soft"], [False, True]))
@pytest.mark.parametrize("kind", [LIF, IF, CubaLIF])
def test_every_neuron_is_its_equations_step_by_step(kind, reset, detach, surrogate):
    """Spikes, potentials, distance, and the gradients of currents and learnt decays, of all that a module can be."""
    x = torch.randn(T, B, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.6 + 0.2
    weight = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    learning = [False] if kind is IF else [False, True]
    for per_channel, learn, power in itertools.product((False, True), learning, (None, 1, 2)):
        layer = module(kind, per_channel, learn, reset=reset, detach_reset=detach, surrogate=surrogate)
        layer.distance_power = power
        found = []
        for run in (fused_module, unrolled_module):
            leaf = x.clone().requires_grad_()
            spikes, u, distance = run(layer, leaf)
            total = (weight[0] * spikes + weight[1] * u).sum() + 7 * distance
            found.append([spikes, u, distance, *torch.autograd.grad(total, [leaf, *layer.parameters()])])
        assert len(list(layer.parameters())) == learn
        assert 0.1 < found[0][0].mean() < 0.9
        torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("per_channel", "learn"), itertools.product([False, True], [False, True]))
def test_the_leaky_integrator_is_its_equation_step_by_step(per_channel, learn):
    x = torch.randn(T, B, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layer = LI(torch.linspace(0.2, 0.9, 4).reshape(4, 1, 1) if per_channel else 0.6, learn_decay=learn).double()
    found = []
    for run in (layer, lambda leaf: unrolled_leak(leaf, decay_of(layer))):
        leaf = x.clone().requires_grad_()
        v = run(leaf)
        found.append([v, *torch.autograd.grad((v * x).sum(), [leaf, *layer.parameters()])])
    assert len(found[0]) == 2 + learn
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize(("per_channel", "learn"), itertools.product([False, True], [False, True]))
@pytest.mark.parametrize("kind", [LIF, IF, CubaLIF])
def test_single_steps_are_the_whole_sequence(kind, reset, per_channel, learn):
    x = torch.randn(12, B, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.6 + 0.2
    layer = module(kind, per_channel, learn and kind is not IF, reset=reset).eval()
    state, streamed = None, []
    for x_t in x:
        spikes, state = layer.step(x_t, state)
        streamed.append(spikes)
    assert torch.equal(torch.stack(streamed), layer(x))
    assert 0.1 < torch.stack(streamed).mean() < 0.9
    torch.testing.assert_close(state[0], layer.v[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("learn", [False, True])
def test_single_steps_of_the_leaky_integrator_are_the_whole_sequence(learn):
    x = torch.randn(12, B, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer = LI(torch.tensor([0.2, 0.5, 0.8, 0.9]), learn_decay=learn).double()
    state, streamed = None, []
    for x_t in x:
        v, state = layer.step(x_t, state)
        streamed.append(v)
    torch.testing.assert_close(torch.stack(streamed), layer(x), rtol=1e-12, atol=1e-12)
