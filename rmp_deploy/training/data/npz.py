"""Samples of an .npz file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.samples import Samples, graph_name, labels

MAX_BYTES = 2**30  # of one array, inflated, as of an IDX file: what is larger is mapped as .npy
HEADERS: dict[tuple[int, int], Callable[..., tuple[Any, ...]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def npz(path: Path) -> Samples:
    """All of an .npz with `x` [N, ...] or [N, T, ...] and optionally `y` [N], of up to 1 GiB each.

    Raises:
        RmpDeployError: missing or unreadable file, no array `x`, an array that is too large, values that float32 does
            not hold, labels that do not fit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
            if "x" not in names:
                raise RmpDeployError(f"data '{path}': arrays = {sorted(names)}, allowed 'x' and 'y'. Save x=samples.")
            x = _array(path, archive, "x")
            y = _array(path, archive, "y") if "y" in names else None
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
    return Samples(graph_name(path.stem), samples, labels(path, y, len(x)), str(path))


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """The array `name`, whose size by the archive and by its own header is checked before it is inflated."""
    size = archive.getinfo(f"{name}.npy").file_size
    if size > MAX_BYTES:
        what = f"size of {name} = {size} bytes, allowed {MAX_BYTES}"
        raise RmpDeployError(f"data '{path}': {what}. Save it as .npy, which is not read whole.")
    with archive.open(f"{name}.npy") as member:
        shape, _, dtype = HEADERS[np.lib.format.read_magic(member)](member)  # type: ignore[no-untyped-call]
        if math.prod(shape) * dtype.itemsize > size:
            raise ValueError("cut off")
        member.seek(0)
        values: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)  # type: ignore[no-untyped-call]
    return values
