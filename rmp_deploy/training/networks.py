"""From a config and its samples to the untrained network: one function per name of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data, models
from rmp_deploy.training.config import ModelConfig, ModelName, SurrogateName, TrainConfig
from rmp_deploy.training.data.samples import MAX_CLASSES
from rmp_deploy.training.models import Neuron
from rmp_deploy.training.mpbn import MPBNLIF
from rmp_deploy.training.neurons import LIF
from rmp_deploy.training.surrogate import Arctan, Rectangular, Sigmoid, Surrogate, Tanh

MAX_PARAMETERS = 2**30  # 12 GiB with gradients and momentum; the largest preset has 2 % of them
Builder = Callable[[ModelConfig, tuple[int, ...], int], nn.Module]  # config, one sample's shape, classes -> network
SURROGATES: dict[SurrogateName, Callable[[], Surrogate]] = {
    "rectangular": Rectangular,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "arctan": Arctan,
}


def build(config: TrainConfig, samples: data.Samples) -> nn.Module:
    """The untrained network of `config` for the training samples, weights drawn from its seed.

    As many classes as the largest label says. With the direct encoding [B, *shape] -> [B, n_classes]; with any other
    the network has no encoding and takes [T, B, *shape].

    Raises:
        RmpDeployError: samples that do not fit the network or the encoding, or no labels.
    """
    shape, classes = sample_shape(config, samples), n_classes(samples)
    torch.manual_seed(config.seed)
    return network(config.model, shape, classes)


def network(config: ModelConfig, shape: Sequence[int], n_classes: int) -> nn.Module:
    """The network of `config` for samples of `shape`, without time and batch; weights drawn from torch's generator.

    Raises:
        RmpDeployError: a shape that the network cannot take, neurons that cannot be, or more than `MAX_PARAMETERS`,
            which are counted before any is allocated.
    """
    try:
        with torch.device("meta"):  # shapes alone: no memory, no random numbers
            parameters = sum(p.numel() for p in MODELS[config.name](config, tuple(shape), n_classes).parameters())
        if parameters > MAX_PARAMETERS:
            raise RmpDeployError(
                f"{config.name}: parameters = {parameters}, allowed <= {MAX_PARAMETERS}. Use fewer channels."
            )
        return MODELS[config.name](config, tuple(shape), n_classes)
    except ValueError as e:
        raise RmpDeployError(str(e)) from e


def sample_shape(config: TrainConfig, samples: data.Samples) -> tuple[int, ...]:
    """The shape of what the network sees at one step, [C, H, W] or [N].

    Raises:
        RmpDeployError: time series with another encoding, or as many steps as the network has not.
    """
    m, shape = config.model, tuple(samples.x.shape[1:])
    if m.encoding != "time_series":
        if samples.time_series:
            what = f"samples {shape} are time series with model.encoding = '{m.encoding}'"
            raise RmpDeployError(f"data '{samples.name}': {what}, allowed 'time_series'. Set it.")
        return shape
    if len(shape) < 2 or shape[0] != m.T:
        what = f"sample shape = {shape} with model.encoding = 'time_series'"
        raise RmpDeployError(f"data '{samples.name}': {what}, allowed (T, ...) with T = model.T = {m.T}. Set model.T.")
    return shape[1:]


def n_classes(samples: data.Samples) -> int:
    """One more than the largest label.

    Raises:
        RmpDeployError: no labels, or one out of range.
    """
    if samples.y is None:
        raise _unlabelled(samples)
    low, high = int(samples.y.min()), int(samples.y.max())
    if low < 0 or high >= MAX_CLASSES:
        what = f"labels = {low}..{high}, allowed 0..{MAX_CLASSES - 1}"
        raise RmpDeployError(f"data '{samples.name}': {what}. Number the classes.")
    return high + 1


def check_held_out(samples: data.Samples, held_out: data.Samples) -> None:
    """Raise RmpDeployError unless the held-out samples are of the training samples' shape and classes."""
    if tuple(held_out.x.shape[1:]) != tuple(samples.x.shape[1:]):
        what = f"held-out sample shape = {held_out.x.shape[1:]}, allowed {samples.x.shape[1:]} as in training"
        raise RmpDeployError(f"data '{held_out.name}': {what}. Use samples of one data set.")
    if samples.y is None or held_out.y is None:
        raise _unlabelled(held_out if samples.y is not None else samples)
    unknown = np.setdiff1d(held_out.y, samples.y)
    if len(unknown):
        what = f"held-out label = {unknown[0]}, allowed those that training samples have"
        raise RmpDeployError(f"data '{held_out.name}': {what}. Use samples of one data set.")


def _unlabelled(samples: data.Samples) -> RmpDeployError:
    what = "labels = none, allowed one per sample"
    return RmpDeployError(f"data '{samples.name}': {what}. Add y to train or to score.")


def _neuron(m: ModelConfig) -> Neuron:
    """The one place where a config becomes neurons: a layer's channels -> its neurons."""

    def neuron(channels: int) -> LIF:
        kind: Callable[..., LIF] = partial(MPBNLIF, channels) if m.mpbn else LIF
        return kind(
            m.decay,
            m.v_threshold,
            reset=m.reset,
            surrogate=SURROGATES[m.surrogate](),
            detach_reset=m.detach_reset,
            learn_decay=m.learn_decay,
        )

    return neuron


def _steps(m: ModelConfig) -> int | None:
    """How often the network itself repeats a sample: None where its samples come with their steps."""
    return m.T if m.encoding == "direct" else None


def _image(m: ModelConfig, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise RmpDeployError(f"{m.name}: sample shape = {shape}, allowed (C, H, W). Reshape them, or train an mlp.")
    return shape[0], shape[1], shape[2]


def _convnet(m: ModelConfig, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return models.ConvNet(_image(m, shape), n_classes, m.widths, m.hidden, _steps(m), _neuron(m))


def _mlp(m: ModelConfig, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return models.MLP(shape, n_classes, m.widths, _steps(m), _neuron(m))


def _vgg16(m: ModelConfig, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    c_in, h, w = _image(m, shape)
    if min(h, w) < 32:
        raise RmpDeployError(f"vgg16: map = {h}x{w}, allowed 32x32 or more: it is halved five times. Set image_size.")
    return models.vgg16(n_classes, _steps(m), _neuron(m), c_in, m.widths)


def _resnet20(m: ModelConfig, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    c_in, h, w = _image(m, shape)
    if h % 16 or w % 16:
        raise RmpDeployError(f"resnet20: map = {h}x{w}, allowed multiples of 16: it is halved. Set image_size.")
    return models.resnet20(n_classes, _steps(m), _neuron(m), c_in, m.widths)


def _resnet(make: Callable[..., models.ResNet]) -> Builder:
    """ResNets whose convolutions and shortcuts halve a map alike, rounding up: they take any image."""
    return lambda m, shape, n_classes: make(n_classes, _steps(m), _neuron(m), _image(m, shape)[0], m.widths)


MODELS: dict[ModelName, Builder] = {
    "convnet": _convnet,
    "mlp": _mlp,
    "vgg16": _vgg16,
    "resnet19": _resnet(models.resnet19),
    "resnet20": _resnet20,
    "resnet18": _resnet(models.resnet18),
    "resnet34": _resnet(models.resnet34),
}
