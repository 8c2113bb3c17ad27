"""Images of a folder, one folder per class: `train/<class>/*.png`, and `test/` or `val/` likewise. Needs Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.resize import MAX_PIXELS, fitted, pillow
from rmp_deploy.training.data.samples import LazyArray, Samples, Split, graph_name

FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}  # the first that is there
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # Pillow reads many more, some of them by calling other programs
PNG_BITS = 24  # where a PNG says its bits a channel, in IHDR, which is its first chunk
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits a channel: others would be clipped


def image_folder(folder: Path, split: Split, image_size: int = 0) -> Samples:
    """One split: RGB images [N, 3, H, W] in 0..1 (bytes / 255) and labels, the classes sorted by name.

    An image is decoded when it is read. With `image_size` its shorter side is resized to that (bilinear) and the
    middle is kept; without, all must have the first one's size. Gray becomes three equal channels, alpha is dropped.

    Raises:
        RmpDeployError: no such folder, no class or an empty one, a file that is no image by its name, classes other
            than those of the other split; on reading, a file that is no whole image, too large or of another size.
    """
    root = _split_folder(folder, split)
    if root is None:
        what = f"{' and '.join(FOLDERS[split])} = missing, allowed a folder of classes"
        raise RmpDeployError(f"data '{folder}': {what}. Put the {split} images there.")
    classes = _classes(root)
    other = _split_folder(folder, "test" if split == "train" else "train")
    differing = sorted({*classes} ^ {*_classes(other)}) if other is not None else []
    if differing:
        what = f"class '{differing[0]}' is only in one of {root.name} and {other.name if other else ''}"
        raise RmpDeployError(f"data '{folder}': {what}, allowed in both. Use the same classes.")
    paths = [_images(root / name) for name in classes]
    files = [path for paths_of_class in paths for path in paths_of_class]
    y = np.repeat(np.arange(len(classes)), [len(paths_of_class) for paths_of_class in paths])
    height, width = (image_size, image_size) if image_size else _size(files[0])

    def read(i: int) -> npt.NDArray[np.float32]:
        return _decoded(files[i], height, width, resize=bool(image_size))

    return Samples(graph_name(folder.resolve().name), LazyArray(len(files), (3, height, width), read), y, str(folder))


def _split_folder(folder: Path, split: Split) -> Path | None:
    return next((folder / name for name in FOLDERS[split] if (folder / name).is_dir()), None)


def _classes(root: Path) -> list[str]:
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise RmpDeployError(f"data '{root}': classes = 0, allowed one folder per class. Sort the images into folders.")
    return classes


def _images(folder: Path) -> list[Path]:
    """The images of a class, sorted by name."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    foreign = next((entry for entry in entries if entry.suffix.lower() not in SUFFIXES or not entry.is_file()), None)
    if foreign is not None:
        raise RmpDeployError(f"data '{foreign}': no image by its name, allowed {', '.join(SUFFIXES)}. Take it away.")
    if not entries:
        raise RmpDeployError(f"data '{folder}': images = 0, allowed >= 1. Fill the class or remove its folder.")
    return entries


def _size(path: Path) -> tuple[int, int]:
    """Height and width by the file's header."""
    with _opened(path) as image:
        return image.height, image.width


def _decoded(path: Path, height: int, width: int, resize: bool) -> npt.NDArray[np.float32]:
    """[3, height, width] in 0..1."""
    with _opened(path) as image:
        if not resize and (image.height, image.width) != (height, width):
            what = f"image = {image.height}x{image.width}, allowed {height}x{width} as the first one"
            raise RmpDeployError(f"data '{path}': {what}. Give image_size to resize them.")
        try:
            rgb = image.convert("RGB")
        except Exception as e:  # of a damaged file: Pillow's, zlib's and struct's errors
            raise RmpDeployError(f"data '{path}': not a readable image ({_first_line(e)}). Replace the file.") from e
    if resize:
        h, w, top, left = fitted(str(path), rgb.height, rgb.width, height)
        rgb = rgb.resize((w, h), pillow("images").Resampling.BILINEAR).crop((left, top, left + width, top + height))
    values = np.asarray(rgb, np.float32).transpose(2, 0, 1)
    return values / np.float32(255)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Pillow image of which only the header was read: its size and kind are checked before its pixels."""
    image_module = pillow(f"data '{path}'")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            header = file.read(PNG_BITS + 1)
            file.seek(0)
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", image_module.DecompressionBombWarning)  # the limit is ours, below
            image = image_module.open(file, formats=FORMATS)
        except image_module.DecompressionBombError as e:
            what = f"pixels = more than {2 * image_module.MAX_IMAGE_PIXELS}, allowed {MAX_PIXELS}"
            raise RmpDeployError(f"data '{path}': {what}. Scale the image down.") from e
        except Exception as e:  # of a foreign file: Pillow's, the system's and struct's errors
            raise RmpDeployError(f"data '{path}': not a readable image ({_first_line(e)}). Replace the file.") from e
        if image.width * image.height > MAX_PIXELS:
            what = f"pixels = {image.height}x{image.width}, allowed {MAX_PIXELS}"
            raise RmpDeployError(f"data '{path}': {what}. Scale the image down.")
        if image.format == "PNG" and header[PNG_BITS] > 8:  # of colours Pillow drops the low byte: the mode is RGB
            what = f"bits of a channel = {header[PNG_BITS]}, allowed 1..8"
            raise RmpDeployError(f"data '{path}': {what}. Save it with 8 bits a channel.")
        if image.mode not in MODES:
            what = f"mode = {image.mode}, allowed {', '.join(MODES)}"
            raise RmpDeployError(f"data '{path}': {what}. Save it with 8 bits a channel.")
        yield image


def _first_line(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.splitlines()[0]
