"""IDX folders (MNIST, Fashion-MNIST, KMNIST): read whole, or refused in one line, whoever wrote them."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data
from rmp_deploy.training.config import ModelConfig, TrainConfig, preset
from rmp_deploy.training.loop import train

FASHION = Path(__file__).parents[1] / "data" / "fashion_mnist"
IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def encode(values):
    """An IDX file of bytes."""
    values = np.asarray(values, np.uint8)
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def pictures(n, size=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size))


@pytest.fixture
def folder(tmp_path):
    """A small set: 40 training and 20 test images of 4x4, two classes, some files in gzip."""
    for prefix, n in (("train", 40), ("t10k", 20)):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(pictures(n))))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(encode(np.arange(n) % 2))
    return tmp_path


def refused(folder, said, load=data.load):
    with pytest.raises(RmpDeployError) as e:
        load(str(folder))
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_the_first_500_test_images_of_fashion_mnist():
    samples = data.load(str(FASHION))
    assert (samples.name, samples.x.shape, samples.x.dtype) == ("fashion_mnist", (500, 1, 28, 28), np.float32)
    np.testing.assert_array_equal(samples.y[:10], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7])
    assert np.bincount(samples.y).tolist() == [55, 52, 65, 46, 57, 39, 47, 47, 44, 48]
    assert (samples.x.min(), samples.x.max()) == (0, 1)
    assert samples.x[0].sum(dtype=np.float64) == pytest.approx(33_456 / 255, abs=1e-3)  # an ankle boot


def test_pixels_are_bytes_over_255_and_plain_files_are_read_as_those_in_gzip(folder):
    (folder / IMAGES).write_bytes(encode(pictures(20, seed=1)))  # beside the .gz: the plain file is the one
    test = data.load(str(folder))
    np.testing.assert_array_equal(test.x[:, 0], (pictures(20, seed=1) / 255).astype(np.float32))
    np.testing.assert_array_equal(test.y, np.arange(20) % 2)
    assert data.load(str(folder), "train").x.shape == (40, 1, 4, 4)


def test_test_images_alone_can_be_run_and_training_says_which_file_is_missing():
    refused(FASHION, "train-images-idx3-ubyte[.gz] = missing", data.load_splits)
    refused(FASHION, "train-images-idx3-ubyte[.gz] = missing", lambda name: data.load(name, "train"))


def test_a_convnet_trains_on_a_folder_and_hears_of_every_batch(folder):
    config = TrainConfig(data=str(folder), epochs=2, batch=16, model=ModelConfig(channels=(2,), hidden=4, T=2))
    done = []
    result = train(config, on_step=done.append)
    assert len(result.metrics) == 2
    np.testing.assert_allclose(done, [1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_the_preset_takes_its_data_from_the_command_line(folder, tmp_path, capsys):
    assert preset("fashion-convnet").data == ""
    assert main(["train", "--preset", "fashion-convnet", "--out", str(tmp_path / "run")]) == 2
    assert "data = none, allowed the folder of Fashion-MNIST's IDX files" in capsys.readouterr().err
    refused("", "data '': none given, allowed digits, a file.npz, a file.npy or a folder")
    config = tmp_path / "small.toml"
    config.write_text("epochs = 1\n[model]\nchannels = [2]\nhidden = 4\nT = 2\n")
    run, net = tmp_path / "run", tmp_path / "net.onnx"
    assert main(["train", str(config), "--data", str(folder), "--out", str(run)]) == 0
    assert main(["export", str(run), "-o", str(net)]) == 0
    assert main(["simulate", str(net), "--data", str(folder), "--samples", "20"]) == 0
    assert str(folder).encode() not in net.read_bytes()  # where the data lay is not the file's business


def test_files_that_are_not_what_they_say_are_refused_by_name(folder):
    whole, labels = encode(pictures(20)), encode(np.arange(20) % 2)
    (folder / f"{IMAGES}.gz").unlink()
    cases = [
        (IMAGES, b"", "header = , allowed 00000803"),
        (IMAGES, whole[:9], "header = 00000803"),
        (IMAGES, b"\x00\x00\x0d\x03" + whole[4:], "header = 00000d03"),  # float32, which these sets never hold
        (IMAGES, labels, "header = 00000801, allowed 00000803"),
        (IMAGES, b"\x89PNG" + whole[4:], "header = 89504e47"),
        (IMAGES, whole[:-1], "values = 319, allowed 320 of (20, 4, 4)"),
        (IMAGES, whole + b"\x00", "values = more than 320, allowed 320"),
        (IMAGES, whole[:4] + struct.pack(">3I", 0, 4, 4), "size = (0, 4, 4), allowed 1.."),
        (IMAGES, whole[:4] + struct.pack(">3I", *(2**32 - 1,) * 3), "size = (4294967295, 4294967295, 4294967295)"),
        (IMAGES, encode(pictures(19)), "20 labels of 19 images in the test split"),
        (f"{IMAGES}.gz", whole, "cannot be read (Not a gzipped file"),
        (f"{IMAGES}.gz", gzip.compress(whole)[:-20], "cannot be read (Compressed file ended"),
        (f"{IMAGES}.gz", gzip.compress(whole)[:-8] + b"\x00" * 8, "cannot be read (CRC check failed"),
        (f"{IMAGES}.gz", gzip.compress(whole)[:12] + b"\xff" * 40, "cannot be read (Error -3"),
    ]
    for name, content, said in cases:
        (folder / name).write_bytes(content)
        refused(folder, said)
        (folder / name).unlink()
    refused(folder, f"{IMAGES}[.gz] = missing")
    (folder / IMAGES).mkdir()
    refused(folder, f"{IMAGES}[.gz] = missing")


def test_memory_follows_what_a_file_holds_and_not_what_it_says(folder):
    (folder / f"{IMAGES}.gz").unlink()
    (folder / IMAGES).write_bytes(encode(pictures(20))[:4] + struct.pack(">3I", 2**20, 32, 32))  # 1 GiB, of 320 bytes
    bomb = gzip.compress(encode(pictures(20)) + bytes(50_000_000))
    tracemalloc.start()
    refused(folder, "values = 0, allowed 1073741824")
    (folder / IMAGES).unlink()
    (folder / f"{IMAGES}.gz").write_bytes(bomb)
    refused(folder, "values = more than 320")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_splits_that_do_not_belong_together_are_not_trained_on(folder):
    train_labels = folder / "train-labels-idx1-ubyte"
    for values, said in (
        (np.r_[np.arange(39) % 2, 255], "training samples of class 2 = 0 with labels 0..255"),
        (1 + np.arange(40) % 2, "training samples of class 0 = 0"),
        (np.zeros(40), "largest label of the test split = 1, allowed 0..0"),
    ):
        train_labels.write_bytes(encode(values))
        refused(folder, said, data.load_splits)
    train_labels.write_bytes(encode(np.arange(40) % 2))
    (folder / IMAGES).write_bytes(encode(pictures(20, size=8)))
    refused(folder, "test samples (1, 8, 8), allowed (1, 4, 4)", data.load_splits)


def test_a_bad_folder_ends_a_command_with_one_line_and_code_2(tmp_path, capsys):
    net = Path(__file__).parents[2] / "examples" / "digits.onnx"
    assert main(["simulate", str(net), "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["simulate", str(net), "--data", str(FASHION), "--samples", "3"]) == 2
    assert "(3, 1, 28, 28), allowed (N, 1, 8, 8)" in capsys.readouterr().err
