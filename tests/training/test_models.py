"""The networks have the sizes that RMP-Loss is evaluated with, and compute what their docstrings say."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rmp_deploy.training.models import (
    MLP,
    BasicBlock,
    ConvNet,
    DirectEncoding,
    TimeDistributed,
    lif,
    resnet18,
    resnet19,
    resnet20,
    resnet34,
    vgg16,
)
from rmp_deploy.training.models.resnet import conv_shortcut
from rmp_deploy.training.neurons import LIF, neurons


@pytest.mark.parametrize(
    ("build", "parameters", "neuron_layers"),
    [
        (vgg16, 14_728_266, 13),  # 14.73 M
        (resnet19, 12_569_226, 17),  # 12.57 M
        (resnet20, 11_247_946, 19),  # 11.25 M
        (resnet18, 11_689_512, 17),  # as torchvision's resnet18
        (resnet34, 21_797_672, 33),  # as torchvision's resnet34
        (MLP, 64 * 128 + 2 * 128 + 128 * 10 + 10, 1),
    ],
)
def test_parameters_are_those_of_the_literature(build, parameters, neuron_layers):
    model = build()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(neurons(model)) == neuron_layers


@pytest.mark.parametrize(
    ("build", "first_kernel"), [(vgg16, 9), (resnet19, 9), (resnet20, 9), (resnet18, 49), (resnet34, 49)]
)
def test_channels_of_the_input_and_classes_change_the_first_and_the_last_layer_alone(build, first_kernel):
    def parameters(**options: object) -> int:
        return sum(p.numel() for p in build(**options).parameters())

    first_width, last_width = (128 if build is resnet19 else 64), 512
    assert parameters(c_in=3) - parameters(c_in=1) == 2 * first_width * first_kernel
    assert parameters(n_classes=100) - parameters(n_classes=10) == 90 * (last_width + 1)


@pytest.mark.parametrize(
    ("build", "shape"),
    [(vgg16, (3, 32, 32)), (resnet19, (3, 32, 32)), (resnet20, (3, 32, 32)), (resnet18, (3, 64, 64))],
)
def test_maps_shrink_to_one_answer_per_class(build, shape):
    torch.manual_seed(0)
    model = build(n_classes=7, T=1).eval()
    with torch.no_grad():
        assert model(torch.rand(1, *shape)).shape == (1, 7)
    last = list(neurons(model).values())[-1]
    assert last.u.shape[2] == 512
    assert last.u.shape[3:] in ((2, 2), (4, 4), (8, 8))


def test_a_block_adds_its_shortcut_to_the_current_before_the_spikes():
    torch.manual_seed(0)
    block = BasicBlock(3, 3, 1, lambda channels: LIF(0.5, 0.2), conv_shortcut).eval()
    x = torch.rand(4, 2, 3, 5, 5).round()
    with torch.no_grad():
        spikes = block(x)
        branch = block.conv2(block.lif1(block.conv1(x)))
    v = torch.zeros_like(x[0])
    for t in range(4):
        u = 0.5 * v + branch[t] + x[t]
        np.testing.assert_array_equal(spikes[t].numpy(), (u > 0.2).float().numpy())
        v = torch.where(u > 0.2, 0.0, u)
    assert isinstance(block.shortcut, nn.Identity)
    assert not isinstance(BasicBlock(3, 3, 2, lif, conv_shortcut).shortcut, nn.Identity)


def test_blocks_of_the_wide_resnet20_start_as_their_shortcut():
    gammas = [m.conv2.layer.bn.weight for m in resnet20().modules() if isinstance(m, BasicBlock)]
    assert len(gammas) == 8
    assert not any(g.any() for g in gammas)


def test_the_mlp_has_a_layer_per_width_and_is_its_equations():
    torch.manual_seed(0)
    model = MLP((2, 3, 3), n_classes=4, hidden=(6, 5), T=3, neuron=lambda features: LIF(0.5))
    assert sum(p.numel() for p in model.parameters()) == 18 * 6 + 2 * 6 + 6 * 5 + 2 * 5 + 5 * 4 + 4
    x = torch.rand(16, 2, 3, 3)
    for _ in range(30):
        model(x)  # the statistics of the batch
    with torch.no_grad():
        found = model.eval()(x)
        currents = [x.flatten(1)] * 3
        for fc, bn in ((model.fc1, model.bn1), (model.fc2, model.bn2)):
            v, spikes = torch.zeros(()), []
            for t in range(3):
                u = 0.5 * v + bn.layer(fc.layer(currents[t]))
                spikes.append((u > 0.5).float())
                v = u * (1 - spikes[t])
            currents = spikes
        assert 0.05 < torch.stack(currents).mean() < 0.95
        torch.testing.assert_close(found, torch.stack([model.fc3.layer(s) for s in currents]).mean(0))


@pytest.mark.parametrize("hidden", [(), (8, 0)])
def test_an_mlp_without_neurons_is_refused(hidden):
    with pytest.raises(ValueError, match=r"MLP: hidden = \[.*\], allowed at least one width"):
        MLP(hidden=hidden)


def test_a_map_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="ConvNet: map = 10x8"):
        ConvNet((1, 10, 8))


def test_equal_steps_are_computed_once_and_are_the_same_network():
    """A direct-encoded first layer: values, statistics and gradients of the layer applied to all T*B samples."""
    torch.manual_seed(0)
    T, B = 4, 3
    once = nn.Sequential(
        DirectEncoding(T), TimeDistributed(nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4))), LIF()
    )
    each = copy.deepcopy(once)
    x = torch.rand(B, 2, 6, 6)
    spikes = once(x)
    repeated = x.repeat(T, 1, 1, 1, 1).requires_grad_()  # in memory of its own
    wanted = each[2](each[1](repeated))
    torch.testing.assert_close(spikes, wanted)
    weight = torch.rand_like(spikes)
    (weight * spikes).sum().backward()
    (weight * wanted).sum().backward()
    for a, b in zip(once.parameters(), each.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    norm, other = once[1].layer[1], each[1].layer[1]
    torch.testing.assert_close(norm.running_mean, other.running_mean)
    n = B * 4 * 4
    batch_variance = (norm.running_var - 0.9) * (n - 1) / n  # momentum 0.1 from 1
    torch.testing.assert_close(batch_variance, (other.running_var - 0.9) * (T * n - 1) / (T * n))


class NoisyLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y + torch.randn_like(y)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), NoisyLinear(50, 50)])
def test_what_draws_by_chance_is_drawn_anew_at_every_step(layer):
    torch.manual_seed(0)
    spread = nn.Sequential(DirectEncoding(4), TimeDistributed(layer))(torch.ones(2, 50))
    assert not any(torch.equal(spread[0], step) for step in spread[1:])
