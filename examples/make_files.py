"""Make the two committed example files: a trained network and 60 test images with labels.

    python examples/make_files.py

writes examples/digits.onnx and examples/digits.npz. The images are the UCI handwritten digits (E. Alpaydin and
C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, CC BY 4.0) as
scikit-learn ships them, scaled to 0..1.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from rmp_deploy import fold_batchnorm, save
from rmp_deploy.converters.torch_to_ir import run_to_graph
from rmp_deploy.training import data
from rmp_deploy.training.config import preset
from rmp_deploy.training.loop import save_run, train

HERE = Path(__file__).parent


def main() -> None:
    test = data.load("digits").first(60)
    with tempfile.TemporaryDirectory() as folder:
        graph, _ = run_to_graph(save_run(train(preset("digits-convnet")), folder))
    save(fold_batchnorm(graph), HERE / "digits.onnx", golden=test.x[:4])
    np.savez_compressed(HERE / "digits.npz", x=test.x, y=test.y)


if __name__ == "__main__":
    main()
