"""Spiking ResNets: the residual sum is the current of a block's last neurons, so that only spikes leave a block.

Widths, depths and stems are those that RMP-Loss is evaluated with (docs/rmp_loss.md).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from rmp_deploy.training.models.layers import (
    DirectEncoding,
    MeanOverTime,
    Neuron,
    TimeDistributed,
    classifier,
    conv_bn,
    lif,
)

Shortcut = Callable[[int, int, int], nn.Module]  # (c_in, c_out, stride)


def conv_shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    """A strided 1x1 convolution and BatchNorm."""
    return conv_bn(c_in, c_out, kernel=1, stride=stride)


def pool_shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    """Average pooling, then a 1x1 convolution and BatchNorm."""
    conv = nn.Conv2d(c_in, c_out, 1, bias=False)
    return TimeDistributed(nn.Sequential(OrderedDict(pool=nn.AvgPool2d(stride), conv=conv, bn=nn.BatchNorm2d(c_out))))


class BasicBlock(nn.Module):
    """``spikes = lif2(bn(conv(lif1(bn(conv(x))))) + shortcut(x))``, [T, B, C_in, H, W] -> [T, B, C_out, H/s, W/s].

    The shortcut is the identity where neither the stride nor the channels change.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, neuron: Neuron, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = conv_bn(c_in, c_out, stride=stride)
        self.lif1 = neuron(c_out)
        self.conv2 = conv_bn(c_out, c_out)
        self.shortcut = nn.Identity() if stride == 1 and c_in == c_out else shortcut(c_in, c_out, stride)
        self.lif2 = neuron(c_out)

    def forward(self, x: Tensor) -> Tensor:
        current = self.conv2(self.lif1(self.conv1(x))) + self.shortcut(x)
        spikes: Tensor = self.lif2(current)
        return spikes


class ResNet(nn.Sequential):
    """Direct encoding, a stem, stages of `BasicBlock`, global average pooling, one linear layer, mean over T.

    [B, C, H, W] -> [B, n_classes]; with T None the input has its steps already, [T, B, C, H, W]. The first block of
    every stage but the first halves the map.
    """

    def __init__(
        self,
        stem: nn.Module,
        c_stem: int,
        blocks: Sequence[int],
        widths: Sequence[int],
        n_classes: int,
        T: int | None,
        neuron: Neuron,
        shortcut: Shortcut = conv_shortcut,
    ) -> None:
        super().__init__()
        if T is not None:
            self.add_module("encode", DirectEncoding(T))
        self.add_module("stem", stem)
        c_in = c_stem
        for i, (n, c_out) in enumerate(zip(blocks, widths, strict=True), start=1):
            stage = []
            for j in range(n):
                stage.append(BasicBlock(c_in, c_out, 2 if i > 1 and j == 0 else 1, neuron, shortcut))
                c_in = c_out
            self.add_module(f"stage{i}", nn.Sequential(*stage))
        self.add_module("head", classifier(c_in, n_classes))
        self.add_module("readout", MeanOverTime())


def resnet19(
    n_classes: int = 10,
    T: int | None = 4,
    neuron: Neuron = lif,
    c_in: int = 3,
    widths: Sequence[int] = (128, 256, 512),
) -> ResNet:
    """ResNet19 for [B, 3, 32, 32]: 3, 3 and 2 blocks, 12.57 M parameters with 10 classes."""
    stem = nn.Sequential(OrderedDict(conv=conv_bn(c_in, widths[0]), lif=neuron(widths[0])))
    return ResNet(stem, widths[0], (3, 3, 2), widths, n_classes, T, neuron)


def resnet20(
    n_classes: int = 10,
    T: int | None = 4,
    neuron: Neuron = lif,
    c_in: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512),
) -> ResNet:
    """The wide ResNet20 for [B, 3, 32, 32]: a stem of three convolutions and a pool, four stages of 2 blocks,
    shortcuts that pool; 11.25 M parameters with 10 classes. The last BatchNorm of a block starts with gamma = 0.
    """
    stem = nn.Sequential(
        OrderedDict(
            conv1=conv_bn(c_in, widths[0]),
            lif1=neuron(widths[0]),
            conv2=conv_bn(widths[0], widths[0]),
            lif2=neuron(widths[0]),
            conv3=conv_bn(widths[0], widths[0]),
            lif3=neuron(widths[0]),
            pool=TimeDistributed(nn.AvgPool2d(2)),
        )
    )
    model = ResNet(stem, widths[0], (2, 2, 2, 2), widths, n_classes, T, neuron, pool_shortcut)
    for block in model.modules():
        if isinstance(block, BasicBlock):
            nn.init.zeros_(block.conv2.layer.bn.weight)  # type: ignore[union-attr, arg-type]
    return model


def resnet18(
    n_classes: int = 1000,
    T: int | None = 4,
    neuron: Neuron = lif,
    c_in: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512),
) -> ResNet:
    """ResNet18 for [B, 3, 224, 224]: 11.69 M parameters with 1000 classes."""
    return _for_224((2, 2, 2, 2), n_classes, T, neuron, c_in, widths)


def resnet34(
    n_classes: int = 1000,
    T: int | None = 4,
    neuron: Neuron = lif,
    c_in: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512),
) -> ResNet:
    """ResNet34 for [B, 3, 224, 224]: 21.80 M parameters with 1000 classes."""
    return _for_224((3, 4, 6, 3), n_classes, T, neuron, c_in, widths)


def _for_224(
    blocks: Sequence[int], n_classes: int, T: int | None, neuron: Neuron, c_in: int, widths: Sequence[int]
) -> ResNet:
    """A 7x7 stem with stride 2 and a 3x3 average pool with stride 2, then four stages."""
    pool = TimeDistributed(nn.AvgPool2d(3, stride=2, padding=1))
    conv = conv_bn(c_in, widths[0], kernel=7, stride=2)
    stem = nn.Sequential(OrderedDict(conv=conv, lif=neuron(widths[0]), pool=pool))
    return ResNet(stem, widths[0], blocks, widths, n_classes, T, neuron)
