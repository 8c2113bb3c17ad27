"""Augmentation of training images, drawn anew for every sample: torchvision's transforms, none of our own.

The setting of RMP-Loss's authors (their released code of MPBN) is all four for 32x32 images, in this order:

    crop         a window of the image's size out of the image with H // 8 (of 32: 4) zeros around it
    flip         left to right, with probability 1/2
    autoaugment  one of the 25 CIFAR-10 policies of Cubuk et al., "AutoAugment", CVPR 2019
    cutout       a square of half the image's side (of 32: 16) set to 0, its middle anywhere in the image (DeVries and
                 Taylor, arXiv 1708.04552): RandomErasing on the image with a margin around it, the margin cut off again

The square is black, as theirs is (they normalise behind it). Of event frames [T, C, H, W] all steps of a sample are
transformed alike. There the authors roll by up to 5 pixels; torchvision has no transform that wraps around, and crop,
which fills with zeros, is the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rmp_deploy.errors import RmpDeployError


def augment(x: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """A batch [B, C, H, W] or [B, T, C, H, W], each sample transformed by itself; the same shape, type and device.

    The draws are the generator's alone (of the CPU); torch's global generator is as before.

    Raises:
        RmpDeployError: as `check_augmentation`.
    """
    if not names:
        return x
    transforms = _transforms(names, tuple(x.shape[1:]))
    with _drawing_from(generator):
        return torch.stack([_applied(sample, transforms) for sample in x])


def check_augmentation(names: Sequence[str], shape: Sequence[int]) -> None:
    """Refuse before the work what cannot be applied to samples of `shape`, (C, H, W) or (T, C, H, W).

    Raises:
        RmpDeployError: an unknown name, samples that are no images, AutoAugment of what is no picture, or torchvision
            cannot be imported.
    """
    if names:
        _transforms(names, tuple(shape))


def _transforms(names: Sequence[str], shape: tuple[int, ...]) -> list[Callable[[Tensor], Tensor]]:
    """What is applied to one sample, in the order of AUGMENTATIONS."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise RmpDeployError(f"augmentation '{name}': unknown, allowed {', '.join(AUGMENTATIONS)}. Choose of them.")
    if len(shape) not in (3, 4):
        what = f"samples {shape}, allowed images (C, H, W) or frames (T, C, H, W)"
        raise RmpDeployError(f"augmentation '{names[0]}': {what}. Leave it out.")
    if "autoaugment" in names and (len(shape) != 3 or shape[0] not in (1, 3)):
        what = f"samples {shape}, allowed gray or RGB images (1 or 3, H, W)"
        raise RmpDeployError(f"augmentation 'autoaugment': {what}. Leave it out.")
    v2 = _torchvision()
    return [make(v2, shape[-2], shape[-1]) for name, make in AUGMENTATIONS.items() if name in names]


def _crop(v2: Any, height: int, width: int) -> Any:
    return v2.RandomCrop((height, width), padding=[width // 8, height // 8])


def _flip(v2: Any, height: int, width: int) -> Any:
    return v2.RandomHorizontalFlip()


def _autoaugment(v2: Any, height: int, width: int) -> Any:
    return v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)


def _cutout(v2: Any, height: int, width: int) -> Any:
    side = min(height, width) // 2
    margin = side // 2
    area = side**2 / ((height + 2 * margin) * (width + 2 * margin))
    erase = v2.RandomErasing(p=1, scale=(area, area), ratio=(1, 1), value=0)
    return v2.Compose([v2.Pad(margin), erase, v2.CenterCrop((height, width))])


AUGMENTATIONS: dict[str, Callable[[Any, int, int], Any]] = {
    "crop": _crop,
    "flip": _flip,
    "autoaugment": _autoaugment,
    "cutout": _cutout,
}


def _applied(sample: Tensor, transforms: list[Callable[[Tensor], Tensor]]) -> Tensor:
    for transform in transforms:
        sample = transform(sample)
    return sample


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """torchvision draws from torch's global generator of the CPU: it is lent `generator`'s state."""
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)


def _torchvision() -> Any:
    try:
        from torchvision.transforms import v2
    except ImportError as e:
        raise RmpDeployError(
            "augmentation: needs torchvision, which is not installed. Run: pip install 'rmp-deploy[vision]'."
        ) from e
    except RuntimeError as e:  # "operator torchvision::nms does not exist": built for another torch
        what = f"torchvision does not work with torch {torch.__version__}"
        raise RmpDeployError(f"augmentation: {what}. Install both from one index.") from e
    return v2
