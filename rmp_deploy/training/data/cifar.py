"""CIFAR-10 and CIFAR-100 in their binary version: bytes, nothing pickled.

A record of CIFAR-10 is ``label, 3072 bytes of image``, of CIFAR-100 ``coarse label, fine label, 3072 bytes of image``:
32x32 red values row by row, then green, then blue. A file is records and nothing else. Source: Krizhevsky, "Learning
Multiple Layers of Features from Tiny Images" (2009), https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.samples import LazyArray, Samples, Split, graph_name

IMAGE = (3, 32, 32)
MAX_BYTES = 2**30  # of one file, of which there are 30 MB and 154 MB
CIFAR10_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR100_FILES: dict[Split, tuple[str, ...]] = {"train": ("train.bin",), "test": ("test.bin",)}


def cifar10(folder: Path, split: Split) -> Samples:
    """One split of CIFAR-10: images [N, 3, 32, 32] in 0..1 (bytes / 255) and labels 0..9.

    Raises:
        RmpDeployError: a file that is missing, cut off or too large, or a label out of range.
    """
    return _samples(folder, CIFAR10_FILES[split], labels=1, classes=10)


def cifar100(folder: Path, split: Split) -> Samples:
    """One split of CIFAR-100: images [N, 3, 32, 32] in 0..1 (bytes / 255) and fine labels 0..99.

    Raises:
        RmpDeployError: a file that is missing, cut off or too large, or a label out of range.
    """
    return _samples(folder, CIFAR100_FILES[split], labels=2, classes=100)


def _samples(folder: Path, names: tuple[str, ...], labels: int, classes: int) -> Samples:
    files = [_records(folder / name, labels, classes) for name in names]
    ends = np.cumsum([len(records) for records in files])

    def read(i: int) -> npt.NDArray[np.float32]:
        k = int(np.searchsorted(ends, i, side="right"))
        record: npt.NDArray[np.uint8] = files[k][i - ends[k]]  # counted from the file's end
        return record[labels:].reshape(IMAGE).astype(np.float32) / np.float32(255)

    y = np.concatenate([records[:, labels - 1] for records in files]).astype(np.int64)
    return Samples(graph_name(folder.resolve().name), LazyArray(len(y), IMAGE, read), y, str(folder))


def _records(path: Path, labels: int, classes: int) -> npt.NDArray[np.uint8]:
    """[N, labels + 3072], mapped and not read; what is not whole records is refused before that."""
    record = labels + int(np.prod(IMAGE))
    try:
        size = path.stat().st_size
        if size % record or not 0 < size <= MAX_BYTES:
            what = f"size = {size} bytes, allowed whole records of {record}, up to {MAX_BYTES} bytes"
            raise RmpDeployError(f"data '{path}': {what}. Download the binary version again.")
        values = np.memmap(path, np.uint8, "r").reshape(-1, record)
    except FileNotFoundError as e:
        what = f"{path.name} = missing, allowed the files of the binary version"
        raise RmpDeployError(f"data '{path.parent}': {what}. Put it into the folder.") from e
    except OSError as e:
        raise RmpDeployError(f"data '{path}': cannot be read ({e.strerror}). Check its permissions.") from e
    largest = int(values[:, labels - 1].max())
    if largest >= classes:
        what = f"label = {largest} in record {int(values[:, labels - 1].argmax())}, allowed 0..{classes - 1}"
        raise RmpDeployError(f"data '{path}': {what}. It is no file of CIFAR-{classes}.")
    return values
