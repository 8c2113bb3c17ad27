"""Data sets as NumPy arrays: by name, or from an .npz file. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError

Split = Literal["train", "test"]
DIGITS_TEST = 360  # of 1797
MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class Samples:
    """N samples: `x` [N, ...] float32, labels `y` [N] int64 where known, and where they come from."""

    name: str
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64] | None
    source: str

    def first(self, n: int | None) -> Samples:
        """The first `n` samples (all of them where n is None).

        Raises:
            RmpDeployError: n < 1 or more than there are.
        """
        if n is None:
            return self
        if not 1 <= n <= len(self.x):
            raise RmpDeployError(f"data '{self.name}': samples = {n}, allowed 1..{len(self.x)}. Ask for fewer.")
        return Samples(self.name, self.x[:n], None if self.y is None else self.y[:n], self.source)


def load(name_or_path: str, split: Split = "test") -> Samples:
    """Load a named data set's split, or all of an .npz with `x` [N, ...] or [N, T, ...] and optionally `y` [N].

    Raises:
        RmpDeployError: unknown name, missing or unreadable file, no array `x`, or labels that do not fit.
    """
    if name_or_path in NAMED:
        return NAMED[name_or_path](split)
    path = Path(name_or_path)
    if path.suffix != ".npz":
        known = ", ".join(NAMED)
        raise RmpDeployError(f"data '{name_or_path}': unknown, allowed {known} or a file.npz. Check the name.")
    return _npz(path)


def load_splits(name_or_path: str) -> tuple[Samples, Samples]:
    """Training and held-out samples: a named set's own splits; of an .npz every fifth sample is held out.

    Raises:
        RmpDeployError: as `load`; or a file with fewer than 10 samples.
    """
    if name_or_path in NAMED:
        return load(name_or_path, "train"), load(name_or_path, "test")
    whole = load(name_or_path)
    if len(whole.x) < 10:
        raise RmpDeployError(f"data '{name_or_path}': samples = {len(whole.x)}, allowed >= 10 to train on. Add some.")
    held_out = np.arange(len(whole.x)) % 5 == 4
    parts = []
    for mask, which in ((~held_out, "4 of 5"), (held_out, "every fifth")):
        y = None if whole.y is None else whole.y[mask]
        parts.append(Samples(whole.name, whole.x[mask], y, f"{whole.source} ({which})"))
    return parts[0], parts[1]


def _digits(split: Split) -> Samples:
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


def _npz(path: Path) -> Samples:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "x" not in arrays:
                raise RmpDeployError(f"data '{path}': arrays = {sorted(arrays)}, allowed 'x' and 'y'. Save x=samples.")
            x, y = arrays["x"], arrays.get("y")
    except FileNotFoundError as e:
        raise RmpDeployError(f"data '{path}': no such file. Check the path.") from e
    except RmpDeployError:
        raise
    except Exception as e:  # of a corrupt archive: zipfile's, zlib's, numpy's, even tokenize's (array headers) errors
        what = f"not a readable .npz ({type(e).__name__})"
        raise RmpDeployError(f"data '{path}': {what}. Write it with numpy.savez.") from e
    if x.dtype.kind not in "fiub" or x.ndim < 2 or x.size == 0:
        raise RmpDeployError(f"data '{path}': x = {x.dtype} {x.shape}, allowed numbers [N, ...]. Save samples first.")
    with np.errstate(over="ignore"):
        samples = x.astype(np.float32)
    if not np.isfinite(samples).all():
        raise RmpDeployError(f"data '{path}': x holds NaN, infinity or more than float32 holds. Scale or clean them.")
    return Samples(path.stem, samples, _labels(path, y, len(x)), str(path))


def _labels(path: Path, y: npt.NDArray[Any] | None, n: int) -> npt.NDArray[np.int64] | None:
    if y is None:
        return None
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise RmpDeployError(f"data '{path}': y = {y.dtype} {y.shape}, allowed integers ({n},). One label per sample.")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= MAX_CLASSES:
        raise RmpDeployError(
            f"data '{path}': labels = {low}..{high}, allowed 0..{MAX_CLASSES - 1}. Number the classes."
        )
    return y.astype(np.int64)


NAMED: dict[str, Callable[[Split], Samples]] = {"digits": _digits}
