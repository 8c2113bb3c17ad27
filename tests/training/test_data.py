"""Samples that are read when they are needed, .npy and .npz files, image sizes, and what a folder is told by."""

from __future__ import annotations

import io
import os
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data
from rmp_deploy.training.data.samples import LazyArray, Samples

DIGITS = Path(__file__).parents[2] / "examples" / "digits.onnx"


def refused(path, said, load=data.load, **options):
    with pytest.raises(RmpDeployError) as e:
        load(str(path), **options)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def lazy(n=7):
    """n samples that say when they are read."""
    seen = []

    def read(i):
        seen.append(i)
        return np.full((2, 3), i, np.float32)

    return LazyArray(n, (2, 3), read), seen


@pytest.mark.parametrize(
    "index", [slice(None), slice(2, 5), slice(5, 100), slice(None, None, -2), slice(-3, None), [3, 0, 3], [-1], []]
)
def test_a_lazy_array_is_indexed_as_numpy_does(index):
    array, _ = lazy()
    whole = np.arange(7, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    index = index if isinstance(index, slice) else np.array(index, np.int64)
    assert (array.shape, len(array), array.dtype) == ((7, 2, 3), 7, np.float32)
    np.testing.assert_array_equal(array[index], whole[index])
    assert array[index].dtype == np.float32


def test_only_what_is_asked_for_is_read_also_of_a_part_of_a_part():
    array, seen = lazy()
    samples = Samples("seven", array, np.arange(7), "here").part(np.array([6, 5, 1, 0])).first(3)
    assert (seen, samples.x.shape, samples.y.tolist()) == ([], (3, 2, 3), [6, 5, 1])
    assert samples.x[1:3][:, 0, 0].tolist() == [5, 1]
    assert samples.x[np.array([2, 0])][:, 0, 0].tolist() == [1, 6]
    assert seen == [5, 1, 1, 6]
    with pytest.raises(IndexError):
        array[np.array([7])]
    with pytest.raises(RmpDeployError, match=r"samples = 8, allowed 1\.\.7"):
        Samples("seven", array, None, "here").first(8)


def test_a_mask_chooses_the_rows_that_numpy_chooses(tmp_path):
    whole = np.arange(7, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    mask = np.array([0, 1, 0, 0, 1, 1, 0], bool)
    np.save(tmp_path / "seven.npy", whole)
    for x in (lazy()[0], whole, data.load(str(tmp_path / "seven.npy")).x):
        samples = Samples("seven", x, np.arange(7), "here")
        some = samples.part(mask)
        np.testing.assert_array_equal(x[mask], whole[mask])
        np.testing.assert_array_equal(some.x[:], whole[mask])
        np.testing.assert_array_equal(some.x[np.array([True, False, True])], whole[[1, 5]])
        np.testing.assert_array_equal(some.x[np.array([-1, 0], np.int8)], whole[[5, 1]])
        assert some.y.tolist() == [1, 4, 5]
        with pytest.raises(IndexError, match=r"mask of 6 rows, allowed 7"):
            samples.part(mask[:6])


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (np.array([True, False]), "mask of 2 rows, allowed 7"),
        (np.array([0.0, 1.5]), r"float64 \(2,\), allowed a slice, integers"),
        (np.array([[0, 1]]), r"int64 \(1, 2\), allowed a slice, integers"),
        (np.array(3), r"int64 \(\), allowed a slice, integers"),
        ([0, 1], "list, allowed a slice, integers"),
        (3, "int, allowed a slice, integers"),
    ],
)
def test_what_chooses_no_rows_is_refused_and_not_guessed(tmp_path, index, said):
    np.save(tmp_path / "x.npy", np.ones((7, 2), np.float32))
    array, seen = lazy()
    samples = Samples("seven", array, np.arange(7), "here")
    for x in (array, samples.part(np.arange(7)).x, data.load(str(tmp_path / "x.npy")).x):
        with pytest.raises(IndexError, match=said):
            x[index]
    with pytest.raises(IndexError, match=said):
        samples.part(index)
    assert seen == []


def test_npy_is_mapped_and_gives_what_the_array_gives(tmp_path):
    x = np.random.default_rng(0).normal(size=(11, 2, 4))
    for values in (x, x.astype(np.float32), (x * 50).astype(np.int8), np.asfortranarray(x), x > 0):
        np.save(tmp_path / "some.npy", values)
        samples = data.load(str(tmp_path / "some.npy"))
        assert (samples.name, samples.x.shape, samples.x.dtype, samples.y) == ("some", (11, 2, 4), np.float32, None)
        np.testing.assert_array_equal(samples.x[:], values.astype(np.float32))
        np.testing.assert_array_equal(samples.x[np.array([9, 1])], values[[9, 1]].astype(np.float32))
    np.save(tmp_path / "some_labels.npy", np.arange(11) % 3)
    np.testing.assert_array_equal(data.load(str(tmp_path / "some.npy")).y, np.arange(11) % 3)


