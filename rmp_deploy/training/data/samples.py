"""What every data set gives: samples, labels, where they come from; and what labels must be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError

Split = Literal["train", "test"]
MAX_CLASSES = 1_000_000
Index = slice | npt.NDArray[np.int64]


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
        return replace(self, x=self.x[:n], y=None if self.y is None else self.y[:n])


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
    return y.astype(np.int64)
