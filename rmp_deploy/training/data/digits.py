"""The handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.samples import Samples, Split

DIGITS_TEST = 360  # of 1797


def digits(split: Split) -> Samples:
    """The 1,797 handwritten 8x8 digits inside scikit-learn, scaled to [0, 1]; one fixed shuffle, 360 for test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise RmpDeployError("data 'digits': needs scikit-learn. Run: pip install 'rmp-deploy[train]'.") from e
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    chosen = order[:DIGITS_TEST] if split == "test" else order[DIGITS_TEST:]
    images = (x[chosen] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    source = "UCI optical recognition of handwritten digits (Alpaydin and Kaynak 1998, CC BY 4.0), in scikit-learn"
    return Samples("digits", images, y[chosen].astype(np.int64), source)
