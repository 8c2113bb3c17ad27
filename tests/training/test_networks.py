"""`build` makes the network that the config names, for the samples that it gets, or says in one line why it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import models
from rmp_deploy.training.config import WIDTHS, ModelConfig, TrainConfig, preset
from rmp_deploy.training.data import Samples
from rmp_deploy.training.loop import train
from rmp_deploy.training.models import DirectEncoding
from rmp_deploy.training.mpbn import MPBNLIF
from rmp_deploy.training.networks import build, check_held_out, network
from rmp_deploy.training.neurons import LIF, neurons
from rmp_deploy.training.surrogate import Tanh


def samples_of(*shape: int, labels: tuple[int, ...] = (0, 2), time_series: bool = False) -> Samples:
    x = np.random.default_rng(0).random((len(labels), *shape), dtype=np.float32)
    return Samples("some", x, np.array(labels), "", time_series)


def config_of(name: str, **options) -> TrainConfig:
    return TrainConfig(model=ModelConfig(name=name, **options))


@pytest.mark.parametrize(
    ("config", "sample", "said"),
    [
        (config_of("convnet"), (1, 6, 6), "ConvNet: map = 6x6, allowed multiples of 4"),
        (config_of("convnet"), (64,), "convnet: sample shape = (64,), allowed (C, H, W)"),
        (config_of("vgg16"), (3, 28, 28), "vgg16: map = 28x28, allowed 32x32 or more"),
        (config_of("resnet20"), (3, 28, 28), "resnet20: map = 28x28, allowed multiples of 16"),
        (config_of("resnet19"), (3, 28), "resnet19: sample shape = (3, 28), allowed (C, H, W)"),
        (config_of("mlp", encoding="time_series"), (3, 5), "sample shape = (3, 5) with model.encoding = 'time_series'"),
        (config_of("mlp", encoding="time_series"), (4,), "allowed (T, ...) with T = model.T = 4"),
    ],
)
def test_samples_that_do_not_fit_are_refused(config, sample, said):
    with pytest.raises(RmpDeployError) as e:
        build(config, samples_of(*sample))
    assert said in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (config_of("mlp", channels=(65_536, 65_536), mpbn=True), 5 * 65_536 + 65_536**2 + 8 * 65_536 + 3 * 65_537),
        (config_of("convnet", channels=(65_536, 65_536)), (9 + 9 * 65_536 + 4 + 4 * 64) * 65_536 + 2 * 64 + 3 * 65),
    ],
)
def test_a_network_of_more_parameters_than_memory_holds_is_refused_before_it_is_made(config, parameters):
    shape = (5,) if config.model.name == "mlp" else (1, 8, 8)
    with pytest.raises(RmpDeployError) as e:
        build(config, samples_of(*shape))
    assert f"{config.model.name}: parameters = {parameters}, allowed <= 1073741824" in str(e.value)
    assert "\n" not in str(e.value)


def test_counting_a_network_draws_no_random_numbers():
    torch.manual_seed(3)
    wanted = models.MLP((5,), 3, (7,), 4)
    torch.manual_seed(3)
    found = network(ModelConfig("mlp", channels=(7,)), (5,), 3)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))


def test_what_cannot_be_allocated_later_is_one_line():
    """The allocator's word, here for 2^62 bytes that a step asks for."""
    config = TrainConfig(epochs=1, model=ModelConfig("mlp", channels=(2,), T=1))
    with pytest.raises(RmpDeployError, match=r"training: not enough memory \(.*\)\. Lower batch") as e:
        train(config, device="cpu", on_step=lambda _: torch.empty(2**60))
    assert "\n" not in str(e.value)


def test_time_series_are_not_taken_for_images():
    with pytest.raises(RmpDeployError, match=r"are time series with model.encoding = 'direct', allowed 'time_series'"):
        build(config_of("convnet"), samples_of(4, 2, 8, 8, time_series=True))


