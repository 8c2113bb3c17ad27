"""Recordings of event cameras in the formats of their data sets, through the real tonic."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data
from rmp_deploy.training.data import events as module

tonic = pytest.importorskip("tonic", reason="needs tonic")
flatbuffers = pytest.importorskip("flatbuffers")  # ONNX Runtime's
CLASSES = module.CIFAR10_CLASSES


def draw(n, size, seed=0, duration=90_000):
    """n events in the order of their times: x, y, t [us], p."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, duration, n))
    return rng.integers(0, size, n), rng.integers(0, size, n), t, rng.integers(0, 2, n)


def counts(x, y, t, p, T, size):
    """[T, 2, size, size] by hand: bins of floor(duration / T) from the first event on; what is behind is left out."""
    frames = np.zeros((T, 2, size, size), np.float32)
    step = (t[-1] - t[0]) // T
    for xi, yi, ti, pi in zip(x, y, t, p, strict=True):
        if (k := int((ti - t[0]) // step)) < T:
            frames[k, pi, yi, xi] += 1
    return frames


def nmnist_bytes(x, y, t, p):
    """Five bytes an event: x, y, p and time's upper 7 bits, its middle and lower 8."""
    return b"".join(
        bytes((a, b, d << 7 | c >> 16, c >> 8 & 255, c & 255))
        for a, b, c, d in zip(x.tolist(), y.tolist(), t.tolist(), p.tolist(), strict=True)
    )


def aedat2_bytes(x, y, t, p):
    """jAER's AEDAT 2.0 of a DVS128."""
    address = x << 8 | y << 1 | p
    body = np.stack([address, t], 1).astype(">u4").tobytes()
    return b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n# Creation time: System.currentTimeMillis() 1\r\n" + body


def aedat4_bytes(x, y, t, p, size=128):
    """DV's AEDAT 4.0: a flatbuffer of the header, then packets of events, not compressed."""
    info = (
        '<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">'
        '<node name="0" path="/mainloop/Recorder/outInfo/0/">'
        '<attr key="compression" type="string">NONE</attr>'
        '<attr key="originalModuleName" type="string">capture</attr>'
        '<attr key="originalOutputName" type="string">events</attr>'
        '<attr key="typeDescription" type="string">Array of events (polarity ON/OFF).</attr>'
        '<attr key="typeIdentifier" type="string">EVTS</attr>'
        '<node name="info" path="/mainloop/Recorder/outInfo/0/info/">'
        f'<attr key="sizeX" type="int">{size}</attr><attr key="sizeY" type="int">{size}</attr>'
        '<attr key="source" type="string">DVS</attr></node></node></node></dv>'
    )
    builder = flatbuffers.Builder(1024)
    text = builder.CreateString(info)
    builder.StartObject(3)
    builder.PrependInt32Slot(0, 0, -1)  # no compression
    builder.PrependInt64Slot(1, -1, 0)  # no table of the packets
    builder.PrependUOffsetTRelativeSlot(2, text, 0)
    builder.Finish(builder.EndObject(), b"IOHE")
    header = bytes(builder.Output())
    packets = b""
    for start in range(0, len(x), 100):
        builder = flatbuffers.Builder(4096)
        some = range(start, min(start + 100, len(x)))
        builder.StartVector(16, len(some), 8)
        for i in reversed(some):
            builder.Prep(8, 16)
            builder.Pad(3)
            builder.PrependBool(bool(p[i]))
            builder.PrependInt16(int(y[i]))
            builder.PrependInt16(int(x[i]))
            builder.PrependInt64(int(t[i]))
        vector = builder.EndVector()
        builder.StartObject(1)
        builder.PrependUOffsetTRelativeSlot(0, vector, 0)
        builder.FinishSizePrefixed(builder.EndObject(), b"EVTS")
        body = bytes(builder.Output())
        packets += struct.pack("<iI", 0, len(body)) + body
    return b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header + packets


@pytest.fixture
def nmnist(tmp_path):
    """Two training and one test recording of every digit."""
    for split, n in (("Train", 2), ("Test", 1)):
        for digit in range(10):
            (tmp_path / split / f"{digit}").mkdir(parents=True)
            for i in range(n):
                some = draw(300, 34, seed=100 * digit + 10 * n + i)
                (tmp_path / split / f"{digit}" / f"{i:05}.bin").write_bytes(nmnist_bytes(*some))
    return tmp_path


def cifar10_dvs(folder, suffix, write):
    for k, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for i in range(10):
            (folder / name / f"cifar10_{name}_{i}{suffix}").write_bytes(write(*draw(200, 128, seed=50 * k + i)))
    return folder


def refused(folder, said, read=False, split="train", T=4):
    with pytest.raises(RmpDeployError) as e:
        samples = data.load(str(folder), split, T=T)
        if read:
            _ = samples.x[:]
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_nmnist_is_counted_into_frames(nmnist):
    train, test = data.load_splits(str(nmnist), T=6)
    assert (train.x.shape, test.x.shape, train.x.dtype) == ((20, 6, 2, 34, 34), (10, 6, 2, 34, 34), np.float32)
    assert train.time_series and test.time_series
    assert train.y.tolist() == np.repeat(np.arange(10), 2).tolist()
    read = train.x[np.array([7, 0])]
    np.testing.assert_array_equal(read[0], counts(*draw(300, 34, seed=321), 6, 34))
    np.testing.assert_array_equal(read[1], counts(*draw(300, 34, seed=20), 6, 34))
    np.testing.assert_array_equal(test.x[9:][0], counts(*draw(300, 34, seed=910), 6, 34))


def test_nmnist_is_what_tonics_own_data_set_gives(nmnist, tmp_path, monkeypatch):
    monkeypatch.setattr(tonic.datasets.NMNIST, "_check_exists", lambda self: True)
    link = tmp_path.parent / f"{tmp_path.name}-links"
    link.mkdir()
    (link / "NMNIST").symlink_to(nmnist)
    frame = tonic.transforms.ToFrame(sensor_size=tonic.datasets.NMNIST.sensor_size, n_time_bins=5)
    theirs = tonic.datasets.NMNIST(str(link), train=True, transform=frame)
    ours = data.load(str(nmnist), "train", T=5)
    assert len(theirs) == len(ours.x) == 20
    for i, (frames, label) in enumerate(theirs):
        np.testing.assert_array_equal(ours.x[i : i + 1][0], frames)
        assert ours.y[i] == label


def test_long_recordings_of_nmnist_carry_their_time_over(tmp_path):
    """An event with y = 240 is no event but adds 2^13 to the times behind it: tonic's word for the format."""
    x, y, t, p = draw(50, 34, duration=5_000)
    overflow = bytes((0, 240, 0, 0, 0))
    for digit in range(10):
        (tmp_path / "Test" / f"{digit}").mkdir(parents=True)
        (tmp_path / "Test" / f"{digit}" / "0.bin").write_bytes(
            nmnist_bytes(x, y, t, p) + overflow + nmnist_bytes(x, y, t, p)
        )
    both = [np.concatenate([a, b]) for a, b in zip((x, y, t, p), (x, y, t + 2**13, p), strict=True)]
    np.testing.assert_array_equal(data.load(str(tmp_path), T=3).x[:1][0], counts(*both, 3, 34))


def test_gestures_are_tonics_arrays(tmp_path, monkeypatch):
    for split, users in (("ibmGestureTrain", (1, 2)), ("ibmGestureTest", (3,))):
        for user in users:
            (tmp_path / split / f"user{user:02}_fluorescent").mkdir(parents=True)
            for label in range(11):
                x, y, t, p = draw(200, 128, seed=20 * user + label, duration=6_000)
                array = np.stack([x, y, p, t], 1).astype(np.float64)
                np.save(tmp_path / split / f"user{user:02}_fluorescent" / f"{label}.npy", array)
    train, test = data.load_splits(str(tmp_path), T=4)
    assert (train.x.shape, test.x.shape) == ((22, 4, 2, 128, 128), (11, 4, 2, 128, 128))
    labels = [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]  # by the names of the files
    assert test.y.tolist() == labels
    x, y, t, p = draw(200, 128, seed=70, duration=6_000)
    np.testing.assert_array_equal(test.x[2:3][0], counts(x, y, t * 1000, p, 4, 128))
    monkeypatch.setattr(tonic.datasets.DVSGesture, "_check_exists", lambda self: True)
    link = tmp_path.parent / f"{tmp_path.name}-links"
    link.mkdir()
    (link / "DVSGesture").symlink_to(tmp_path)
    frame = tonic.transforms.ToFrame(sensor_size=(128, 128, 2), n_time_bins=4)
    theirs = tonic.datasets.DVSGesture(str(link), train=False, transform=frame)
    by_label = dict(zip(test.y.tolist(), range(11), strict=True))
    for frames, label in theirs:
        i = by_label[label]
        np.testing.assert_array_equal(test.x[i : i + 1][0], frames)


@pytest.mark.parametrize(("suffix", "write"), [(".aedat4", aedat4_bytes), (".aedat", aedat2_bytes)])
def test_cifar10_dvs_holds_out_the_last_tenth_of_each_class_and_is_48x48(tmp_path, suffix, write):
    if suffix == ".aedat4":
        pytest.importorskip("aedat")
    folder = cifar10_dvs(tmp_path, suffix, write)
    train, test = data.load_splits(str(folder), T=5)
    assert (train.x.shape, test.x.shape) == ((90, 5, 2, 48, 48), (10, 5, 2, 48, 48))
    assert test.y.tolist() == list(range(10))
    whole = counts(*draw(200, 128, seed=50 * 3 + 9), 5, 128)
    nearest = np.arange(48) * 128 // 48
    np.testing.assert_array_equal(test.x[3:4][0], whole[:, :, nearest][:, :, :, nearest])
    at_size = data.load(str(folder), image_size=128, T=5)
    np.testing.assert_array_equal(at_size.x[3:4][0], whole)


def test_frames_are_resized_as_torch_does():
    torch = pytest.importorskip("torch")
    frames = np.random.default_rng(0).integers(0, 9, (3, 2, 128, 128)).astype(np.float32)
    for size in (48, 32, 100, 128, 150):
        expected = torch.nn.functional.interpolate(torch.from_numpy(frames), size=(size, size), mode="nearest")
        np.testing.assert_array_equal(module._resized(frames, size), expected)


def test_recordings_are_ordered_by_number_and_not_by_name(tmp_path):
    folder = cifar10_dvs(tmp_path, ".aedat", aedat2_bytes)
    for name in CLASSES:
        (folder / name / f"cifar10_{name}_10.aedat").write_bytes(aedat2_bytes(*draw(200, 128, seed=7)))
    test = data.load(str(folder), image_size=128, T=2)  # of eleven the last, which is number 10
    np.testing.assert_array_equal(test.x[:1][0], counts(*draw(200, 128, seed=7), 2, 128))


def test_nothing_is_read_before_it_is_asked_for_and_nothing_is_downloaded(nmnist, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("network")

    monkeypatch.setattr("socket.socket", no_network)
    for path in (nmnist / "Train").glob("*/00001.bin"):
        path.write_bytes(b"x")
    train = data.load(str(nmnist), "train", T=4)
    assert train.first(1).x[:].any()
    with pytest.raises(RmpDeployError, match=r"00001\.bin': size = 1 bytes, allowed whole events of 5"):
        train.x[:2]


def test_missing_recordings_are_named(nmnist):
    (nmnist / "Train").rename(nmnist / "elsewhere")
    refused(nmnist, "recordings in Train = 0, allowed >= 1")
    refused(nmnist, "T = 0, allowed 1..65535 frames of a recording. Give the network's T", split="test", T=0)
    for path in (nmnist / "Test" / "4").iterdir():
        path.unlink()
    (nmnist / "elsewhere").rename(nmnist / "Train")
    for path in (nmnist / "Train" / "4").iterdir():
        path.unlink()
    with pytest.raises(RmpDeployError, match=r"training samples of class 4 = 0 with labels 0\.\.9"):
        data.load_splits(str(nmnist), T=4)


def test_missing_classes_of_cifar10_dvs_and_foreign_gestures_are_named(tmp_path):
    (tmp_path / "dvs").mkdir()
    folder = cifar10_dvs(tmp_path / "dvs", ".aedat", aedat2_bytes)
    (folder / "frog" / "cifar10_frog_3.aedat").unlink()
    refused(folder, "recordings of frog = 9, allowed >= 10 .aedat files")
    gestures = tmp_path / "gestures" / "ibmGestureTrain" / "user01_led"
    gestures.mkdir(parents=True)
    np.save(gestures / "11.npy", np.zeros((3, 4)))
    refused(tmp_path / "gestures", "label = 11, allowed 0..10")
    (gestures / "11.npy").rename(gestures / "\u0663.npy")  # an Arabic-Indic 3
    refused(tmp_path / "gestures", "label = \u0663, allowed 0..10")
    for T in (2.5, True, 0):
        refused(tmp_path / "gestures", f"T = {T}, allowed 1..65535 frames", T=T, split="test")


def test_damaged_recordings_of_nmnist_are_named(nmnist):
    path = nmnist / "Train" / "0" / "00000.bin"
    x, y, t, p = draw(300, 34)
    for content, said in (
        (b"", "size = 0 bytes, allowed 1.."),
        (nmnist_bytes(x, y, t, p)[:-1], "size = 1499 bytes, allowed whole events of 5"),
        (bytes((0, 240, 0, 0, 0)), "events = 0, allowed >= 1"),
        (nmnist_bytes(x, y, t[::-1], p), "times run backwards"),
        (nmnist_bytes(x, y, t * 0, p), "duration = 0 us, allowed >= 4, one for each of T = 4 frames"),
        (nmnist_bytes(x + 1, y, t, p), "x = 1..34, allowed 0..33"),
        (nmnist_bytes(x, y + 100, t, p), "y = 100..133, allowed 0..33"),
    ):
        path.write_bytes(content)
        refused(nmnist, f"data '{path}': {said}", read=True)
    with path.open("wb") as file:
        file.truncate(2**28 + 4)  # takes no room on the disk
    refused(nmnist, "size = 268435460 bytes, allowed 1..268435456", read=True)
    path.unlink()
    path.mkdir()
    refused(nmnist, f"data '{path}'", read=True)


def test_damaged_gestures_are_named(tmp_path):
    folder = tmp_path / "ibmGestureTrain" / "user01_led"
    folder.mkdir(parents=True)
    path = folder / "0.npy"
    x, y, t, p = draw(50, 128)
    good = np.stack([x, y, p, t], 1).astype(np.float64)
    cases = {"array = float64 (50, 3)": good[:, :3], "array = <U1": np.full((50, 4), "a")}
    for column, value in ((0, np.nan), (1, -1), (2, 2), (3, np.inf), (3, -5), (3, 1e300)):
        wrong = good.copy()
        wrong[7, column] = value
        np.save(path, wrong)
        refused(tmp_path, f"data '{path}': x, y, p or t below 0, above its range or NaN", read=True)
    for column in range(3):
        wrong = good.copy()
        wrong[7, column] = 0.5
        np.save(path, wrong)
        refused(tmp_path, f"data '{path}': x, y or p = 0.5, allowed whole numbers", read=True)
    for said, array in cases.items():
        np.save(path, array)
        refused(tmp_path, said, read=True)
    np.save(path, np.array([[{}] * 4], object), allow_pickle=True)
    refused(tmp_path, f"data '{path}': not a readable recording", read=True)
    np.save(path, good)
    path.write_bytes(path.read_bytes()[:-8])
    refused(tmp_path, f"data '{path}': not a readable recording", read=True)


def test_damaged_aedat_files_are_named(tmp_path):
    pytest.importorskip("aedat")
    for suffix, write in ((".aedat", aedat2_bytes), (".aedat4", aedat4_bytes)):
        (tmp_path / suffix).mkdir()
        folder = cifar10_dvs(tmp_path / suffix, suffix, write)
        path = folder / "airplane" / f"cifar10_airplane_0{suffix}"
        whole = path.read_bytes()
        for content in (whole[:-3], whole[:5], b"\x00" * 40, b"#!AER-DAT1.0\r\n" + whole[14:], whole[:14]):
            path.write_bytes(content)
            refused(folder, f"data '{path}': ", read=True)


def test_a_damaged_header_of_aedat4_does_not_end_the_process(tmp_path):
    """The decoder takes offsets of the header unchecked; some damage would abort Python itself."""
    pytest.importorskip("aedat")
    path, whole = tmp_path / "x.aedat4", aedat4_bytes(*draw(200, 128))
    path.write_bytes(whole)
    np.testing.assert_array_equal(module._frames(path, module._read_aedat, 128, 4), counts(*draw(200, 128), 4, 128))
    refusals = 0
    for at in range(14, 80):
        for value in (0x00, 0x7F, 0xFF):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                module._frames(path, module._read_aedat, 128, 4)
            except RmpDeployError as e:
                refusals += "\n" not in str(e)
    assert refusals > 50


def test_commands_take_recordings_as_frames_of_the_networks_t(nmnist, tmp_path, capsys):
    config, run, net = tmp_path / "c.toml", tmp_path / "run", tmp_path / "net.onnx"
    config.write_text(
        'epochs = 1\nbatch = 8\nimage_size = 8\n[model]\nencoding = "time_series"\nchannels = [2]\nhidden = 4\nT = 3\n'
    )
    assert main(["train", str(config), "--data", str(nmnist), "--out", str(run)]) == 0
    assert main(["export", str(run), "-o", str(net)]) == 0
    resized = ["--data", str(nmnist), "--image-size", "8"]
    assert main(["simulate", str(net), *resized]) == 0
    assert main(["verify", str(net), *resized, "--run", str(run), "--backend", "onnxruntime"]) == 0
    assert main(["energy", str(net), *resized, "--profile", "loihi1"]) == 0
    capsys.readouterr()
    assert main(["simulate", str(net), "--data", str(nmnist)]) == 2
    assert "shape = (1, 3, 2, 34, 34), allowed (N, 3, 2, 8, 8)" in capsys.readouterr().err


def test_without_tonic_one_line_says_what_to_install(nmnist, tmp_path, monkeypatch):
    empty = tmp_path / "packages"
    empty.mkdir()
    (empty / "tonic.py").write_text("raise ModuleNotFoundError(\"No module named 'tonic'\", name='tonic')")
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "tonic"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(empty))
    refused(nmnist, "event data: needs tonic. Run: pip install 'rmp-deploy[events]'")
