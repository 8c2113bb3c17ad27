"""Data sets as arrays: by name, from a folder whose files say what it is, or from an .npy or .npz. Needs no torch.

docs/data.md lists what each kind of folder holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data import events
from rmp_deploy.training.data.cifar import cifar10, cifar100
from rmp_deploy.training.data.digits import digits
from rmp_deploy.training.data.idx import idx
from rmp_deploy.training.data.image_folder import image_folder
from rmp_deploy.training.data.npy import npy
from rmp_deploy.training.data.npz import npz
from rmp_deploy.training.data.resize import resized
from rmp_deploy.training.data.samples import SampleArray, Samples, Split

__all__ = ["FILES", "FOLDERS", "NAMED", "SampleArray", "Samples", "Split", "load", "load_splits"]

MAX_IMAGE_SIZE = 4096


@dataclass(frozen=True)
class Folder:
    """A kind of folder: names of which it holds at least one, and how a split is read (with image_size and T)."""

    marks: tuple[str, ...]
    read: Callable[[Path, Split, int, int], Samples]


NAMED: dict[str, Callable[[Split], Samples]] = {"digits": digits}
FILES: dict[str, Callable[[Path], Samples]] = {".npz": npz, ".npy": npy}
FOLDERS: dict[str, Folder] = {
    "IDX files": Folder(
        ("*-images-idx?-ubyte", "*-images-idx?-ubyte.gz", "*-labels-idx?-ubyte", "*-labels-idx?-ubyte.gz"),
        lambda folder, split, size, T: _fitted(idx(folder, split), size),
    ),
    "CIFAR-10": Folder(
        ("data_batch_?.bin", "test_batch.bin"), lambda folder, split, size, T: _fitted(cifar10(folder, split), size)
    ),
    "CIFAR-100": Folder(
        ("train.bin", "test.bin"), lambda folder, split, size, T: _fitted(cifar100(folder, split), size)
    ),
    "images": Folder(("train", "test", "val"), lambda folder, split, size, T: image_folder(folder, split, size)),
    "N-MNIST": Folder(("Train", "Test"), lambda folder, split, size, T: events.nmnist(folder, split, T, size)),
    "DVS128 Gesture": Folder(
        ("ibmGestureTrain", "ibmGestureTest"), lambda folder, split, size, T: events.dvs_gesture(folder, split, T, size)
    ),
    "CIFAR10-DVS": Folder(
        events.CIFAR10_CLASSES, lambda folder, split, size, T: events.cifar10_dvs(folder, split, T, size)
    ),
}


def load(name_or_path: str, split: Split = "test", *, image_size: int = 0, T: int = 0) -> Samples:
    """Load one split of a named data set or of a folder, or all of an .npz or .npy file.

    An .npz holds `x` [N, ...] or [N, T, ...] and optionally labels `y` [N]; beside `name.npy` the labels are
    `name_labels.npy`. With `image_size` the shorter side of images is resized to it and the middle is kept; 0 leaves
    them as they are. `T` is how many frames a recording of an event camera becomes; other data do not ask for it.

    Raises:
        RmpDeployError: unknown name, a folder of no kind or of two, a missing or unreadable file, samples or labels
            that do not fit.
    """
    if type(image_size) is not int or not 0 <= image_size <= MAX_IMAGE_SIZE:
        raise RmpDeployError(
            f"data '{name_or_path}': image_size = {image_size!r}, allowed 0..{MAX_IMAGE_SIZE}. Correct it."
        )
    if name_or_path in NAMED:
        return _fitted(NAMED[name_or_path](split), image_size)
    path = _path(name_or_path)
    if path.suffix in FILES:
        return _fitted(FILES[path.suffix](path), image_size)
    return _kind(path).read(path, split, image_size, T)


def load_splits(name_or_path: str, *, image_size: int = 0, T: int = 0) -> tuple[Samples, Samples]:
    """Training and held-out samples: a data set's own splits; of an .npz or .npy every fifth sample is held out.

    Raises:
        RmpDeployError: as `load`; splits that do not fit each other; a file with fewer than 10 samples.
    """
    if Path(name_or_path).suffix not in FILES:
        train = load(name_or_path, "train", image_size=image_size, T=T)
        test = load(name_or_path, "test", image_size=image_size, T=T)
        _check_splits(name_or_path, train, test)
        return train, test
    whole = load(name_or_path, image_size=image_size)
    n = len(whole.x)
    if n < 10:
        raise RmpDeployError(f"data '{name_or_path}': samples = {n}, allowed >= 10 to train on. Add some.")
    held_out = np.arange(n) % 5 == 4
    parts = ((~held_out, "4 of 5"), (held_out, "every fifth"))
    train, test = (replace(whole.part(np.flatnonzero(m)), source=f"{whole.source} ({which})") for m, which in parts)
    return train, test


def _path(name_or_path: str) -> Path:
    """The file or the folder that is meant.

    Raises:
        RmpDeployError: neither.
    """
    path = Path(name_or_path)
    if not name_or_path or (path.suffix not in FILES and not path.is_dir()):
        what = f"data '{name_or_path}': {'unknown' if name_or_path else 'none given'}"
        raise RmpDeployError(f"{what}, allowed {', '.join(NAMED)}, a file.npz, a file.npy or a folder. Check the name.")
    return path


def _kind(folder: Path) -> Folder:
    """What the folder is, by the names in it.

    Raises:
        RmpDeployError: nothing that is known, or two things.
    """
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as e:
        raise RmpDeployError(f"data '{folder}': cannot be read ({e.strerror}). Check its permissions.") from e
    kinds = [k for k, v in FOLDERS.items() if any(fnmatchcase(name, mark) for name in names for mark in v.marks)]
    if len(kinds) != 1:
        what = f"data '{folder}': holds {' and '.join(kinds) or 'nothing that is known'}"
        raise RmpDeployError(f"{what}, allowed one of {', '.join(FOLDERS)}. See docs/data.md for their files.")
    return FOLDERS[kinds[0]]


def _fitted(samples: Samples, image_size: int) -> Samples:
    return replace(samples, x=resized(samples.name, samples.x, image_size)) if image_size else samples


def _check_splits(name_or_path: str, train: Samples, test: Samples) -> None:
    """Refuse splits that are not of one data set: of samples of one size and the same classes 0..K-1."""
    assert train.y is not None and test.y is not None  # whatever has splits has labels
    counts = np.bincount(train.y)
    if not counts.all():
        empty = int(np.argmin(counts > 0))
        what = f"training samples of class {empty} = 0 with labels 0..{len(counts) - 1}"
        raise RmpDeployError(f"data '{name_or_path}': {what}, allowed >= 1. Number the classes from 0.")
    if int(test.y.max()) >= len(counts):
        what = f"largest label of the test split = {test.y.max()}, allowed 0..{len(counts) - 1} as in training"
        raise RmpDeployError(f"data '{name_or_path}': {what}. Use files of one data set.")
    if train.x.shape[1:] != test.x.shape[1:]:
        what = f"test samples {test.x.shape[1:]}, allowed {train.x.shape[1:]} as in training"
        raise RmpDeployError(f"data '{name_or_path}': {what}. Use files of one data set.")
