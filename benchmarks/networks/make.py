"""Make the trained networks that benchmarks and tests read, beside examples/*.onnx, which have RMP-Loss.

    python benchmarks/networks/make.py [--fashion FOLDER]

digits_no_rmp.onnx, fashion_no_rmp.onnx   the presets digits-convnet and fashion-convnet with k = 0: RMP-Loss off
digits_residual.onnx                      a ResNet of two blocks, one of each shortcut, with RMP-Loss

FOLDER holds Fashion-MNIST as IDX files; without it fashion_no_rmp.onnx is left as it is.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from rmp_deploy import fold_batchnorm, save
from rmp_deploy.converters.torch_to_ir import run_to_graph, to_graph
from rmp_deploy.training import data
from rmp_deploy.training.config import RMPConfig, TrainConfig, preset
from rmp_deploy.training.loop import evaluate, save_run, train
from rmp_deploy.training.models import ResNet
from rmp_deploy.training.models.layers import conv_bn, lif
from rmp_deploy.training.rmp_loss import RMPLoss

HERE = Path(__file__).parent
GOLDEN = 4
T, EPOCHS, BATCH = 4, 20, 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fashion", metavar="FOLDER", help="Fashion-MNIST as IDX files")
    args = parser.parse_args()
    convnet(preset("digits-convnet"), HERE / "digits_no_rmp.onnx")
    residual(HERE / "digits_residual.onnx")
    if args.fashion:
        convnet(replace(preset("fashion-convnet"), data=args.fashion), HERE / "fashion_no_rmp.onnx")


def convnet(config: TrainConfig, path: Path) -> None:
    """Train without RMP-Loss and write the graph, BatchNorm folded."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(replace(config, rmp_loss=RMPConfig(k=0.0)))
        graph, _ = run_to_graph(save_run(result, folder))
    save(fold_batchnorm(graph), path, golden=data.load(config.data).x[:GOLDEN])
    print(f"{path.name}: test accuracy {100 * result.metrics[-1].test_accuracy:.2f} %")


def residual(path: Path) -> None:
    """Train a small ResNet on the digits: an identity shortcut on 8x8, a strided convolution as shortcut to 4x4."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    samples, test = data.load_splits("digits")
    assert samples.y is not None
    x, y = torch.from_numpy(samples.x), torch.from_numpy(samples.y)
    stem = nn.Sequential(OrderedDict(conv=conv_bn(1, 8), lif=lif(8)))
    model = ResNet(stem, c_stem=8, blocks=(1, 1), widths=(8, 16), n_classes=10, T=T, neuron=lif)
    rmp_loss = RMPLoss(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.split(torch.randperm(len(x)), BATCH):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch]) + rmp_loss(epoch, EPOCHS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    graph = to_graph(
        model.eval(), (1, 8, 8), "digits-residual", provenance={"trained by": "benchmarks/networks/make.py"}
    )
    save(fold_batchnorm(graph), path, golden=test.x[:GOLDEN])
    print(f"{path.name}: test accuracy {100 * evaluate(model, test)[0]:.2f} %")


if __name__ == "__main__":
    main()
