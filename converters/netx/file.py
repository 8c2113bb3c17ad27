"""A .net file as dictionaries of arrays and texts: read without trusting it, written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically

Content = dict[str, Any]  # of a group: arrays, texts, and groups again
MAX_BYTES = 2**31  # of all datasets together, unpacked
MAX_RATIO = 1100  # bytes unpacked out of a byte stored: gzip's best is 1032
MAX_OBJECTS = 100_000
MAX_DEPTH = 8
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError, RuntimeError, MemoryError)


def read(path: str | Path) -> Content:
    """Everything in the file.

    Raises:
        RmpDeployError: missing, no HDF5, truncated, too large, or with links to elsewhere; one line.
    """
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise RmpDeployError(f"file '{path}': cannot be read ({reason}). Check the path.") from e
    try:
        with h5py.File(path, "r") as opened:
            return _Reader(path).group(opened, "", 0)
    except MALFORMED as e:
        first = (str(e).splitlines() or [""])[0][:120]
        what = f"not an HDF5 file, truncated or malformed ({first})"
        raise RmpDeployError(f"file '{path}': {what}. Copy or export it again.") from e


def write(content: Content, path: str | Path) -> Path:
    """Write `content`, whole or not at all.

    Raises:
        RmpDeployError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        _fill(file, content)
    return write_atomically(path, buffer.getvalue())


def _fill(group: h5py.Group, content: Content) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            _fill(group.create_group(name), value)
        else:  # a text is an array of one, as lava-dl writes it
            group.create_dataset(name, data=np.array([value], "S10") if isinstance(value, str) else value)


class _Reader:
    """Looks at every object before it is unpacked."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.objects = self.bytes = 0

    def group(self, group: h5py.Group, where: str, depth: int) -> Content:
        self._limit("nested groups", depth, MAX_DEPTH)
        self._limit("groups and datasets", self.objects + len(group), MAX_OBJECTS)
        content: Content = {}
        for key in group:
            self.objects += 1
            name = f"{where}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise self._refused(f"'{name}' is a link to elsewhere")
            item = group[key]
            if isinstance(item, h5py.Group):
                content[key] = self.group(item, name, depth + 1)
            elif isinstance(item, h5py.Dataset):
                content[key] = self._values(item, name)
        return content

    def _values(self, item: h5py.Dataset, name: str) -> Any:
        if item.external or item.is_virtual:
            raise self._refused(f"'{name}' keeps its values in another file")
        if item.shape is None:
            raise self._refused(f"'{name}' is empty")
        size, stored = item.size * item.dtype.itemsize, item.id.get_storage_size()
        if size > MAX_RATIO * stored + 2**20:
            raise self._refused(f"'{name}' unpacks {size} bytes out of {stored}")
        self.bytes += size
        self._limit("bytes of values", self.bytes, MAX_BYTES)
        if item.dtype.kind not in "OS":
            if item.dtype.kind not in "iufb":
                raise self._refused(f"'{name}' is of type {item.dtype}")
            return item[()]
        if item.size != 1:
            raise self._refused(f"'{name}' holds {item.size} texts, allowed 1")
        value = np.asarray(item[()]).item()
        return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)

    def _limit(self, what: str, found: int, most: int) -> None:
        if found > most:
            raise self._refused(f"{what} = {found}, allowed {most}")

    def _refused(self, what: str) -> RmpDeployError:
        return RmpDeployError(f"file '{self.path}': {what}. Export it again.")
