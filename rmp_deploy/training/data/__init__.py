"""Data sets as NumPy arrays: by name, from a folder of IDX files, or from an .npz file. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.digits import digits
from rmp_deploy.training.data.idx import idx, idx_splits
from rmp_deploy.training.data.npz import npz
from rmp_deploy.training.data.samples import SampleArray, Samples, Split

__all__ = ["NAMED", "SampleArray", "Samples", "Split", "load", "load_splits"]

NAMED: dict[str, Callable[[Split], Samples]] = {"digits": digits}


def load(name_or_path: str, split: Split = "test") -> Samples:
    """Load one split of a named data set or of a folder of IDX files (MNIST and its kin), or all of an .npz file.

    An .npz holds `x` [N, ...] or [N, T, ...] and optionally labels `y` [N].

    Raises:
        RmpDeployError: unknown name, missing or unreadable file, no array `x`, or labels that do not fit.
    """
    if name_or_path in NAMED:
        return NAMED[name_or_path](split)
    path = _path(name_or_path)
    return npz(path) if path.suffix == ".npz" else idx(path, split)


def load_splits(name_or_path: str) -> tuple[Samples, Samples]:
    """Training and held-out samples: a data set's own splits; of an .npz every fifth sample is held out.

    Raises:
        RmpDeployError: as `load`; splits that do not fit each other; an .npz with fewer than 10 samples.
    """
    if name_or_path in NAMED:
        return load(name_or_path, "train"), load(name_or_path, "test")
    path = _path(name_or_path)
    if path.suffix != ".npz":
        return idx_splits(path)
    whole = npz(path)
    if len(whole.x) < 10:
        raise RmpDeployError(f"data '{name_or_path}': samples = {len(whole.x)}, allowed >= 10 to train on. Add some.")
    held_out = np.arange(len(whole.x)) % 5 == 4
    parts = []
    for mask, which in ((~held_out, "4 of 5"), (held_out, "every fifth")):
        y = None if whole.y is None else whole.y[mask]
        parts.append(Samples(whole.name, whole.x[mask], y, f"{whole.source} ({which})"))
    return parts[0], parts[1]


def _path(name_or_path: str) -> Path:
    """The .npz or the folder that is meant.

    Raises:
        RmpDeployError: neither.
    """
    path = Path(name_or_path)
    if not name_or_path or (path.suffix != ".npz" and not path.is_dir()):
        what = f"data '{name_or_path}': {'unknown' if name_or_path else 'none given'}"
        raise RmpDeployError(
            f"{what}, allowed {', '.join(NAMED)}, a file.npz or a folder of IDX files. Check the name."
        )
    return path
