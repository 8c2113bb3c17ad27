"""Make the committed example files: two trained networks and 60 test images with labels.

    python examples/make_files.py [--fashion FOLDER]

writes examples/digits.onnx and examples/digits.npz, and examples/fashion.onnx where FOLDER holds Fashion-MNIST as IDX
files. The images are the UCI handwritten digits (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository, 1998, CC BY 4.0) as scikit-learn ships them, scaled to 0..1. fashion.onnx
holds four test images of Fashion-MNIST (MIT licence, tests/data/fashion_mnist) as golden samples.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from rmp_deploy import fold_batchnorm, save
from rmp_deploy.converters.torch_to_ir import run_to_graph
from rmp_deploy.training import data
from rmp_deploy.training.config import TrainConfig, preset
from rmp_deploy.training.loop import save_run, train

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fashion", metavar="FOLDER", help="Fashion-MNIST as IDX files")
    args = parser.parse_args()
    test = data.load("digits").first(60)
    np.savez_compressed(HERE / "digits.npz", x=test.x, y=test.y)
    network(preset("digits-convnet"), HERE / "digits.onnx")
    if args.fashion:
        network(replace(preset("fashion-convnet"), data=args.fashion), HERE / "fashion.onnx")


def network(config: TrainConfig, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        graph, _ = run_to_graph(save_run(train(config), folder))
    save(fold_batchnorm(graph), path, golden=data.load(config.data).x[:4])


if __name__ == "__main__":
    main()
