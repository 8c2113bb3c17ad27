"""RMP-Loss in loops that people write: accumulated gradients, evaluation in between, wrapped and copied models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from rmp_deploy.training.models import MLP, DirectEncoding, MeanOverTime, TimeDistributed
from rmp_deploy.training.mpbn import MPBNLIF
from rmp_deploy.training.neurons import LIF, CubaLIF, neurons
from rmp_deploy.training.rmp_loss import RMPLoss, quantization_distance


def without_batchnorm() -> nn.Sequential:
    """A sample's gradient then depends on no other sample."""
    torch.manual_seed(0)
    layers = [DirectEncoding(3), TimeDistributed(nn.Linear(8, 6)), LIF(0.5), TimeDistributed(nn.Linear(6, 5))]
    return nn.Sequential(*layers, CubaLIF(0.5, 0.5), TimeDistributed(nn.Linear(5, 3)), MeanOverTime())


def samples(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return 2 * torch.rand(n, 8, generator=g), torch.randint(3, (n,), generator=g)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters()]


def test_accumulated_gradients_are_those_of_the_whole_batch():
    x, y = samples()
    found = []
    for parts in (1, 3):
        model = without_batchnorm()
        rmp_loss = RMPLoss(model, k=0.7, schedule="constant")
        for inputs, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
            loss = nn.functional.cross_entropy(model(inputs), labels) + rmp_loss(0, 1)
            (loss / parts).backward()
        found.append(gradients(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    assert not torch.allclose(gradients(model)[0], found[0][0], rtol=1e-2)  # the loss has a share in them


def trained(evaluate: bool) -> list[torch.Tensor]:
    """Two epochs, with or without a look at the model after every batch."""
    x, y = samples()
    model = without_batchnorm()
    rmp_loss = RMPLoss(model, k=0.7, schedule="constant")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for epoch in range(2):
        for inputs, labels in zip(x.chunk(3), y.chunk(3), strict=True):
            loss = nn.functional.cross_entropy(model(inputs), labels) + rmp_loss(epoch, 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if evaluate:
                with torch.no_grad():
                    model.eval()(x)
                    rmp_loss(epoch, 2)
                model.train()
    return [p.detach() for p in model.parameters()]


def test_evaluation_between_the_batches_changes_no_weight():
    torch.testing.assert_close(trained(evaluate=True), trained(evaluate=False), rtol=0, atol=0)


def test_a_wrapped_model_has_the_loss_of_the_model():
    x, _ = samples()
    model = without_batchnorm()
    bare = RMPLoss(model, schedule="constant")
    model(x)
    wanted = bare(0, 1)
    wrapped = nn.Sequential(nn.Identity(), nn.ModuleDict({"net": model})["net"])
    wrapped(x)
    assert torch.equal(bare(0, 1), wanted)  # made before it was wrapped
    around = RMPLoss(wrapped, schedule="constant")
    assert list(around.layers) == ["1.2", "1.4"]
    wrapped(x)
    assert torch.equal(around(0, 1), wanted)


def test_chosen_layers_pull_on_nothing_behind_them():
    x, _ = samples()
    model = without_batchnorm()
    rmp_loss = RMPLoss(model, schedule="constant", layers=["2"])
    model(x)
    rmp_loss(0, 1).backward()
    first, second, last = (model[i].layer.weight.grad for i in (1, 3, 5))
    assert first.abs().sum() > 0
    assert second is None
    assert last is None


def test_a_copy_has_layers_of_its_own():
    """An RMPLoss watches the layers that it was made with: the copy needs one of its own, and says so."""
    x, _ = samples()
    model = without_batchnorm()
    rmp_loss = RMPLoss(model, schedule="constant")
    copied = copy.deepcopy(model)
    copied(x)
    with pytest.raises(ValueError, match=r"layer '2' = none, .* Run the model forward first"):
        rmp_loss(0, 1)
    model(x)
    other = RMPLoss(copied, schedule="constant")
    copied(x)
    assert torch.equal(other(0, 1), rmp_loss(0, 1))


def test_weights_that_are_loaded_have_the_loss_of_those_that_were_saved():
    torch.manual_seed(0)
    x = torch.rand(6, 1, 8, 8)
    model, other = MLP(hidden=(6, 5), T=2), MLP(hidden=(6, 5), T=2)
    rmp_loss = RMPLoss(model, schedule="constant")
    model(x)
    rmp_loss(0, 1)
    assert not any("distance" in name for name in model.state_dict())
    other.load_state_dict(model.state_dict())
    again = RMPLoss(other, schedule="constant")
    with torch.no_grad():
        model.eval()(x)
        other.eval()(x)
        assert torch.equal(again(0, 1), rmp_loss(0, 1))


def test_recomputed_activations_have_the_same_gradients():
    """torch.utils.checkpoint without reentry; with it the forward pass has no gradient, and the loss says so."""
    x, y = samples()
    found = []
    for recompute in (False, True):
        model = without_batchnorm()
        rmp_loss = RMPLoss(model, k=0.7, schedule="constant")
        output = checkpoint(model, x, use_reentrant=False) if recompute else model(x)
        (nn.functional.cross_entropy(output, y) + rmp_loss(0, 1)).backward()
        found.append(gradients(model))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    checkpoint(model, x.requires_grad_(), use_reentrant=True)
    with pytest.raises(ValueError, match="the last forward pass had no gradient"):
        rmp_loss(0, 1)


def test_it_is_the_mean_over_any_of_our_neurons():
    x, _ = samples()
    model = without_batchnorm()
    rmp_loss = RMPLoss(model, k=1, schedule="constant")
    model(x)
    wanted = torch.stack([quantization_distance(layer.u) for layer in neurons(model).values()]).mean()
    torch.testing.assert_close(rmp_loss(0, 1), wanted)


def test_of_two_passes_before_one_call_the_last_counts():
    x, _ = samples()
    model = without_batchnorm()
    rmp_loss = RMPLoss(model, schedule="constant")
    model(x[:6])
    wanted = rmp_loss(0, 1)
    model(x)
    model(x[:6])
    assert torch.equal(rmp_loss(0, 1), wanted)


@pytest.mark.parametrize("mpbn", [False, True])
def test_a_model_is_copied_after_a_training_pass(mpbn):
    """The best model so far, moving averages: a copy starts without the last pass, whose tensors torch cannot copy."""
    torch.manual_seed(0)
    x = torch.rand(4, 1, 8, 8)
    model = MLP(hidden=(6, 5), neuron=MPBNLIF) if mpbn else MLP(hidden=(6, 5))
    rmp_loss = RMPLoss(model, schedule="constant")
    (model(x).sum() + rmp_loss(0, 1)).backward()
    copied, averaged = copy.deepcopy(model), AveragedModel(model).module
    for each in (model, copied, averaged):
        each.eval()
    with torch.no_grad():
        assert torch.equal(copied(x), model(x))
        assert torch.equal(averaged(x), model(x))
    assert all(layer.u is not None for layer in neurons(copied).values())


def test_of_mpbn_it_regularizes_what_the_threshold_sees():
    torch.manual_seed(0)
    layer = MPBNLIF(6)
    rmp_loss = RMPLoss(layer, k=1, schedule="constant")
    layer(torch.rand(3, 8, 6))
    assert 0.1 < (layer.u > 0.5).float().mean() < 0.9
    torch.testing.assert_close(rmp_loss(0, 1), quantization_distance(layer.u))