def test_npy_and_npz_hold_out_the_same_samples(tmp_path):
    x, y = np.arange(44, dtype=np.float32).reshape(11, 4), np.arange(11) % 2
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "a_labels.npy", y)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    for of_npy, of_npz in zip(
        data.load_splits(str(tmp_path / "a.npy")), data.load_splits(str(tmp_path / "a.npz")), strict=True
    ):
        np.testing.assert_array_equal(of_npy.x[:], of_npz.x)
        np.testing.assert_array_equal(of_npy.y, of_npz.y)


def test_the_memory_of_a_mapped_file_follows_the_batch(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float32, (4096, 4096))  # 64 MiB of zeros
    del array
    tracemalloc.start()
    samples, _ = data.load_splits(str(tmp_path / "big.npy"))
    assert not samples.x[np.array([0, 3000])].any()
    assert not samples.first(2000).x[:3].any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_damaged_npy_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "x.npy"
    buffer = io.BytesIO()
    np.save(buffer, np.ones((6, 4), np.float32))
    whole = buffer.getvalue()
    huge = whole.replace(b"(6, 4), }", b"(6000000000, 4), }")  # a header of another length
    pickled = io.BytesIO()
    np.save(pickled, np.array([[{}], [None]], object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, x=np.ones((6, 4)))
    for content, said in (
        (b"", "not a readable .npy"),
        (b"\x93NUMPY", "not a readable .npy"),
        (whole[:-8], "not a readable .npy"),
        (huge, "not a readable .npy"),
        (whole.replace(b"<f4", b"<f9"), "not a readable .npy"),
        (pickled.getvalue(), "not a readable .npy"),
        (b"x,y\n1,2\n", "not a readable .npy"),
        (archive.getvalue(), "an archive of arrays, allowed one array. Name it .npz"),
    ):
        path.write_bytes(content)
        refused(path, said)
    refused(tmp_path / "none.npy", "no such file")
    for values, said in (
        (np.ones(6), "x = float64 (6,), allowed numbers [N, ...]"),
        (np.zeros((0, 4)), "x = float64 (0, 4)"),
        (np.ones((6, 4), complex), "x = complex128"),
        (np.full((6, 4), "a"), "x = <U1"),
    ):
        np.save(path, values)
        refused(path, said)


def test_values_that_float32_does_not_hold_are_found_when_they_are_read(tmp_path):
    x = np.ones((20, 4))
    for value in (np.nan, np.inf, 1e300):
        x[7, 2] = value
        np.save(tmp_path / "x.npy", x)
        samples = data.load(str(tmp_path / "x.npy"))
        assert samples.x[:7].all()
        with pytest.raises(RmpDeployError, match="x holds NaN, infinity or more than float32 holds"):
            samples.x[np.array([7])]


def test_labels_must_be_whole_numbers_one_per_sample(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((20, 4)))
    for y, said in (
        (np.arange(19), "x_labels.npy': y = int64 (19,), allowed integers (20,)"),
        (np.ones(20), "y = float64 (20,)"),
        (np.arange(20) - 1, "labels = -1..18, allowed 0.."),
        (np.full(20, 2**40), "labels = 1099511627776.."),
        (np.ones((20, 1), int), "y = int64 (20, 1)"),
    ):
        np.save(tmp_path / "x_labels.npy", y)
        refused(tmp_path / "x.npy", said)
        np.savez(tmp_path / "x.npz", x=np.ones((20, 4)), y=y)
        refused(tmp_path / "x.npz", said.replace("x_labels.npy", "x.npz"))


def test_an_npz_whose_header_lies_allocates_nothing(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.ones((6, 4), np.float32))
    entry = buffer.getvalue().replace(b"'shape': (6, 4), }" + b" " * 9, b"'shape': (600000000, 4), } ")
    assert len(entry) == len(buffer.getvalue())
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", entry)
    refused(tmp_path / "x.npz", "not a readable .npz")
    entry = buffer.getvalue().replace(b"'shape': (6, 4), }" + b" " * 7, b"'shape': (6000000, 4), } ")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", entry)
    tracemalloc.start()
    refused(tmp_path / "x.npz", "not a readable .npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_labels_of_another_length_are_not_read(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((20, 4)))
    array = np.lib.format.open_memmap(tmp_path / "x_labels.npy", "w+", np.int64, (2**22,))  # 32 MiB of zeros
    del array
    tracemalloc.start()
    refused(tmp_path / "x.npy", "y = int64 (4194304,), allowed integers (20,)")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_an_npz_larger_than_memory_should_hold_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 1000), np.float32), y=np.zeros(1000, np.int64))
    assert data.load(str(tmp_path / "x.npz")).x.shape == (1000, 1000)
    monkeypatch.setattr(sys.modules["rmp_deploy.training.data.npz"], "MAX_BYTES", 2**20)
    tracemalloc.start()
    refused(tmp_path / "x.npz", "size of x = 4000128 bytes, allowed 1048576. Save it as .npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_name_that_no_graph_may_have_is_made_one(tmp_path):
    for name, made in ((b"caf\xe9 2", "caf_ 2"), ("Zürich\n".encode(), "Zürich_"), (b"fine-name.1", "fine-name.1")):
        folder = tmp_path / os.fsdecode(name)
        for record, file in ((3073, "test_batch.bin"), (3073, "data_batch_1.bin")):
            folder.mkdir(exist_ok=True)
            (folder / file).write_bytes(bytes(record))
        samples = data.load(str(folder))
        np.savez(tmp_path / os.fsdecode(name + b".npz"), x=np.ones((3, 2)))
        assert samples.name == data.load(str(tmp_path / os.fsdecode(name + b".npz"))).name == made


def test_training_without_labels_says_what_is_missing(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 1, 8, 8), np.float32))
    config = tmp_path / "small.toml"
    config.write_text("epochs = 1\n[model]\nchannels = [2]\nhidden = 4\nT = 2\n")
    assert main(["train", str(config), "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "labels = none" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_every_command_reads_a_mapped_file(tmp_path, capsys):
    digits = data.load("digits").first(20)
    np.save(tmp_path / "d.npy", digits.x)
    np.save(tmp_path / "d_labels.npy", digits.y)
    np.savez(tmp_path / "d.npz", x=digits.x, y=digits.y)
    for command in (
        ["simulate", str(DIGITS)],
        ["verify", str(DIGITS), "--backend", "onnxruntime"],
        ["energy", str(DIGITS), "--profile", "loihi1"],
    ):
        said = []
        for suffix in ("npy", "npz"):
            assert main([*command, "--data", str(tmp_path / f"d.{suffix}"), "--json"]) == 0
            said.append(capsys.readouterr().out)
        assert "accuracy" in said[0]
        assert len(said[0]) == pytest.approx(len(said[1]), abs=30)  # seconds differ


def test_a_mapped_file_of_nan_ends_a_command_in_one_line(tmp_path, capsys):
    x = np.array(data.load("digits").first(20).x)
    x[19] = np.nan  # the first, which is checked before the work, is not
    np.save(tmp_path / "d.npy", x)
    assert main(["simulate", str(DIGITS), "--data", str(tmp_path / "d.npy")]) == 2
    error = capsys.readouterr().err
    assert "x holds NaN" in error
    assert error.count("\n") == 1


def test_image_size_resizes_the_shorter_side_and_keeps_the_middle(tmp_path):
    image = pytest.importorskip("PIL.Image")
    x = np.random.default_rng(0).random((12, 2, 6, 10), np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(12) % 2)
    samples = data.load(str(tmp_path / "x.npz"), image_size=12)
    assert samples.x.shape == (12, 2, 12, 12)
    whole = image.fromarray(x[3, 1]).resize((20, 12), image.Resampling.BILINEAR)
    np.testing.assert_array_equal(samples.x[3:4][0, 1], np.asarray(whole)[:, 4:16])
    train, held_out = data.load_splits(str(tmp_path / "x.npz"), image_size=12)
    np.testing.assert_array_equal(held_out.x[:1][0], samples.x[4:5][0])
    assert (train.x.shape, held_out.x.shape) == ((10, 2, 12, 12), (2, 2, 12, 12))
    constant = np.full((10, 1, 28, 28), 0.5, np.float32)
    np.savez(tmp_path / "c.npz", x=constant)
    np.testing.assert_allclose(data.load(str(tmp_path / "c.npz"), image_size=32).x[:], 0.5, atol=1e-6)


def test_digits_are_resized_for_a_network_that_wants_them_larger(tmp_path, capsys):
    pytest.importorskip("PIL.Image")
    assert data.load("digits", image_size=16).x.shape == (360, 1, 16, 16)
    np.testing.assert_array_equal(data.load("digits", image_size=8).x, data.load("digits").x)
    assert main(["simulate", str(DIGITS), "--data", "digits", "--image-size", "16", "--samples", "3"]) == 2
    assert "shape = (1, 1, 16, 16), allowed (N, 1, 8, 8)" in capsys.readouterr().err
    assert main(["simulate", str(DIGITS), "--data", "digits", "--image-size", "8", "--samples", "3"]) == 0


def test_image_size_of_what_is_no_image_or_of_no_size_is_refused(tmp_path):
    pytest.importorskip("PIL.Image")
    np.savez(tmp_path / "flat.npz", x=np.ones((12, 64)))
    np.savez(tmp_path / "series.npz", x=np.ones((12, 5, 1, 8, 8)))
    refused(tmp_path / "flat.npz", "image_size = 16 of samples (64,), allowed images (C, H, W)", image_size=16)
    refused(tmp_path / "series.npz", "image_size = 16 of samples (5, 1, 8, 8)", image_size=16)
    refused("digits", "image_size = -1, allowed 0..4096", image_size=-1)
    refused("digits", "image_size = 100000, allowed 0..4096", image_size=100_000)


def test_a_folder_must_be_of_one_known_kind(tmp_path):
    refused(tmp_path, "holds nothing that is known, allowed one of IDX files, CIFAR-10, CIFAR-100, images, N-MNIST")
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, "holds nothing that is known")
    (tmp_path / "train.bin").write_bytes(b"")
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"")
    refused(tmp_path, "holds IDX files and CIFAR-100, allowed one of")
    refused(tmp_path / "missing", "unknown, allowed digits, a file.npz, a file.npy or a folder")
    refused("", "none given")
