"""Memory: freed blocks that stay with the process, and what happens where there is no more."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rmp_deploy.errors import RmpDeployError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed instead of giving it back to the system; whether it does so.

    Every training step frees and asks for the same large blocks. By default glibc takes each from the system anew,
    which clears it page by page (`benchmarks/run.py freed_memory`). It is a setting of the whole process, for programs
    that train and end. Source: mallopt(3).
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, -1) == 1)


@contextmanager
def or_not_enough() -> Iterator[None]:
    """Turn an allocation that torch cannot make into one line; its CPU allocator raises a plain RuntimeError.

    Raises:
        RmpDeployError: see above.
    """
    try:
        yield
    except RuntimeError as e:
        if not isinstance(e, torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
            raise
        what = str(e).splitlines()[0].rpartition("allocate memory: ")[2]
        raise RmpDeployError(f"training: not enough memory ({what}). Lower batch, model.T or channels.") from e
