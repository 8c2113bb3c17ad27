"""Images of one size: the shorter side resized, the middle of the longer one kept. Needs Pillow."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.samples import LazyArray, SampleArray


def pillow(what: str) -> ModuleType:
    """PIL.Image, which `what` needs.

    Raises:
        RmpDeployError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as e:
        raise RmpDeployError(f"{what}: needs Pillow. Run: pip install 'rmp-deploy[vision]'.") from e
    return Image


MAX_PIXELS = 2**26  # of one image, as it is and resized


def fitted(name: str, height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Height and width with the shorter side at `size`, and top and left of the square in the middle.

    As torchvision's Resize(size) and CenterCrop(size): the longer side is cut off to whole pixels.

    Raises:
        RmpDeployError: so long an image that it would have more than 2^26 pixels.
    """
    short = min(height, width)
    h, w = height * size // short, width * size // short
    if h * w > MAX_PIXELS:
        what = f"image {height}x{width} resized to image_size = {size}: {h}x{w} pixels, allowed {MAX_PIXELS}"
        raise RmpDeployError(f"data '{name}': {what}. Crop it first.")
    return h, w, round((h - size) / 2), round((w - size) / 2)


def resized(name: str, x: SampleArray, size: int) -> SampleArray:
    """[N, C, H, W] -> [N, C, size, size], each image when it is read: bilinear, antialiased where it shrinks.

    Raises:
        RmpDeployError: samples that are no images, or Pillow is not installed.
    """
    if len(x.shape) != 4:
        what = f"image_size = {size} of samples {x.shape[1:]}, allowed images (C, H, W)"
        raise RmpDeployError(f"data '{name}': {what}. Leave image_size out.")
    image = pillow(f"data '{name}': image_size = {size}")
    _, channels, height, width = x.shape
    if (height, width) == (size, size):
        return x
    h, w, top, left = fitted(name, height, width, size)

    def read(i: int) -> npt.NDArray[np.float32]:
        sample = x[i : i + 1][0]
        maps = [image.fromarray(c).resize((w, h), image.Resampling.BILINEAR) for c in sample]
        values: npt.NDArray[np.float32] = np.stack([np.asarray(m, np.float32) for m in maps])
        return values[:, top : top + size, left : left + size]

    return LazyArray(len(x), (channels, size, size), read)
