"""What the tests of other libraries' networks share: lively weights, and one comparison of a network with its graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from rmp_deploy.analysis.parity import Rung, climb
from rmp_deploy.backends import onnxruntime
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LIF
from rmp_deploy.ir.trace import Trace


def compare(graph: SpikingGraph, x: np.ndarray, library: Trace) -> list[Rung]:
    """library -> NumPy reference -> ONNX Runtime, every spike judged on what its own inputs give."""
    traces = [library, reference.run(graph, x, ("spikes", "u", "v")), onnxruntime.run(graph, x, ("spikes", "u", "v"))]
    return climb(graph, x, traces)


def check(graph: SpikingGraph, x: np.ndarray, library: Trace, rates: tuple[float, float] = (0.02, 0.98)) -> None:
    """The same spikes of every neuron, but for float ties, of which each is shown; the same readout."""
    assert set(library.spikes) == {op.name for op in graph.of_type(LIF)}
    for name, spikes in library.spikes.items():
        assert rates[0] < spikes.mean() < rates[1], f"{name} fires at {spikes.mean():.3f}: nothing is tested"
    for rung in compare(graph, x, library):
        ties = sum(layer.ties for layer in rung.layers)
        print(f"{rung.source} -> {rung.target}: {rung.compared} spikes, {rung.mismatches} mismatching, {ties} ties")
        for layer in rung.layers:
            if layer.ties:
                print(f"{rung.source} -> {rung.target}, {layer.layer}: {layer.ties} ties, first {layer.first}")
                assert layer.first is not None
                assert layer.first.distance < 1e-5 * max(1, abs(layer.first.v_threshold))
        assert rung.holds
        assert rung.mismatches <= 1e-4 * rung.compared


@pytest.fixture
def same_network() -> Callable[..., None]:
    return check


@pytest.fixture
def rungs() -> Callable[..., list[Rung]]:
    return compare


@pytest.fixture
def lively() -> Callable[..., nn.Module]:
    """Random weights and statistics with which neurons fire, neither never nor always; in eval mode."""

    def make(model: nn.Module, gain: float = 2.0, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        with torch.no_grad():
            for module in model.modules():
                weight = getattr(module, "weight", None)
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.normal_(0, 0.3)
                    module.running_var.uniform_(0.5, 2)
                    if module.affine:
                        weight.uniform_(0.5, 1.5)
                        module.bias.normal_(0.4, 0.3)
                elif isinstance(weight, torch.Tensor) and weight.ndim >= 2:
                    weight.normal_(0, gain / weight[0].numel() ** 0.5)
                    if module.bias is not None:
                        module.bias.uniform_(0, 0.3 * gain)
        return model.eval()

    return make


@pytest.fixture
def samples() -> Callable[..., np.ndarray]:
    """Real values in 0..1, [n, *shape]."""
    return lambda *shape, n=8, seed=1: np.random.default_rng(seed).random((n, *shape), dtype=np.float32)
