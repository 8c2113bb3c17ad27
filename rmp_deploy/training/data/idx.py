"""Images of a folder in the IDX format: MNIST, Fashion-MNIST, KMNIST.

A file is ``0 0 type dimensions``, one byte each, the sizes as big-endian 32-bit numbers, then the values; plain or in
gzip. Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", file formats.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.samples import Samples, Split, graph_name

PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}
UNSIGNED_BYTE = 0x08  # the one type that these sets have
MAX_BYTES = 2**30  # of one file's values: its images as float32 take four times that
CHUNK = 2**20


def idx(folder: Path, split: Split) -> Samples:
    """One split of `folder`: images [N, 1, H, W] in 0..1 (bytes / 255) and labels [N].

    Raises:
        RmpDeployError: a missing file, or one that is not IDX, too large, cut off, longer than its header says, or not
            of one label for each image.
    """
    images = _read(folder, f"{PREFIX[split]}-images-idx3-ubyte", 3)
    y = _read(folder, f"{PREFIX[split]}-labels-idx1-ubyte", 1)
    if len(images) != len(y):
        what = f"{len(y)} labels of {len(images)} images in the {split} split"
        raise RmpDeployError(f"data '{folder}': {what}, allowed one each. Download the files again.")
    x = images[:, None].astype(np.float32)
    x /= 255
    return Samples(graph_name(folder.resolve().name), x, y.astype(np.int64), str(folder))


def _read(folder: Path, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """The values of `name` or `name`.gz, with as many dimensions as asked for."""
    candidates = [folder / name, folder / f"{name}.gz"]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise RmpDeployError(f"data '{folder}': {name}[.gz] = missing, allowed an IDX file. Put it into the folder.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(path, file, dimensions)
            values = _exactly(path, file, shape)
    except (OSError, EOFError, zlib.error) as e:
        reason = getattr(e, "strerror", None) or e
        raise RmpDeployError(f"data '{path}': cannot be read ({reason}). Download it again.") from e
    return values.reshape(shape)


def _shape(path: Path, file: BufferedIOBase, dimensions: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)):
        what = f"header = {header[:4].hex()}, allowed 000008{dimensions:02} and {dimensions} sizes"
        raise RmpDeployError(f"data '{path}': {what}. It is no IDX file of bytes.")
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", header[4:])
    size = int(np.prod(shape, dtype=object))
    if not 1 <= size <= MAX_BYTES:
        raise RmpDeployError(f"data '{path}': size = {shape}, allowed 1..{MAX_BYTES} values. Split the file.")
    return shape


def _exactly(path: Path, file: BufferedIOBase, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """As many values as the header says, read in pieces: a header's word alone allocates nothing."""
    size = int(np.prod(shape))
    values = bytearray()
    while chunk := file.read(min(CHUNK, size + 1 - len(values))):
        values += chunk
    if len(values) != size:
        held = f"more than {size}" if len(values) > size else str(len(values))
        raise RmpDeployError(f"data '{path}': values = {held}, allowed {size} of {shape}. Download it again.")
    return np.frombuffer(values, np.uint8)
