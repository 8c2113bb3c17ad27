"""VGG (Simonyan and Zisserman, ICLR 2015) with spiking neurons and average pooling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rmp_deploy.training.models.layers import (
    DirectEncoding,
    MeanOverTime,
    Neuron,
    TimeDistributed,
    classifier,
    conv_bn,
    lif,
)

DEPTHS = (2, 2, 3, 3, 3)  # of the paper's configuration D, VGG16


class VGG(nn.Sequential):
    """Stages of conv-BN-LIF with a 2x2 average pool behind each; global average pooling, one linear layer, mean over T.

    [B, c_in, H, W] -> [B, n_classes]; with T None the input has its steps already, [T, B, c_in, H, W]. Every stage
    halves the map, rounded down. Layers are named as conv1_2: stage, place in it.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        n_classes: int = 10,
        T: int | None = 4,
        neuron: Neuron = lif,
        c_in: int = 3,
    ) -> None:
        super().__init__()
        if T is not None:
            self.add_module("encode", DirectEncoding(T))
        for i, stage in enumerate(stages, start=1):
            for j, c_out in enumerate(stage, start=1):
                self.add_module(f"conv{i}_{j}", conv_bn(c_in, c_out, bias=True))
                self.add_module(f"lif{i}_{j}", neuron(c_out))
                c_in = c_out
            self.add_module(f"pool{i}", TimeDistributed(nn.AvgPool2d(2)))
        self.add_module("head", classifier(c_in, n_classes))
        self.add_module("readout", MeanOverTime())


def vgg16(
    n_classes: int = 10,
    T: int | None = 4,
    neuron: Neuron = lif,
    c_in: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
) -> VGG:
    """VGG16 for [B, 3, 32, 32]: 13 convolutions and one linear layer, 14.73 M parameters with 10 classes."""
    stages = [(width,) * depth for width, depth in zip(widths, DEPTHS, strict=True)]
    return VGG(stages, n_classes, T, neuron, c_in)
