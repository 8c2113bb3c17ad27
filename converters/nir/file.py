"""The .nir file (HDF5): read it without trusting it, write it whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

import h5py
import nir

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically

MAX_BYTES = 2**31  # of all datasets together, unpacked
MAX_OBJECTS = 200_000
MAX_DEPTH = 32

# What a malformed file makes h5py, numpy and nir's constructors (they assert) raise while it is being read.
MALFORMED = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    RecursionError,
    OverflowError,
    OSError,
    RuntimeError,
    MemoryError,
)


def read(path: str | Path, kinds: Collection[str]) -> nir.NIRGraph:
    """Read a .nir file whose nodes are of the types `kinds`.

    nir's own shape check is off: it takes kernels for square and forgets groups (nir 1.0.8, ir/conv.py), and
    `SpikingGraph` checks every shape.

    Raises:
        RmpDeployError: missing, no HDF5, no NIR graph, too large, an unknown type of node, or malformed; one line.
    """
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise RmpDeployError(f"file '{path}': cannot be read ({reason}). Check the path.") from e
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("node"), h5py.Group) or _kind(file["node"]) != "NIRGraph":
                raise RmpDeployError(f"file '{path}': HDF5 without a NIR graph. Export it again.")
            _Check(path, kinds).group(file["node"], "node", 0)
        return nir.read(path, type_check=False)
    except MALFORMED as e:
        if not h5py.is_hdf5(path):
            raise RmpDeployError(f"file '{path}': not an HDF5 file, or truncated. Copy or export it again.") from e
        first = (str(e).splitlines() or [""])[0][:120]
        what = f"malformed ({type(e).__name__}: {first})"
        raise RmpDeployError(f"file '{path}': {what}. Export it again.") from e


def write(graph: nir.NIRGraph, path: str | Path) -> Path:
    """Write a .nir file.

    Raises:
        RmpDeployError: HDF5 takes no such name, or the folder cannot be written.
    """
    buffer = io.BytesIO()
    try:
        nir.write(buffer, graph)
    except MALFORMED as e:
        raise RmpDeployError(f"file '{path}': cannot be made ({e}). Rename the op.") from e
    return write_atomically(path, buffer.getvalue())


class _Check:
    """A walk over the file's objects before anything is unpacked."""

    def __init__(self, path: str | Path, kinds: Collection[str]) -> None:
        self.path, self.kinds = path, kinds
        self.objects = self.bytes = 0

    def group(self, group: h5py.Group, name: str, depth: int) -> None:
        self._limit("nested groups", depth, MAX_DEPTH)
        self._limit("groups and datasets", self.objects + len(group), MAX_OBJECTS)
        for key in group:
            self.objects += 1
            where = f"{name}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise self._refused(f"'{where}' is a link to elsewhere")
            item = group[key]
            if isinstance(item, h5py.Group):
                self.group(item, where, depth + 1)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise self._refused(f"'{where}' keeps its values in another file")
                self.bytes += item.size * item.dtype.itemsize if item.shape is not None else 0
                self._limit("bytes of values", self.bytes, MAX_BYTES)
        if name.split("/")[-2:-1] == ["nodes"] and _kind(group) not in self.kinds:
            known = ", ".join(sorted(self.kinds))
            kind = _kind(group)
            raise RmpDeployError(f"file '{self.path}': node '{name}': type = {kind!r}, allowed {known}. Replace it.")

    def _limit(self, what: str, found: int, most: int) -> None:
        if found > most:
            raise self._refused(f"{what} = {found}, allowed {most}")

    def _refused(self, what: str) -> RmpDeployError:
        return RmpDeployError(f"file '{self.path}': {what}. Export it again.")


def _kind(node: h5py.Group) -> str:
    """The type that a node's group states; '' where it states none."""
    item = node.get("type")
    if not isinstance(item, h5py.Dataset) or item.shape != ():
        return ""
    value = item[()]
    return value.decode("utf8", "replace") if isinstance(value, bytes) else ""
