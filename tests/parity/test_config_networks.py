"""Every network that a config can name is exported, BatchNorm folded, and spikes as torch does, with every encoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import rmp_deploy
from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
from rmp_deploy.ir.ops import LIF, BatchNorm
from rmp_deploy.training.config import ModelConfig, TrainConfig
from rmp_deploy.training.data import Samples
from rmp_deploy.training.encoders import encode
from rmp_deploy.training.networks import build, sample_shape
from rmp_deploy.training.neurons import neurons

T, N = 3, 16
NARROW = {  # widths, one sample
    "convnet": ((3, 4), (2, 8, 8)),
    "mlp": ((12, 8), (2, 4, 4)),
    "vgg16": ((3, 4, 4, 4, 4), (1, 48, 48)),  # halved to 3x3, of which the last pool drops a row and a column
    "resnet19": ((3, 4, 5), (2, 9, 9)),
    "resnet20": ((3, 4, 5, 6), (1, 16, 16)),
    "resnet18": ((3, 4, 5, 6), (3, 32, 32)),
    "resnet34": ((3, 4, 5, 6), (1, 32, 32)),
}


def trained(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """BatchNorms with gammas and betas of their own and the statistics of `x`, so that every layer fires."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            nn.init.normal_(layer.bias, 0.1, 0.2)
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def config_of(name: str, **options) -> TrainConfig:
    return TrainConfig(model=ModelConfig(name, NARROW[name][0], T=T, **options))


def assert_the_same_spikes(
    model: nn.Module, of_torch: rmp_deploy.SpikingGraph, graph: rmp_deploy.SpikingGraph, x
) -> None:
    traces = [
        trace_torch(model, x, graph.input.encoding),
        rmp_deploy.run(graph, x, "reference", record=("spikes", "v")),
    ]
    (rung,) = rmp_deploy.climb(graph, x, traces, of_torch)
    assert rung.holds, rung
    assert rung.mismatches == 0
    rates = {layer: float(spikes.mean()) for layer, spikes in traces[0].spikes.items()}
    assert all(0.005 < rate < 0.995 for rate in rates.values()), rates


@pytest.mark.parametrize("encoding", ["direct", "poisson", "ttfs", "time_series"])
@pytest.mark.parametrize("name", NARROW)
def test_every_network_spikes_the_same_in_torch_and_in_the_graph(name, encoding):
    config, shape = config_of(name, encoding=encoding), NARROW[name][1]
    rng = np.random.default_rng(0)
    x = rng.random((N, T, *shape) if encoding == "time_series" else (N, *shape), dtype=np.float32)
    samples = Samples("some", x, np.arange(N) % 3, "")
    inputs = torch.from_numpy(x)
    if encoding != "direct":
        inputs = encode(inputs, T, encoding, torch.Generator().manual_seed(0))
    model = trained(build(config, samples), inputs)

    of_torch = to_graph(model, sample_shape(config, samples), T=None if encoding == "direct" else T)
    graph = rmp_deploy.fold_batchnorm(of_torch)
    assert graph.input.encoding == ("direct" if encoding == "direct" else "time_series")
    assert (graph.T, graph.input.shape, graph.shapes[graph.readout.value]) == (T, shape, (3,))
    assert not graph.of_type(BatchNorm)
    fed = (inputs if encoding == "direct" else inputs.transpose(0, 1)).numpy()[:4]
    assert_the_same_spikes(model, of_torch, graph, fed)


@pytest.mark.parametrize("name", NARROW)
def test_every_network_with_membrane_batchnorms_spikes_the_same_in_the_graph(name):
    x = np.random.default_rng(0).random((N, *NARROW[name][1]), dtype=np.float32)
    model = build(config_of(name, mpbn=True), Samples("some", x, np.arange(N) % 3, ""))
    model = trained(model, torch.from_numpy(x))
    of_torch = to_graph(model, NARROW[name][1])
    graph = rmp_deploy.fold_batchnorm(of_torch)
    assert not graph.of_type(BatchNorm)
    assert any(op.v_threshold.size > 1 for op in graph.of_type(LIF))  # a threshold per channel
    assert_the_same_spikes(model, of_torch, graph, x[:4])


@pytest.mark.parametrize("name", ["mlp", "resnet19"])
def test_learnt_decays_are_in_the_file_as_they_were_learnt(name, tmp_path):
    """A step of SGD moves every layer's decay; torch's new value is the graph's, in float32, also from the file."""
    config, shape = config_of(name, decay=0.4, learn_decay=True), NARROW[name][1]
    x = np.random.default_rng(0).random((N, *shape), dtype=np.float32)
    inputs, labels = torch.from_numpy(x), torch.arange(N) % 3
    model = trained(build(config, Samples("some", x, labels.numpy(), "")), inputs)
    nn.functional.cross_entropy(model.train()(inputs), labels).backward()
    torch.optim.SGD(model.parameters(), lr=5.0).step()

    of_torch = to_graph(model.eval(), shape)
    graph = rmp_deploy.load(rmp_deploy.save(rmp_deploy.fold_batchnorm(of_torch), tmp_path / "net.onnx"))
    decays = {op.name: float(op.decay) for op in graph.of_type(LIF)}
    assert decays == {layer: module.decay.item() for layer, module in neurons(model).items()}
    assert len(set(decays.values())) == len(decays)
    assert all(abs(decay - 0.4) > 1e-6 for decay in decays.values())
    assert_the_same_spikes(model, of_torch, graph, x)