def test_labels_make_the_classes_and_bound_the_held_out_ones():
    model = build(config_of("mlp"), samples_of(5))
    assert model(torch.zeros(2, 5)).shape == (2, 3)
    check_held_out(samples_of(5), samples_of(5, labels=(2, 2, 0)))
    for label in (1, 3):
        with pytest.raises(RmpDeployError, match=f"held-out label = {label}, allowed those that training samples have"):
            check_held_out(samples_of(5), samples_of(5, labels=(label, 0)))
    with pytest.raises(RmpDeployError, match="labels = none"):
        check_held_out(samples_of(5), replace(samples_of(5), y=None))
    with pytest.raises(RmpDeployError, match=r"held-out sample shape = \(6,\), allowed \(5,\)"):
        check_held_out(samples_of(5), samples_of(6))
    with pytest.raises(RmpDeployError, match=r"labels = -1\.\.-1, allowed 0\.\.999999"):
        build(config_of("mlp"), samples_of(5, labels=(-1, -1)))
    with pytest.raises(RmpDeployError, match="labels = none"):
        build(config_of("mlp"), replace(samples_of(5), y=None))


@pytest.mark.parametrize(("mpbn", "kind"), [(False, LIF), (True, MPBNLIF)])
def test_neurons_are_those_of_the_config(mpbn, kind):
    config = config_of(
        "resnet19",
        mpbn=mpbn,
        channels=(2, 3, 4),
        decay=0.5,
        v_threshold=0.75,
        reset="soft",
        surrogate="tanh",
        detach_reset=True,
        learn_decay=True,
    )
    layers = neurons(build(config, samples_of(3, 8, 8)))
    assert len(layers) == 17
    for layer in layers.values():
        assert type(layer) is kind
        assert (float(layer.decay.detach()), float(layer.v_threshold)) == (0.5, 0.75)
        assert (layer.reset, layer.surrogate, layer.detach_reset) == ("soft", Tanh(), True)
        assert isinstance(layer.decay_logit, nn.Parameter)


def test_the_seed_decides_the_weights_and_only_the_direct_encoding_is_inside():
    samples, x = samples_of(1, 8, 8), torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    first, again, other = (build(replace(config_of("convnet"), seed=seed), samples) for seed in (1, 1, 2))
    assert torch.equal(first.conv1.layer.weight, again.conv1.layer.weight)
    assert not torch.equal(first.conv1.layer.weight, other.conv1.layer.weight)
    direct = build(config_of("convnet"), samples).eval()
    for encoding in ("poisson", "ttfs", "time_series"):
        data = samples_of(4, 1, 8, 8) if encoding == "time_series" else samples
        model = build(config_of("convnet", encoding=encoding), data).eval()
        assert not any(isinstance(module, DirectEncoding) for module in model.modules())
        torch.testing.assert_close(model(x.expand(4, 2, 1, 8, 8)), direct(x))


@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_every_network_trains_with_membrane_batchnorms_of_its_channels(name):
    widths = tuple(range(3, 3 + len(WIDTHS[name])))  # all different: a layer given another's channels would not run
    model = build(config_of(name, channels=widths, mpbn=True, T=2), samples_of(1, 32, 32))
    loss = nn.functional.cross_entropy(model(torch.rand(4, 1, 32, 32)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(isinstance(layer, MPBNLIF) for layer in neurons(model).values())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("cifar10-vgg16", (3, 32, 32), 10, 14_728_266),
        ("cifar10-resnet19", (3, 32, 32), 10, 12_569_226),
        ("cifar10-resnet20", (3, 32, 32), 10, 11_247_946),
        ("cifar100-vgg16", (3, 32, 32), 100, 14_728_266 + 90 * 513),
        ("cifar100-resnet19", (3, 32, 32), 100, 12_569_226 + 90 * 513),
        ("cifar100-resnet20", (3, 32, 32), 100, 11_247_946 + 90 * 513),
        ("cifar10dvs-resnet19", (10, 2, 48, 48), 10, 12_569_226 - 128 * 9),
        ("cifar10dvs-resnet20", (10, 2, 48, 48), 10, 11_247_946 - 64 * 9),
        ("imagenet-resnet18", (3, 224, 224), 1000, 11_689_512),
        ("imagenet-resnet34", (3, 224, 224), 1000, 21_797_672),
    ],
)
def test_presets_make_their_networks_for_their_data(name, shape, classes, parameters):
    config = preset(name)
    model = build(config, samples_of(*shape, labels=(0, classes - 1), time_series="dvs" in name))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert config.image_size in (0, shape[-1])
    assert any(isinstance(m, DirectEncoding) for m in model.modules()) == (config.model.encoding == "direct")
