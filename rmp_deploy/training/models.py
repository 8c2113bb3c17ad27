"""Networks of ordinary torch layers and our neurons. Between neurons every tensor is [T, B, ...]."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rmp_deploy.training.neurons import LIF


class DirectEncoding(nn.Module):
    """Repeat a real-valued sample at every step: [B, ...] -> [T, B, ...]; the first synapses do the encoding."""

    def __init__(self, T: int) -> None:
        super().__init__()
        if type(T) is not int or T < 1:
            raise ValueError(f"DirectEncoding: T = {T!r}, allowed whole numbers >= 1.")
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.T, *x.shape)


class TimeDistributed(nn.Module):
    """Apply a layer without memory to every step: [T, B, ...] -> [T*B, ...] -> layer -> [T, B, ...].

    A BatchNorm inside sees T*B samples: its statistics are over time and batch.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(0, 1))
        return y.reshape(x.shape[0], x.shape[1], *y.shape[1:])


class MeanOverTime(nn.Module):
    """The readout: [T, B, K] -> [B, K], the mean of the last synapse's currents."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=0)


class ConvNet(nn.Sequential):
    """Small convolutional SNN: conv-BN-LIF-AvgPool blocks, a hidden layer, a linear readout averaged over T.

    [B, C, H, W] -> [B, n_classes]. Every block halves the map.

    Raises:
        ValueError: the map cannot be halved once per block.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 8, 8),
        n_classes: int = 10,
        channels: Sequence[int] = (16, 32),
        hidden: int = 64,
        T: int = 4,
        decay: float = 0.25,
        v_threshold: float = 0.5,
    ) -> None:
        super().__init__()
        c_in, h, w = input_shape
        if h % 2 ** len(channels) or w % 2 ** len(channels):
            raise ValueError(f"ConvNet: map = {h}x{w}, allowed multiples of {2 ** len(channels)}. Pad the images.")
        self.add_module("encode", DirectEncoding(T))
        for i, c_out in enumerate(channels, start=1):
            self.add_module(f"conv{i}", TimeDistributed(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)))
            self.add_module(f"bn{i}", TimeDistributed(nn.BatchNorm2d(c_out)))
            self.add_module(f"lif{i}", LIF(decay, v_threshold))
            self.add_module(f"pool{i}", TimeDistributed(nn.AvgPool2d(2)))
            c_in, h, w = c_out, h // 2, w // 2
        last = len(channels) + 1
        self.add_module("flatten", TimeDistributed(nn.Flatten()))
        self.add_module("fc1", TimeDistributed(nn.Linear(c_in * h * w, hidden, bias=False)))
        self.add_module(f"bn{last}", TimeDistributed(nn.BatchNorm1d(hidden)))
        self.add_module(f"lif{last}", LIF(decay, v_threshold))
        self.add_module("fc2", TimeDistributed(nn.Linear(hidden, n_classes)))
        self.add_module("readout", MeanOverTime())
