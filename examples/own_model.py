"""Your own torch module with our LIF: train it with RMP-Loss in your own loop, export it, verify it on every backend.

python examples/own_model.py [--epochs N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import rmp_deploy
from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
from rmp_deploy.training import data
from rmp_deploy.training.diagnostics import Diagnostics
from rmp_deploy.training.models import DirectEncoding, MeanOverTime, TimeDistributed
from rmp_deploy.training.neurons import LIF
from rmp_deploy.training.rmp_loss import RMPLoss


class Net(nn.Module):
    """Ordinary layers between neurons; `TimeDistributed` applies them at every time step."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = DirectEncoding(T=4)
        self.conv = TimeDistributed(nn.Sequential(nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)))
        self.lif = LIF(decay=0.5, v_threshold=0.5)
        self.head = TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(12 * 4 * 4, 10)))
        self.mean = MeanOverTime()

    def forward(self, x: Tensor) -> Tensor:
        currents: Tensor = self.mean(self.head(self.lif(self.conv(self.encode(x)))))
        return currents


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", default=tempfile.mkdtemp())
    args = parser.parse_args()

    torch.manual_seed(0)
    train, test = data.load("digits", "train"), data.load("digits").first(50)
    assert train.y is not None
    assert test.y is not None
    x, y = torch.from_numpy(train.x), torch.from_numpy(train.y)
    net = Net()
    rmp_loss = RMPLoss(net)  # 1: of every LIF in the model
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for epoch in range(args.epochs):
        for batch in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            loss = loss + rmp_loss(epoch, args.epochs)  # 2: of the forward pass just done, by the schedule
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    with torch.no_grad(), Diagnostics(net.eval()) as diagnostics:
        net(torch.from_numpy(test.x))
    for name, layer in diagnostics.layers().items():
        print(f"{name}: quantization error {layer.quantization_error:.3f}, firing rate {layer.firing_rate:.3f}")

    trained = to_graph(net, input_shape=(1, 8, 8), name="own-model")
    graph = rmp_deploy.fold_batchnorm(trained)
    file = rmp_deploy.save(graph, Path(args.out) / "own_model.onnx", golden=test.x[:2])
    graph = rmp_deploy.load(file)
    backends = ["reference", "onnxruntime", *(["lava"] if importlib.util.find_spec("lava") else [])]
    traces = [trace_torch(net, test.x, trained.input.encoding)]
    traces += [rmp_deploy.run(graph, test.x, backend, record=("spikes", "v")) for backend in backends]
    for rung in rmp_deploy.climb(graph, test.x, traces, trained):
        print(f"{rung.source} -> {rung.target}: {rung.mismatches} mismatching spikes of {rung.compared:,}")
        assert rung.holds, rung
    print(f"accuracy on 50 test images: {(traces[-1].predictions() == test.y).mean():.2f}, file: {file}")


if __name__ == "__main__":
    main()
