"""Folders of images: decoded when they are read, or refused by the name of the file."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data
from rmp_deploy.training.config import ModelConfig, TrainConfig
from rmp_deploy.training.loop import train

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")


def picture(height=8, width=8, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes, 6 training and 2 test images of 8x8 each, PNG and one JPEG."""
    for split, n in (("train", 6), ("test", 2)):
        for label, name in enumerate(("cat", "ant")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(picture(seed=10 * label + i)).save(tmp_path / split / name / f"{i}.png")
    Image.fromarray(picture(seed=99)).save(tmp_path / "train" / "cat" / "9.JPEG", quality=95)
    return tmp_path


def refused(folder, said, read=False, **options):
    with pytest.raises(RmpDeployError) as e:
        samples = data.load(str(folder), "train", **options)
        if read:
            _ = samples.x[:]
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_classes_are_sorted_by_name_and_pixels_are_bytes_over_255(folder):
    train_set, test = data.load_splits(str(folder))
    assert (train_set.x.shape, test.x.shape, train_set.time_series) == ((13, 3, 8, 8), (4, 3, 8, 8), False)
    assert train_set.y.tolist() == [0] * 6 + [1] * 7  # ant, cat
    assert train_set.y.dtype == np.int64
    for i in range(6):
        expected = picture(seed=10 + i).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(train_set.x[i : i + 1][0], expected)
    jpeg = np.asarray(Image.open(folder / "train" / "cat" / "9.JPEG"), np.float32).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(train_set.x[np.array([12])][0], jpeg)
    read = test.x[:]
    (folder / "test").rename(folder / "val")
    np.testing.assert_array_equal(data.load(str(folder)).x[:], read)


def test_gray_palette_and_alpha_become_rgb(folder):
    rgba = picture(channels=4)
    path = folder / "train" / "ant" / "0.png"
    for image, expected in (
        (Image.fromarray(rgba[..., 0]), np.stack([rgba[..., 0]] * 3, -1)),
        (Image.fromarray(rgba), rgba[..., :3]),
        (Image.fromarray(rgba[..., :3] // 128 * 255).convert("P"), rgba[..., :3] // 128 * 255),
        (Image.fromarray(rgba[..., 0] > 127), np.stack([(rgba[..., 0] > 127) * np.uint8(255)] * 3, -1)),
    ):
        image.save(path)
        read = data.load(str(folder), "train").x[:1][0]
        np.testing.assert_array_equal(read, expected.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_image_size_is_torchvisions_resize_and_centre_crop(folder):
    """The shorter side to 6, the middle of the longer one; by torchvision where it is here, by Pillow anyhow."""
    Image.fromarray(picture(9, 14, seed=3)).save(folder / "train" / "ant" / "0.png")
    read = data.load(str(folder), "train", image_size=6).x[:1][0]
    whole = Image.fromarray(picture(9, 14, seed=3)).resize((9, 6), Image.Resampling.BILINEAR)
    expected = np.asarray(whole, np.float32)[:, 2:8].transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(read, expected)


def test_torchvision_resizes_and_crops_to_the_same_bytes(folder):
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError):
        pytest.skip("no torchvision that works with this torch (a CPU build)")
    theirs = v2.Compose([v2.Resize(17), v2.CenterCrop(17), v2.PILToTensor()])
    for k, (height, width) in enumerate(((9, 14), (40, 23), (33, 34), (17, 90), (64, 64), (19, 18))):
        Image.fromarray(picture(height, width, seed=k)).save(folder / "train" / "ant" / "0.png")
        read = data.load(str(folder), "train", image_size=17).x[:1][0]
        image = Image.open(folder / "train" / "ant" / "0.png")
        np.testing.assert_array_equal(read, theirs(image).numpy().astype(np.float32) / np.float32(255))


def test_memory_follows_the_batch_that_is_read(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for i in range(40):
            Image.new("RGB", (256, 256), (i, 0, 0)).save(tmp_path / split / "a" / f"{i:02}.png")
    tracemalloc.start()
    train_set, _ = data.load_splits(str(tmp_path))
    read = [float(train_set.x[np.array([i, i + 1])].max()) for i in range(0, 40, 2)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(read, np.arange(1, 40, 2) / 255, rtol=1e-6)
    assert peak < 12_000_000  # all 40 as float32: 31 MB


def test_a_network_trains_on_a_folder_of_images_and_its_file_runs_on_them(folder, tmp_path, capsys):
    small = ModelConfig(channels=(2,), hidden=4, T=2)
    assert len(train(TrainConfig(data=str(folder), epochs=1, batch=8, model=small)).metrics) == 1
    config, run, net = tmp_path / "c.toml", tmp_path / "run", tmp_path / "net.onnx"
    config.write_text("epochs = 1\nimage_size = 4\n[model]\nchannels = [2]\nhidden = 4\nT = 2\n")
    assert main(["train", str(config), "--data", str(folder), "--out", str(run)]) == 0
    assert main(["export", str(run), "-o", str(net)]) == 0
    capsys.readouterr()
    resized = ["--data", str(folder), "--image-size", "4"]
    assert main(["simulate", str(net), *resized]) == 0
    assert main(["verify", str(net), *resized, "--run", str(run), "--backend", "onnxruntime"]) == 0
    assert main(["energy", str(net), *resized, "--profile", "loihi1"]) == 0
    assert main(["simulate", str(net), "--data", str(folder)]) == 2
    assert "shape = (1, 3, 8, 8), allowed (N, 3, 4, 4)" in capsys.readouterr().err


def test_what_is_not_in_place_is_refused_by_name(folder):
    cat = folder / "train" / "cat"
    (cat / "notes.txt").write_text("")
    refused(folder, f"data '{cat / 'notes.txt'}': no image by its name, allowed .png, .jpg")
    (cat / "notes.txt").rename(cat / ".hidden")  # such as .DS_Store
    assert len(data.load(str(folder), "train").x) == 13
    (cat / "more.png").mkdir()
    refused(folder, "more.png': no image by its name")
    (cat / "more.png").rmdir()
    (folder / "train" / "dog").mkdir()
    refused(folder, "class 'dog' is only in one of train and test, allowed in both")
    (folder / "test" / "dog").mkdir()
    refused(folder, f"data '{folder / 'train' / 'dog'}': images = 0, allowed >= 1")
    (folder / "train").rename(folder / "elsewhere")
    refused(folder, "train = missing, allowed a folder of classes")
    (folder / "train").mkdir()
    refused(folder, f"data '{folder / 'train'}': classes = 0, allowed one folder per class")
    (folder / "test").rename(folder / "elsewhere" / "test")
    with pytest.raises(RmpDeployError, match="test and val = missing"):
        data.load(str(folder))


def test_damaged_and_foreign_files_name_themselves(folder):
    path = folder / "train" / "ant" / "3.png"
    good = io.BytesIO()
    Image.fromarray(picture(seed=5)).save(good, "PNG")
    whole = good.getvalue()
    jpeg = io.BytesIO()
    Image.fromarray(picture(64, 64)).resize((8, 8)).save(jpeg, "JPEG")
    gif = io.BytesIO()
    Image.fromarray(picture()).save(gif, "GIF")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF  # in the compressed pixels: the checksum does not fit
    for content, said in (
        (b"", "not a readable image"),
        (b"<html>not found</html>", "not a readable image"),
        (whole[:20], "not a readable image"),
        (whole[: len(whole) // 2], "not a readable image"),
        (whole[:-40], "not a readable image"),
        (bytes(flipped), "not a readable image"),
        (jpeg.getvalue()[:-200], "not a readable image"),
        (gif.getvalue(), "not a readable image"),  # of a format that is not among those read
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
            "not a readable image",
        ),  # which Pillow gives to Ghostscript
    ):
        path.write_bytes(content)
        refused(folder, f"data '{path}': {said}", read=True)
    path.unlink()
    path.symlink_to(folder / "gone.png")
    refused(folder, "no image by its name")


def test_an_image_of_another_size_asks_for_image_size(folder):
    path = folder / "train" / "cat" / "5.png"
    Image.fromarray(picture(8, 9)).save(path)
    refused(folder, f"data '{path}': image = 8x9, allowed 8x8 as the first one. Give image_size", read=True)
    assert data.load(str(folder), "train", image_size=8).x[:].shape == (13, 3, 8, 8)


def test_16_bit_images_are_refused_and_not_clipped(folder):
    path = folder / "train" / "ant" / "0.png"
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)
    refused(folder, f"data '{path}': bits of a channel = 16, allowed 1..8", read=True)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colours_are_refused_where_pillow_would_drop_their_low_byte(folder, colour_type, channels):
    path = folder / "train" / "ant" / "0.png"
    rows = (b"\0" + bytes(8 * channels * 2)) * 8
    path.write_bytes(png(8, 8, 16, colour_type, rows))
    refused(folder, f"data '{path}': bits of a channel = 16, allowed 1..8. Save it with 8", read=True)
    path.write_bytes(png(8, 8, 8, colour_type, (b"\0" + bytes(8 * channels)) * 8))
    assert not data.load(str(folder), "train").x[:1].any()


def test_a_long_image_is_not_resized_to_more_than_memory_holds(folder):
    path = folder / "train" / "ant" / "0.png"
    Image.new("RGB", (1, 60_000)).save(path)
    refused(
        folder, f"data '{path}': image 60000x1 resized to image_size = 224: 13440000x224", read=True, image_size=224
    )


def png(width, height, bits=8, colour_type=2, rows=b""):
    """A PNG whose header says a size and whose pixels may be missing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("error")
def test_decompression_bombs_are_refused_before_a_pixel_is_decoded(folder):
    path = folder / "train" / "ant" / "0.png"
    for width, height in ((2**13, 2**13 + 1), (2**14, 2**13), (2**31 - 1, 2**31 - 1), (2**20, 2**10)):
        path.write_bytes(png(width, height))
        tracemalloc.start()
        refused(folder, f"data '{path}': pixels = ", read=True, image_size=8)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_a_damaged_image_ends_training_in_one_line_that_names_it(folder, tmp_path, capsys):
    path = folder / "train" / "cat" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    config = tmp_path / "c.toml"
    config.write_text("epochs = 1\n[model]\nchannels = [2]\nhidden = 4\nT = 2\n")
    assert main(["train", str(config), "--data", str(folder), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"data '{path}': not a readable image" in error
    assert error.count("\n") == 1
