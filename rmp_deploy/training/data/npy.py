"""Samples of an .npy file, read from disk batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.samples import Index, Samples, graph_name, labels, row_numbers


def npy(path: Path) -> Samples:
    """All of `name.npy`, [N, ...] or [N, T, ...], with labels [N] where a `name_labels.npy` is beside it.

    The file is mapped, not read: memory follows the batch.

    Raises:
        RmpDeployError: missing or unreadable file, no numbers [N, ...], labels that do not fit.
    """
    x = _mapped(path)
    if x.dtype.kind not in "fiub" or x.ndim < 2 or x.size == 0:
        raise RmpDeployError(f"data '{path}': x = {x.dtype} {x.shape}, allowed numbers [N, ...]. Save samples first.")
    beside = path.with_name(f"{path.stem}_labels.npy")
    y = labels(beside, _mapped(beside), len(x)) if beside.exists() else None
    return Samples(graph_name(path.stem), MappedArray(path, x), y, str(path))


@dataclass(frozen=True)
class MappedArray:
    """Numbers [N, ...] of a file as float32; a batch is checked when it is read."""

    path: Path
    values: npt.NDArray[Any]
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Index, /) -> npt.NDArray[np.float32]:
        """Raises RmpDeployError where the file holds what float32 does not, IndexError as `row_numbers`."""
        rows = index if isinstance(index, slice) else row_numbers(index, len(self))
        with np.errstate(over="ignore"):
            batch = np.array(self.values[rows], np.float32)
        if not np.isfinite(batch).all():
            what = "x holds NaN, infinity or more than float32 holds"
            raise RmpDeployError(f"data '{self.path}': {what}. Scale or clean them.")
        return batch


def _mapped(path: Path) -> npt.NDArray[Any]:
    try:
        values: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as e:
        raise RmpDeployError(f"data '{path}': no such file. Check the path.") from e
    except Exception as e:  # of a corrupt file: numpy's, the map's, even tokenize's (array headers) errors
        raise RmpDeployError(
            f"data '{path}': not a readable .npy ({type(e).__name__}). Write it with numpy.save."
        ) from e
    if not isinstance(values, np.ndarray):  # an .npz by another name
        raise RmpDeployError(f"data '{path}': an archive of arrays, allowed one array. Name it .npz.")
    return values
