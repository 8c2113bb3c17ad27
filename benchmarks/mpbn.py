"""MPBN: spikes before and after its BatchNorm is folded into thresholds, and the time of a training step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from float_networks import rungs_of
from timing import alternate
from torch import Tensor, nn

import rmp_deploy
from rmp_deploy.converters.torch_mpbn import fold
from rmp_deploy.converters.torch_to_ir import to_graph
from rmp_deploy.ir import ops
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import data
from rmp_deploy.training.models import ConvNet, resnet19
from rmp_deploy.training.mpbn import MPBNLIF
from rmp_deploy.training.neurons import LIF, neurons
from rmp_deploy.training.rmp_loss import quantization_distance
from rmp_deploy.training.straight_through import spike

RECORD = ("spikes", "v")
EPOCHS, BATCH, T = 5, 64, 4
STEP_SHAPES = ((4, 32, 64, 16, 16), (4, 32, 256, 8, 8))  # [T, B, C, H, W]


def mpbn_fold(quick: bool) -> dict[str, object]:
    """Spikes that differ where half of the gains are negative.

    float64, float32: in torch, from plain neurons with the folded thresholds. rungs: of the graph, from torch in
    float32, whose sums round differently: a tie is a potential within that rounding of its threshold, and the spikes
    behind it differ with it.
    """
    folds: dict[str, dict[str, object]] = {"float64": {}, "float32": {}}
    rungs: dict[str, object] = {}
    for name, (model, x) in {
        "convnet": trained_convnet(),
        **({} if quick else {"resnet19": random_resnet19()}),
    }.items():
        shape = x.shape[1:]
        trained = to_graph(model, shape, name)
        graph = rmp_deploy.fold_batchnorm(trained)
        assert not graph.of_type(ops.BatchNorm)
        rungs.update({f"{name}: {rung}": figures for rung, figures in rungs_of(model, x, trained, graph).items()})
        folds["float32"][name] = mismatches_of_fold(model, torch.from_numpy(x))
        folds["float64"][name] = mismatches_of_fold(model.double(), torch.from_numpy(x).double())
    return {**folds, "rungs": rungs}


def mpbn_integers(quick: bool) -> dict[str, object]:
    """The digits network in Loihi's integers, which need thresholds above 0: accuracy on the held-out samples."""
    model, x = trained_convnet()
    graph = rmp_deploy.fold_batchnorm(to_graph(model, x.shape[1:]))
    integers = quantize(graph, data.load("digits", "train").x[:100]).graph
    labels = data.load("digits", "test").y

    def accuracy(graph: SpikingGraph) -> float:
        return round(float((rmp_deploy.run(graph, x, "onnxruntime").output.argmax(axis=1) == labels).mean()), 4)

    return {
        "lowest_threshold": {op.name: round(float(op.v_threshold.min()), 3) for op in graph.of_type(ops.LIF)},
        "accuracy": accuracy(graph),
        "accuracy_in_integers": accuracy(integers),
    }


def mpbn_step(quick: bool) -> dict[str, object]:
    """Forward and backward of one layer with RMP-Loss, in milliseconds: our neurons, the same equations as a loop of
    autograd operations, and what a BatchNorm of every step's current costs in front of plain LIF neurons.
    """
    milliseconds: dict[str, dict[str, float]] = {}
    for shape in STEP_SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        contestants = {kind.__name__: _step(kind(shape[2]), x) for kind in (_Ours, _Unrolled, _BatchNormAndLIF)}
        seconds = alternate(contestants, rounds=5 if quick else 25)
        milliseconds[str(shape)] = {name.strip("_"): round(1e3 * s, 1) for name, s in seconds.items()}
    return {"threads": torch.get_num_threads(), "milliseconds": milliseconds}


def turned(model: nn.Module) -> nn.Module:
    """Every other gain negative."""
    for layer in neurons(model).values():
        assert isinstance(layer, MPBNLIF)
        with torch.no_grad():
            layer.bn.weight[::2] *= -1
    return model


def trained_convnet() -> tuple[nn.Module, np.ndarray]:
    """The digits network, trained from gains of both signs, and its held-out samples."""
    torch.manual_seed(0)
    model = turned(ConvNet(neuron=MPBNLIF))
    train, test = data.load("digits", "train"), data.load("digits", "test")
    x, y = torch.from_numpy(train.x[:]), torch.from_numpy(train.y)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model.train()(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval(), test.x[:]


def random_resnet19() -> tuple[nn.Module, np.ndarray]:
    """ResNet19 for 3x32x32 with random weights, the statistics of one random batch, and one sample."""
    torch.manual_seed(0)
    model = turned(resnet19(T=T, neuron=MPBNLIF))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None  # of this batch alone
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 32, 32))
    return model.eval(), np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)


def mismatches_of_fold(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Spikes compared, and those that differ once every MPBN layer is a plain LIF with the folded thresholds."""
    layers, wanted = neurons(model), _spikes(model, x)
    for name, layer in layers.items():
        model.set_submodule(name, _folded(layer, wanted[name].dim() - 2))
    found = list(_spikes(model, x).values())
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return {
        "compared": sum(spikes.numel() for spikes in found),
        "mismatches": sum(int((a != b).sum()) for a, b in zip(wanted.values(), found, strict=True)),
    }


def _spikes(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _x, spikes, name=name: found.update({name: spikes}))
        for name, layer in neurons(model).items()
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def _folded(layer: MPBNLIF, axes: int) -> nn.Module:
    folded, lif = fold(layer, axes), LIF().eval()
    lif.fixed_decay, lif.v_threshold = layer.decay, folded.v_threshold
    return nn.Sequential(_Times(folded.sign), lif)


class _Times(nn.Module):
    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class _Ours(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lif = MPBNLIF(channels)
        self.lif.distance_power = 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.lif(x), self.lif.distance


class _Unrolled(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn, self.lif = nn.BatchNorm2d(channels), LIF()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, spikes, potentials = torch.zeros_like(x[0]), [], []
        for x_t in x:
            u = 0.25 * v + x_t
            m = self.bn(u)
            s = spike(m, self.lif.v_threshold, 1.0, self.lif.surrogate)
            v = u * (1 - s)
            spikes.append(s)
            potentials.append(m)
        return torch.stack(spikes), quantization_distance(torch.stack(potentials))


class _BatchNormAndLIF(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn, self.lif = nn.BatchNorm2d(channels), LIF()
        self.lif.distance_power = 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.lif(torch.stack([self.bn(x_t) for x_t in x])), self.lif.distance


def _step(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        leaf = x.clone().requires_grad_()
        spikes, distance = layer(leaf)
        ((spikes * x).sum() + distance).backward()

    return step
