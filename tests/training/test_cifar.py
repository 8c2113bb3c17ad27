"""CIFAR-10 and CIFAR-100, binary version: read as published, or refused in one line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data
from rmp_deploy.training.config import ModelConfig, TrainConfig
from rmp_deploy.training.loop import train


def records(n, labels, seed=0):
    """n records: the label bytes, then 3072 bytes of image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 3072), np.uint8)
    return np.concatenate([np.asarray(labels, np.uint8).reshape(n, -1), pixels], 1)


@pytest.fixture
def cifar10(tmp_path):
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(records(4, [0, 1, 2, i % 3], seed=i).tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records(3, [2, 0, 1], seed=9).tobytes())
    return tmp_path


@pytest.fixture
def cifar100(tmp_path):
    (tmp_path / "train.bin").write_bytes(records(6, [(19, 0), (3, 1), (0, 2), (7, 0), (1, 1), (2, 2)]).tobytes())
    (tmp_path / "test.bin").write_bytes(records(2, [(19, 2), (0, 1)], seed=1).tobytes())
    return tmp_path


def refused(folder, said, split="test"):
    with pytest.raises(RmpDeployError) as e:
        data.load(str(folder), split)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_cifar10_is_five_batches_in_their_order_red_green_blue_by_rows(cifar10):
    train_set, test = data.load_splits(str(cifar10))
    assert (train_set.x.shape, test.x.shape, train_set.x.dtype) == ((20, 3, 32, 32), (3, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(train_set.y, np.concatenate([[0, 1, 2, i % 3] for i in range(1, 6)]))
    np.testing.assert_array_equal(test.y, [2, 0, 1])
    raw = records(4, [0, 1, 2, 2], seed=2)  # the second batch
    red, green, blue = (raw[1, 1 + 1024 * c : 1 + 1024 * (c + 1)].reshape(32, 32) for c in range(3))
    np.testing.assert_array_equal(
        train_set.x[5:6][0], np.stack([red, green, blue]).astype(np.float32) / np.float32(255)
    )


def test_cifar100_has_the_fine_labels(cifar100):
    train_set, test = data.load_splits(str(cifar100))
    np.testing.assert_array_equal(train_set.y, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(test.y, [2, 1])
    raw = records(2, [(19, 2), (0, 1)], seed=1)
    np.testing.assert_array_equal(test.x[1:2].ravel(), raw[1, 2:].astype(np.float32) / np.float32(255))


def test_memory_follows_the_batch(cifar10):
    for i in range(1, 6):
        (cifar10 / f"data_batch_{i}.bin").write_bytes(records(1000, np.arange(1000) % 10, seed=i).tobytes())
    tracemalloc.start()
    train_set = data.load(str(cifar10), "train")
    for start in range(0, 5000, 100):
        assert train_set.x[start : start + 100].shape == (100, 3, 32, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000  # as bytes all are 15 MB, as float32 61 MB


def test_a_network_trains_on_cifar(cifar10):
    small = ModelConfig(channels=(2,), hidden=4, T=2)
    result = train(TrainConfig(data=str(cifar10), epochs=1, batch=8, model=small))
    assert len(result.metrics) == 1


def test_damaged_files_are_refused_before_they_are_read(cifar10):
    path, whole = cifar10 / "test_batch.bin", (cifar10 / "test_batch.bin").read_bytes()
    for content, said in (
        (b"", "size = 0 bytes, allowed whole records of 3073"),
        (whole[:-1], "size = 9218 bytes, allowed whole records of 3073"),
        (whole + b"x", "size = 9220 bytes"),
        (bytes([10]) + whole[1:], "label = 10 in record 0, allowed 0..9"),
        (whole[:3073] + b"\xff" + whole[3074:], "label = 255 in record 1, allowed 0..9"),
    ):
        path.write_bytes(content)
        refused(cifar10, said)
    with path.open("wb") as file:
        file.truncate(3073 * 2**20)  # 3 GiB that take no room on the disk
    refused(cifar10, f"up to {2**30} bytes")
    path.unlink()
    refused(cifar10, "test_batch.bin = missing")
    path.mkdir()
    refused(cifar10, f"data '{path}'")


def test_every_batch_must_be_there_and_splits_must_belong_together(cifar10, cifar100, tmp_path):
    refused(tmp_path, "holds CIFAR-10 and CIFAR-100, allowed one of")  # both fixtures share the folder
    (tmp_path / "train.bin").unlink()
    (tmp_path / "test.bin").unlink()
    (tmp_path / "data_batch_4.bin").rename(tmp_path / "elsewhere.bin")
    refused(tmp_path, "data_batch_4.bin = missing", "train")
    (tmp_path / "elsewhere.bin").rename(tmp_path / "data_batch_4.bin")
    (tmp_path / "test_batch.bin").write_bytes(records(1, [7]).tobytes())
    with pytest.raises(RmpDeployError, match=r"largest label of the test split = 7, allowed 0\.\.2 as in training"):
        data.load_splits(str(tmp_path))


def test_a_cifar100_label_of_cifar10s_layout_is_found(cifar100):
    wrong = records(3073, [0] * 3073)  # as many bytes as whole records of CIFAR-100, but each of one label byte
    (cifar100 / "test.bin").write_bytes(wrong.tobytes()[: 3074 * 3072])
    refused(cifar100, "allowed 0..99. It is no file of CIFAR-100")


def test_the_command_line_ends_with_one_line(cifar10, capsys):
    net = Path(__file__).parents[2] / "examples" / "digits.onnx"
    assert main(["simulate", str(net), "--data", str(cifar10)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "shape = (1, 3, 32, 32), allowed (N, 1, 8, 8)" in error
