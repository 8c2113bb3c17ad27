"""VGG (Simonyan and Zisserman, ICLR 2015) with LIF neurons and average pooling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rmp_deploy.training.models.layers import DirectEncoding, MeanOverTime, TimeDistributed, classifier, conv_bn
from rmp_deploy.training.neurons import LIF

CONFIGURATION_D = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Sequential):
    """Stages of conv-BN-LIF with a 2x2 average pool behind each; global average pooling, one linear layer, mean over T.

    [B, c_in, H, W] -> [B, n_classes]; every stage halves the map. Layers are named as conv1_2: stage, place in it.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]] = CONFIGURATION_D,
        n_classes: int = 10,
        T: int = 4,
        decay: float = 0.25,
        v_threshold: float = 0.5,
        c_in: int = 3,
    ) -> None:
        super().__init__()
        self.add_module("encode", DirectEncoding(T))
        for i, stage in enumerate(stages, start=1):
            for j, c_out in enumerate(stage, start=1):
                self.add_module(f"conv{i}_{j}", conv_bn(c_in, c_out, bias=True))
                self.add_module(f"lif{i}_{j}", LIF(decay, v_threshold))
                c_in = c_out
            self.add_module(f"pool{i}", TimeDistributed(nn.AvgPool2d(2)))
        self.add_module("head", classifier(c_in, n_classes))
        self.add_module("readout", MeanOverTime())


def vgg16(n_classes: int = 10, T: int = 4, decay: float = 0.25, v_threshold: float = 0.5) -> VGG:
    """VGG16 for [B, 3, 32, 32]: 13 convolutions and one linear layer, 14.73 M parameters with 10 classes."""
    return VGG(CONFIGURATION_D, n_classes, T, decay, v_threshold)
