"""Samples of an .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.samples import Samples, labels


def npz(path: Path) -> Samples:
    """All of an .npz with `x` [N, ...] or [N, T, ...] and optionally `y` [N].

    Raises:
        RmpDeployError: missing or unreadable file, no array `x`, values that float32 does not hold, labels that do not
            fit.
    """
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
    return Samples(path.stem, samples, labels(path, y, len(x)), str(path))
