"""Networks from torch through export, folding and the file: every spike equal, or a tie within float rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rmp_deploy
from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
from rmp_deploy.ir.ops import Add, BatchNorm, Concat
from rmp_deploy.training.models import VGG, BasicBlock, DirectEncoding, TimeDistributed, resnet19, resnet20
from rmp_deploy.training.models.resnet import conv_shortcut, pool_shortcut
from rmp_deploy.training.neurons import IF, LIF, CubaLIF


class RandomNet(nn.Module):
    """Residual blocks, concatenations and grouped, dilated or strided convolutions, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        self.encode, self.blocks, self.skips = DirectEncoding(3), nn.ModuleList(), []
        c = 4
        self.stem = nn.Sequential(TimeDistributed(nn.Conv2d(2, c, 3, padding=1)), self.neuron(rng))
        for _ in range(3):
            kind = rng.choice(["residual", "concat", "plain", "pooled"])
            if kind == "residual":
                c_out = int(rng.choice([c, c + 2]))
                shortcut = conv_shortcut if rng.random() < 0.5 else pool_shortcut
                block = BasicBlock(c, c_out, int(rng.integers(1, 3)), lambda channels: self.neuron(rng), shortcut)
            else:
                groups, dilation = int(rng.choice([1, 2])), int(rng.integers(1, 3))
                c_out = 2 * int(rng.integers(1, 4))
                conv = nn.Conv2d(
                    c, c_out, 3, padding="same", dilation=dilation, groups=groups, bias=bool(rng.integers(2))
                )
                after = nn.AvgPool2d(2) if kind == "pooled" else nn.Identity()
                layers = nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.Dropout(0.3))
                block = nn.Sequential(TimeDistributed(layers), self.neuron(rng), TimeDistributed(after))
            self.skips.append(kind == "concat")
            self.blocks.append(block)
            c = c + c_out if kind == "concat" else c_out
            if kind == "pooled":
                break
        self.pool = TimeDistributed(nn.AdaptiveAvgPool2d(1))
        self.norm = TimeDistributed(nn.BatchNorm1d(c))
        self.fc = nn.Linear(c, 5)

    @staticmethod
    def neuron(rng: np.random.Generator) -> LIF:
        kinds = [
            lambda: LIF(0.25, 0.3),
            lambda: LIF(0.5, 0.4, reset="soft"),
            lambda: IF(0.6, v_reset=-0.1),
            lambda: CubaLIF(0.3, 0.5, 0.5),
        ]
        return kinds[int(rng.integers(len(kinds)))]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.encode(x))
        for block, concat in zip(self.blocks, self.skips, strict=False):
            y = block(x)
            x = torch.cat([x, y], dim=2) if concat else y
        return self.fc(self.norm(self.pool(x).flatten(2))).mean(0)


def calibrated(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """BatchNorms with gammas, betas and the statistics of one batch, so that every layer fires."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            nn.init.normal_(layer.bias, 0.1, 0.2)
    with torch.no_grad():
        model.train()(torch.rand(16, *shape))
    return model.eval()


def assert_the_same_network(model: nn.Module, shape: tuple[int, ...], samples: int = 4) -> rmp_deploy.SpikingGraph:
    model = calibrated(model, shape)
    x = np.random.default_rng(0).random((samples, *shape), dtype=np.float32)
    trained = to_graph(model, shape)
    graph = rmp_deploy.fold_batchnorm(trained)
    traces = [
        trace_torch(model, x, trained.input.encoding),
        rmp_deploy.run(graph, x, "reference", record=("spikes", "v")),
        rmp_deploy.run(graph, x, "onnxruntime", record=("spikes", "v")),
    ]
    for rung in rmp_deploy.climb(graph, x, traces, trained):
        assert rung.holds, rung
        assert rung.mismatches <= 1e-4 * rung.compared
    rates = {name: float(spikes.mean()) for name, spikes in traces[0].spikes.items()}
    assert all(0.005 < rate < 0.995 for rate in rates.values()), rates
    return trained


def test_random_residual_concatenated_and_grouped_networks():
    seen = set()
    for seed in range(5):
        trained = assert_the_same_network(RandomNet(seed), (2, 8, 8))
        seen |= {type(op) for op in trained.ops}
    assert {Add, Concat, BatchNorm} <= seen


@pytest.mark.parametrize(
    "build",
    [
        lambda: resnet19(widths=(4, 6, 8)),
        lambda: resnet20(widths=(4, 6, 8, 10)),
        lambda: VGG(((4, 4), (6,), (8, 8)), T=3),
    ],
    ids=["resnet19", "resnet20", "vgg"],
)
def test_narrow_networks_of_the_literature(build):
    torch.manual_seed(0)
    trained = assert_the_same_network(build(), (3, 16, 16), samples=1)
    assert not rmp_deploy.fold_batchnorm(trained).of_type(BatchNorm)


def test_a_batchnorm_that_cannot_fold_runs_in_the_file():
    """Spikes, BatchNorm, padded convolution: at the border the convolution sees zeros, not the shift."""

    class AfterNeuron(nn.Sequential):
        pass

    torch.manual_seed(0)
    layers = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1))
    model = AfterNeuron(
        DirectEncoding(3), TimeDistributed(nn.Conv2d(2, 4, 3)), LIF(0.5, 0.2), TimeDistributed(layers), LIF(0.5, 0.2),
        TimeDistributed(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())), nn.Linear(3, 2), Mean(),
    )  # fmt: skip
    trained = assert_the_same_network(model, (2, 8, 8))
    assert len(rmp_deploy.fold_batchnorm(trained).of_type(BatchNorm)) == 1


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)
