"""Augmentation: what torchvision makes of each sample, drawn from our generator alone."""

from __future__ import annotations

import random
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.augmentation import AUGMENTATIONS, augment, check_augmentation

ALL = ("crop", "flip", "autoaugment", "cutout")
try:
    from torchvision.transforms import v2
except (ImportError, RuntimeError):  # the second: torchvision of another build than torch
    v2 = None
needs_torchvision = pytest.mark.skipif(v2 is None, reason="no torchvision that works with this torch (a CPU build)")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n, *shape, seed=0):
    """Bytes over 255, none of them 0."""
    return torch.randint(1, 256, (n, *shape), generator=seeded(seed)) / 255


@needs_torchvision
@pytest.mark.parametrize("names", [(name,) for name in ALL] + [ALL])
def test_the_generator_decides_every_value_and_nothing_else_is_touched(names):
    x = pictures(16, 3, 32, 32)
    torch.manual_seed(5)
    random.seed(5)
    before = (torch.get_rng_state(), random.getstate(), x.clone())
    first = augment(x, names, seeded(1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert torch.equal(x, before[2])
    assert (first.shape, first.dtype) == (x.shape, x.dtype)
    assert float(first.min()) >= 0 and float(first.max()) <= 1
    torch.manual_seed(6)
    random.seed(6)
    np.testing.assert_array_equal(augment(x, names, seeded(1)), first)
    assert not torch.equal(augment(x, names, seeded(2)), first)
    generator = seeded(1)
    augment(x, names, generator)
    assert not torch.equal(augment(x, names, generator), first)  # the next epoch is another draw
    halves, generator = [], seeded(1)
    for part in (x[:5], x[5:]):
        halves.append(augment(part, names, generator))
    np.testing.assert_array_equal(torch.cat(halves), first)


@needs_torchvision
def test_a_crop_is_a_window_of_the_padded_image_and_every_offset_occurs():
    x = pictures(400, 3, 32, 32)
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    offsets = set()
    for i, made in enumerate(augment(x, ("crop",), seeded())):
        (found,) = [
            (a, b) for a in range(9) for b in range(9) if torch.equal(made, padded[i, :, a : a + 32, b : b + 32])
        ]
        offsets.add(found)
    assert {a for a, _ in offsets} == {b for _, b in offsets} == set(range(9))


@needs_torchvision
def test_half_of_the_images_are_flipped():
    x = pictures(1000, 1, 4, 6)
    made = augment(x, ("flip",), seeded())
    flipped = [torch.equal(m, s.flip(-1)) for m, s in zip(made, x, strict=True)]
    assert all(f or torch.equal(m, s) for f, m, s in zip(flipped, made, x, strict=True))
    assert abs(sum(flipped) - 500) < 5 * 1000**0.5 / 2


@needs_torchvision
def test_cutout_is_a_square_of_16_whose_middle_is_anywhere():
    """DeVries and Taylor: of a 32x32 image 16x16 values are 0, fewer where the square leaves the image."""
    x = pictures(2000, 3, 32, 32)
    made = augment(x, ("cutout",), seeded())
    rows_seen, columns_seen = set(), set()
    for before, after in zip(x, made, strict=True):
        hole = (after == 0).all(0)
        rows, columns = torch.where(hole.any(1))[0], torch.where(hole.any(0))[0]
        top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
        assert hole[top : bottom + 1, left : right + 1].all() and int(hole.sum()) == len(rows) * len(columns)
        assert torch.equal(after[:, ~hole], before[:, ~hole])
        for low, high, n in ((top, bottom, len(rows)), (left, right, len(columns))):
            assert n == 16 or (8 <= n < 16 and (low == 0 or high == 31))
        rows_seen.add((top, bottom))
        columns_seen.add((left, right))
    assert len(rows_seen) == len(columns_seen) == 33  # 17 inside, 8 over either border


@needs_torchvision
def test_autoaugment_is_torchvisions_cifar10_policy_in_the_order_of_the_paper():
    x = pictures(8, 3, 32, 32)
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    torch.manual_seed(3)
    expected = torch.stack([policy(sample) for sample in x])
    np.testing.assert_array_equal(augment(x, ("autoaugment",), seeded(3)), expected)
    np.testing.assert_array_equal(augment(x, ALL[::-1], seeded(4)), augment(x, ALL, seeded(4)))
    assert tuple(AUGMENTATIONS) == ALL


@needs_torchvision
def test_all_frames_of_a_recording_move_alike():
    frame = torch.randint(1, 9, (40, 1, 2, 16, 16), generator=seeded()).float()
    x = frame.repeat(1, 5, 1, 1, 1)
    for names in (("flip",), ("crop",), ("cutout",), ("crop", "flip", "cutout")):
        made = augment(x, names, seeded(2))
        assert made.shape == x.shape
        assert not torch.equal(made, x)
        np.testing.assert_array_equal(made, made[:, :1].repeat(1, 5, 1, 1, 1))
        assert not (made % 1).any()  # counts stay counts


@needs_torchvision
def test_images_that_are_not_square_keep_their_shape():
    x = pictures(8, 1, 24, 40)
    for name in ALL:
        assert augment(x, (name,), seeded()).shape == x.shape


def test_what_cannot_be_augmented_is_refused_by_name():
    for names, shape, said in (
        (("rotate",), (3, 32, 32), "augmentation 'rotate': unknown, allowed crop, flip, autoaugment, cutout"),
        (("flip",), (64,), r"samples \(64,\), allowed images"),
        (("autoaugment",), (10, 2, 48, 48), r"samples \(10, 2, 48, 48\), allowed gray or RGB"),
        (("crop", "autoaugment"), (2, 32, 32), r"augmentation 'autoaugment': samples \(2, 32, 32\)"),
    ):
        with pytest.raises(RmpDeployError, match=said):
            check_augmentation(names, shape)
    x = torch.ones(2, 3, 4)
    assert augment(x, (), seeded()) is x  # nothing asked for, nothing needed


@pytest.mark.skipif(v2 is not None, reason="torchvision is here")
def test_without_torchvision_one_line_says_what_to_install():
    said = r"needs torchvision, which is not installed\. Run: pip" if find_spec("torchvision") is None else "one index"
    with pytest.raises(RmpDeployError, match=said) as e:
        augment(torch.ones(1, 3, 8, 8), ("flip",), seeded())
    assert "\n" not in str(e.value)


def test_a_torchvision_of_another_torch_says_so(tmp_path, monkeypatch):
    """What PyPI's torchvision does on import beside a torch for CPUs alone."""
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        RmpDeployError, match=r"torchvision does not work with torch \d.*\. Install both from one index"
    ):
        check_augmentation(("flip",), (3, 8, 8))
