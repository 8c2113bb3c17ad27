"""What every data set gives: samples, labels, where they come from; and what labels must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError

Split = Literal["train", "test"]
MAX_CLASSES = 1_000_000
Index = slice | npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]


class SampleArray(Protocol):
    """[N, ...] float32, in memory (a NumPy array is one) or read when it is indexed: only then are values there.

    Indexing copies what is not in memory, so that memory follows the batch that is asked for.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index, /) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class LazyArray:
    """[n, *sample_shape] float32, of which `read(i)` gives sample i, [*sample_shape]."""

    n: int
    sample_shape: tuple[int, ...]
    read: Callable[[int], npt.NDArray[np.float32]]
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.n, *self.sample_shape

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Index, /) -> npt.NDArray[np.float32]:
        chosen = row_numbers(index, self.n)
        values = np.empty((len(chosen), *self.sample_shape), np.float32)
        for k, i in enumerate(chosen):
            values[k] = self.read(int(i))
        return values


@dataclass(frozen=True)
class Rows:
    """Some rows of an array that is read when it is indexed: `x[rows]`, of which nothing is read yet."""

    x: SampleArray
    rows: npt.NDArray[np.int64]
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Index, /) -> npt.NDArray[np.float32]:
        return self.x[self.rows[row_numbers(index, len(self.rows))]]


def row_numbers(index: Index, n: int) -> npt.NDArray[np.int64]:
    """The rows of n that NumPy's indexing means: by a slice, an array of integers or a mask of n.

    Raises:
        IndexError: anything else, or a row that is not there.
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(n), dtype=np.int64)
    if not isinstance(index, np.ndarray) or index.ndim != 1 or index.dtype.kind not in "iub":
        what = f"{index.dtype} {index.shape}" if isinstance(index, np.ndarray) else type(index).__name__
        raise IndexError(f"index = {what}, allowed a slice, integers (k,) or a mask ({n},) in a NumPy array")
    if index.dtype.kind == "b":
        if len(index) != n:
            raise IndexError(f"mask of {len(index)} rows, allowed {n}")
        return np.flatnonzero(index)
    if len(index) and not -n <= int(index.min()) <= int(index.max()) < n:
        raise IndexError(f"row {index.min()}..{index.max()} of {n}")
    rows = index.astype(np.int64)
    return np.where(rows < 0, rows + n, rows)


@dataclass(frozen=True)
class Samples:
    """N samples: `x` [N, ...] float32, labels `y` [N] int64 where known, and where they come from.

    With `time_series` one sample is [T, ...], such as the frames of an event camera; else it is seen at every step.
    """

    name: str
    x: SampleArray
    y: npt.NDArray[np.int64] | None
    source: str
    time_series: bool = False

    def first(self, n: int | None) -> Samples:
        """The first `n` samples (all of them where n is None).

        Raises:
            RmpDeployError: n < 1 or more than there are.
        """
        if n is None:
            return self
        if not 1 <= n <= len(self.x):
            raise RmpDeployError(f"data '{self.name}': samples = {n}, allowed 1..{len(self.x)}. Ask for fewer.")
        return self.part(np.arange(n))

    def part(self, chosen: Index) -> Samples:
        """The chosen samples; what is not in memory is not read for that.

        Raises:
            IndexError: as `row_numbers`.
        """
        rows = row_numbers(chosen, len(self.x))
        x = self.x[rows] if isinstance(self.x, np.ndarray) else Rows(self.x, rows)
        return replace(self, x=x, y=None if self.y is None else self.y[rows])


def graph_name(name: str) -> str:
    """A file's name as a graph may have it: a graph's is UTF-8, a file's may be any bytes, which become `_`."""
    return "".join(c if c.isprintable() else "_" for c in name)


def labels(path: Path, y: npt.NDArray[Any] | None, n: int) -> npt.NDArray[np.int64] | None:
    """The labels of `n` samples as int64.

    Raises:
        RmpDeployError: not one whole number in 0..999999 for each sample.
    """
    if y is None:
        return None
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise RmpDeployError(f"data '{path}': y = {y.dtype} {y.shape}, allowed integers ({n},). One label per sample.")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= MAX_CLASSES:
        raise RmpDeployError(
            f"data '{path}': labels = {low}..{high}, allowed 0..{MAX_CLASSES - 1}. Number the classes."
        )
    return np.array(y, np.int64)  # read, where it is mapped
