"""RMP-Loss: its value, its gradient, its schedules, and that it does what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rmp_deploy.analysis.membranes import histogram, quantization_error
from rmp_deploy.training.models import ConvNet
from rmp_deploy.training.neurons import LIF
from rmp_deploy.training.rmp_loss import RMPLoss, quantization_distance, weight_at

U = [-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5]


def test_distance_to_the_nearest_spike_value():
    distances = [0.5, 0.0, 0.25, 0.5, 0.25, 0.0, 0.5]
    u = torch.tensor(U)
    assert quantization_distance(u).item() == pytest.approx(np.mean(distances))
    assert quantization_distance(u, power=2).item() == pytest.approx(np.mean(np.square(distances)))
    assert quantization_error(np.array(U)) == pytest.approx(np.mean(distances))


def test_gradient_pulls_towards_0_and_1():
    """d/du = sign(u) below 1/2 and sign(u - 1) above (the derivative of min), divided by the number of elements."""
    u = torch.tensor([-0.5, 0.25, 0.75, 1.5], requires_grad=True)
    quantization_distance(u).backward()
    assert (4 * u.grad).tolist() == [-1, 1, -1, 1]


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        ("triangle", [0, 0.05, 0.1, 0.05, 0.0]),
        ("ramp_hold", [0, 0.05, 0.1, 0.1, 0.1]),
        ("constant", [0.1, 0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_schedules(schedule, weights):
    assert [weight_at(n, 8, 0.1, schedule) for n in (0, 2, 4, 6, 8)] == pytest.approx(weights)


@pytest.mark.parametrize(
    ("epoch", "epochs", "k", "schedule"),
    [(11, 10, 0.1, "triangle"), (-1, 10, 0.1, "triangle"), (0, 0, 0.1, "triangle"), (math.nan, 10, 0.1, "triangle"),
     (1, 10, math.nan, "triangle"), (1, 10, math.inf, "constant"), (1, 10, -0.1, "triangle"), (1, 10, 0.1, "up")],
)  # fmt: skip
def test_no_weight_outside_of_the_schedule(epoch, epochs, k, schedule):
    with pytest.raises(ValueError, match=r"weight_at: .* allowed epochs >= 1, epoch 0\.\.epochs, finite k >= 0"):
        weight_at(epoch, epochs, k, schedule)


def test_the_loss_is_the_weighted_mean_over_layers():
    torch.manual_seed(0)
    model = ConvNet(channels=(3,), hidden=4)
    loss = RMPLoss(model, k=0.3, schedule="constant")
    with pytest.raises(ValueError, match=r"layer 'lif1' = none, .* Run the model forward first"):
        loss(0, 1)
    model(torch.rand(2, 1, 8, 8))
    layers = [m for m in model.modules() if isinstance(m, LIF)]
    assert len(layers) == 2
    wanted = 0.3 * np.mean([quantization_error(m.u.detach().numpy()) for m in layers])
    assert loss(0, 1).item() == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="Run the model forward first"):
        loss(0, 1)  # of the same pass again
    model(torch.rand(2, 1, 8, 8))
    loss(0, 1)


def test_the_loss_of_a_pass_without_gradient_trains_nothing():
    """A validation pass between the forward pass and the loss."""
    torch.manual_seed(0)
    model = ConvNet(channels=(3,), hidden=4)
    loss = RMPLoss(model, k=1, schedule="constant")
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        model(x)
    with pytest.raises(ValueError, match="the last forward pass had no gradient"):
        loss(0, 1)
    with torch.no_grad():  # to look at it, it is fine
        model(x)
        found = loss(0, 1)
    layers = (model.lif1, model.lif2)
    assert found.item() == pytest.approx(np.mean([quantization_error(m.u.numpy()) for m in layers]), rel=1e-5)


def test_a_layer_that_no_gradient_reaches_does_not_stop_the_others():
    model = ConvNet(channels=(3,), hidden=4)
    for parameter in model.conv1.parameters():
        parameter.requires_grad = False
    loss = RMPLoss(model, schedule="constant")
    model(torch.rand(4, 1, 8, 8))
    loss(0, 1).backward()
    assert model.fc1.layer.weight.grad.abs().sum() > 0


def test_another_loss_on_the_same_layers_does_not_change_the_power_of_the_first():
    model = ConvNet(channels=(3,), hidden=4)
    first, second = RMPLoss(model, power=1), RMPLoss(model, power=2, layers=["lif2"])
    model(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="power of layer 'lif2' = 2, allowed 1"):
        first(0, 1)
    second(0, 1)


def test_the_loss_of_chosen_layers():
    torch.manual_seed(0)
    model = ConvNet(channels=(3,), hidden=4)
    loss = RMPLoss(model, k=1, schedule="constant", layers=["lif2"])
    model(torch.rand(2, 1, 8, 8))
    assert loss(0, 1).item() == pytest.approx(quantization_error(model.lif2.u.detach().numpy()), rel=1e-5)
    assert model.lif1.distance is None
    for layers in ([], ["lif3"]):
        with pytest.raises(ValueError, match="allowed lif1, lif2"):
            RMPLoss(model, layers=layers)


def test_switched_off_it_costs_nothing():
    model = ConvNet(channels=(3,), hidden=4)
    loss = RMPLoss(model, k=0)
    model(torch.rand(2, 1, 8, 8))
    assert loss(0, 1).item() == 0
    assert model.lif1.distance is None


def test_its_gradient_reaches_the_weights_before_every_neuron():
    torch.manual_seed(0)
    model = ConvNet(channels=(3,), hidden=4)
    loss = RMPLoss(model, schedule="constant")
    model(torch.rand(4, 1, 8, 8))
    loss(0, 1).backward()
    assert model.conv1.layer.weight.grad.abs().sum() > 0
    assert model.fc1.layer.weight.grad.abs().sum() > 0
    assert model.fc2.layer.weight.grad is None  # no neuron behind it


@pytest.mark.parametrize("options", [{"k": -1}, {"k": math.nan}, {"k": math.inf}, {"power": 3}, {"schedule": "up"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="allowed finite k >= 0, power 1 or 2"):
        RMPLoss(ConvNet(), **options)
    with pytest.raises(ValueError, match="LIF layers in the model = 0"):
        RMPLoss(torch.nn.Linear(1, 1))


def test_histogram_is_a_density_that_loses_nothing():
    u = np.array([-5.0, -0.1, 0.1, 0.3, 7.0])
    found = histogram(u, -1, 1, bins=4)
    assert found.edges == (-1.0, -0.5, 0.0, 0.5, 1.0)
    assert np.array(found.density) * 0.5 * 5 == pytest.approx([1, 1, 2, 1])
    assert found.quantization_error == quantization_error(u)


def test_the_distance_of_many_potentials_in_half_precision():
    """Their sum is beyond what float16 holds: it is taken in float32."""
    for dtype in (torch.float16, torch.bfloat16):
        layer = LIF()
        rmp_loss = RMPLoss(layer, schedule="constant")
        layer(torch.full((2, 4, 50_000), 0.25, dtype=dtype, requires_grad=True))
        assert rmp_loss(0, 1).item() == pytest.approx(0.1 * (0.25 + 0.3125) / 2, rel=1e-6)


def test_a_batch_of_no_samples_has_no_distance():
    layer = LIF()
    rmp_loss = RMPLoss(layer, schedule="constant")
    layer(torch.zeros(2, 0, 3, requires_grad=True))
    assert rmp_loss(0, 1).item() == 0


@pytest.mark.parametrize("none", [[], ()])
def test_a_loss_of_no_layers_is_refused(none):
    with pytest.raises(ValueError, match="layers = none"):
        RMPLoss(LIF(), layers=none)
