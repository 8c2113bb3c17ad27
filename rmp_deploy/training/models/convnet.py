"""The small convolutional network that the presets train."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rmp_deploy.training.models.layers import DirectEncoding, MeanOverTime, Neuron, TimeDistributed, lif


class ConvNet(nn.Sequential):
    """Small convolutional SNN: conv-BN-LIF-AvgPool blocks, a hidden layer, a linear readout averaged over T.

    [B, C, H, W] -> [B, n_classes]; with T None the input has its steps already, [T, B, C, H, W]. Every block halves
    the map.

    Raises:
        ValueError: the map cannot be halved once per block.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 8, 8),
        n_classes: int = 10,
        channels: Sequence[int] = (16, 32),
        hidden: int = 64,
        T: int | None = 4,
        neuron: Neuron = lif,
    ) -> None:
        super().__init__()
        c_in, h, w = input_shape
        if h % 2 ** len(channels) or w % 2 ** len(channels):
            raise ValueError(f"ConvNet: map = {h}x{w}, allowed multiples of {2 ** len(channels)}. Pad the images.")
        if T is not None:
            self.add_module("encode", DirectEncoding(T))
        for i, c_out in enumerate(channels, start=1):
            self.add_module(f"conv{i}", TimeDistributed(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)))
            self.add_module(f"bn{i}", TimeDistributed(nn.BatchNorm2d(c_out)))
            self.add_module(f"lif{i}", neuron(c_out))
            self.add_module(f"pool{i}", TimeDistributed(nn.AvgPool2d(2)))
            c_in, h, w = c_out, h // 2, w // 2
        last = len(channels) + 1
        self.add_module("flatten", TimeDistributed(nn.Flatten()))
        self.add_module("fc1", TimeDistributed(nn.Linear(c_in * h * w, hidden, bias=False)))
        self.add_module(f"bn{last}", TimeDistributed(nn.BatchNorm1d(hidden)))
        self.add_module(f"lif{last}", neuron(hidden))
        self.add_module("fc2", TimeDistributed(nn.Linear(hidden, n_classes)))
        self.add_module("readout", MeanOverTime())
