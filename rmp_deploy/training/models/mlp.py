"""The small fully connected network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from rmp_deploy.training.models.layers import DirectEncoding, MeanOverTime, Neuron, TimeDistributed, lif


class MLP(nn.Sequential):
    """Fully connected SNN: linear-BN-LIF layers behind the flattened sample, a linear readout averaged over T.

    [B, *input_shape] -> [B, n_classes]; with T None the input has its steps already, [T, B, *input_shape]. One hidden
    layer per width of `hidden`.

    Raises:
        ValueError: no hidden layer, or a width below 1.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 8, 8),
        n_classes: int = 10,
        hidden: Sequence[int] = (128,),
        T: int | None = 4,
        neuron: Neuron = lif,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"MLP: hidden = {list(hidden)}, allowed at least one width, each >= 1. Name the widths.")
        if T is not None:
            self.add_module("encode", DirectEncoding(T))
        self.add_module("flatten", TimeDistributed(nn.Flatten()))
        n_in = math.prod(input_shape)
        for i, n_out in enumerate(hidden, start=1):
            self.add_module(f"fc{i}", TimeDistributed(nn.Linear(n_in, n_out, bias=False)))
            self.add_module(f"bn{i}", TimeDistributed(nn.BatchNorm1d(n_out)))
            self.add_module(f"lif{i}", neuron(n_out))
            n_in = n_out
        self.add_module(f"fc{len(hidden) + 1}", TimeDistributed(nn.Linear(n_in, n_classes)))
        self.add_module("readout", MeanOverTime())
