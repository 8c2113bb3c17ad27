"""What carries ordinary layers over time: the encoding, layers applied to every step, the readout; and the neurons."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from rmp_deploy.training.global_batch_norm import GlobalBatchNorm1d, GlobalBatchNorm2d
from rmp_deploy.training.neurons import LIF

Neuron = Callable[[int], nn.Module]  # a layer's channels, or its features where it has no map -> its neurons


def lif(channels: int) -> nn.Module:
    """`LIF` as it is by default; its parameters are the same for all channels."""
    return LIF()


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

    A BatchNorm inside sees T*B samples: its statistics are over time and batch. Where all steps are one in memory
    (`DirectEncoding`, then layers without chance) the layer is applied once and shown T times; the statistics are the
    same but for the correction of the running variance, which then counts B samples and not T*B.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        T, B = x.shape[:2]
        y: Tensor
        if T > 1 and x.stride(0) == 0 and all(type(m) in WITHOUT_CHANCE for m in self.layer.modules()):
            y = self.layer(x[0])
            return y.unsqueeze(0).expand(T, *y.shape)
        y = self.layer(x.flatten(0, 1))
        return y.reshape(T, B, *y.shape[1:])


WITHOUT_CHANCE = (  # the same input gives the same value; a Dropout, or whatever a subclass does, may draw anew
    nn.Sequential,
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    GlobalBatchNorm1d,
    GlobalBatchNorm2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Identity,
)


class MeanOverTime(nn.Module):
    """The readout: [T, B, K] -> [B, K], the mean of the last synapse's currents."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=0)


def conv_bn(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> TimeDistributed:
    """A convolution, padded to keep the map but for its stride, and its BatchNorm; children `conv` and `bn`.

    [T, B, c_in, H, W] -> [T, B, c_out, H/stride, W/stride]
    """
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=bias)
    return TimeDistributed(nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(c_out))))


def classifier(channels: int, n_classes: int) -> TimeDistributed:
    """Global average pooling and one linear layer: [T, B, C, H, W] -> [T, B, n_classes]; children `pool` and `fc`."""
    layers = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, n_classes))
    return TimeDistributed(nn.Sequential(layers))
