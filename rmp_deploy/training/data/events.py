"""Recordings of event cameras as T frames: N-MNIST, DVS128 Gesture, CIFAR10-DVS, read by tonic.

A sample is [T, 2, H, W]: how many events each pixel sent in each of T bins of equal time, OFF and ON. tonic reads the
files and makes the frames (`tonic.transforms.ToFrame(n_time_bins=T)`); its data set classes, which download what they
do not find, are not used. Nothing is downloaded. A recording is read when its sample is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.data.aedat4 import check_header
from rmp_deploy.training.data.samples import LazyArray, Samples, Split, graph_name

Events = npt.NDArray[np.void]  # fields x, y, t [us], p
MAX_BYTES = 2**28  # of one recording
CIFAR10_DVS_SIZE = 48  # the size that the authors of RMP-Loss train on in their released code of MPBN
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Recording:
    """One file and its label."""

    path: Path
    label: int


def nmnist(folder: Path, split: Split, T: int, image_size: int = 0) -> Samples:
    """N-MNIST: `Train/<digit>/*.bin` and `Test/<digit>/*.bin`, 34x34 pixels.

    Orchard et al., "Converting static image datasets to spiking neuromorphic datasets using saccades", 2015.

    Raises:
        RmpDeployError: tonic is not installed, T < 1, a missing folder or file; on reading, a damaged recording.
    """
    root = folder / {"train": "Train", "test": "Test"}[split]
    recordings = [Recording(path, digit) for digit in range(10) for path in sorted((root / f"{digit}").glob("*.bin"))]
    return _samples(folder, root, recordings, _read_nmnist, 34, T, image_size)


def dvs_gesture(folder: Path, split: Split, T: int, image_size: int = 0) -> Samples:
    """DVS128 Gesture, cut into gestures by tonic: `ibmGestureTrain/<user_light>/<label>.npy` and `ibmGestureTest`.

    Amir et al., "A low power, fully event-based gesture recognition system", CVPR 2017.

    Raises:
        RmpDeployError: tonic is not installed, T < 1, a missing folder or file; on reading, a damaged recording.
    """
    root = folder / {"train": "ibmGestureTrain", "test": "ibmGestureTest"}[split]
    recordings = []
    for path in sorted(root.glob("*/*.npy")):
        if not (path.stem.isascii() and path.stem.isdecimal()) or int(path.stem) > 10:
            raise RmpDeployError(f"data '{path}': label = {path.stem}, allowed 0..10. It is no gesture of this set.")
        recordings.append(Recording(path, int(path.stem)))
    return _samples(folder, root, recordings, _read_gesture, 128, T, image_size)


def cifar10_dvs(folder: Path, split: Split, T: int, image_size: int = 0) -> Samples:
    """CIFAR10-DVS: `<class>/*.aedat4` (tonic's files) or `<class>/*.aedat` (the first ones), resized to 48x48.

    It has no split of its own: of each class the last tenth, by the number in the file's name, is the test split.
    Li et al., "CIFAR10-DVS: an event-stream dataset for object classification", 2017.

    Raises:
        RmpDeployError: tonic is not installed, T < 1, fewer than 10 recordings of a class; on reading, a damaged one.
    """
    suffix = next((s for s in AEDAT if any(folder.glob(f"*/*{s}"))), ".aedat4")  # one kind: they differ in orientation
    recordings = []
    for label, name in enumerate(CIFAR10_CLASSES):
        paths = sorted((folder / name).glob(f"*{suffix}"), key=_number)
        if len(paths) < 10:
            what = f"recordings of {name} = {len(paths)}, allowed >= 10 {suffix} files"
            raise RmpDeployError(f"data '{folder}': {what}. Put the class into the folder.")
        first_test = len(paths) - len(paths) // 10
        chosen = paths[:first_test] if split == "train" else paths[first_test:]
        recordings += [Recording(path, label) for path in chosen]
    return _samples(folder, folder, recordings, _read_aedat, 128, T, image_size or CIFAR10_DVS_SIZE)


def _samples(
    folder: Path,
    root: Path,
    recordings: list[Recording],
    read: Callable[[Path], Events],
    sensor: int,
    T: int,
    image_size: int,
) -> Samples:
    if type(T) is not int or not 1 <= T <= 65_535:
        what = f"T = {T!r}, allowed 1..65535 frames of a recording"
        raise RmpDeployError(f"data '{folder}': {what}. Give the network's T.")
    if not recordings:
        raise RmpDeployError(f"data '{folder}': recordings in {root.name} = 0, allowed >= 1. Put the files there.")
    _tonic()
    size = image_size or sensor

    def frames(i: int) -> npt.NDArray[np.float32]:
        return _resized(_frames(recordings[i].path, read, sensor, T), size)

    y = np.array([recording.label for recording in recordings], np.int64)
    x = LazyArray(len(recordings), (T, 2, size, size), frames)
    return Samples(graph_name(folder.resolve().name), x, y, str(folder), time_series=True)


def _frames(path: Path, read: Callable[[Path], Events], sensor: int, T: int) -> npt.NDArray[np.float32]:
    """[T, 2, sensor, sensor]: the counts of events."""
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            _refuse(path, f"size = {size} bytes, allowed 1..{MAX_BYTES}")
        events = read(path)
    except RmpDeployError:
        raise
    except Exception as e:  # of a damaged file: the system's, NumPy's and the decoders' errors
        reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
        _refuse(path, f"not a readable recording ({reason.splitlines()[0]})")
    if len(events) == 0:
        _refuse(path, "events = 0, allowed >= 1")
    t = events["t"].astype(np.int64)
    if (np.diff(t) < 0).any():
        _refuse(path, "times run backwards, allowed in their order")
    if t[-1] - t[0] < T:
        _refuse(path, f"duration = {t[-1] - t[0]} us, allowed >= {T}, one for each of T = {T} frames")
    for axis in ("x", "y"):
        low, high = int(events[axis].min()), int(events[axis].max())
        if low < 0 or high >= sensor:
            _refuse(path, f"{axis} = {low}..{high}, allowed 0..{sensor - 1}")
    frames = _tonic().transforms.ToFrame(sensor_size=(sensor, sensor, 2), n_time_bins=T)(events)
    return np.asarray(frames, np.float32)


def _read_nmnist(path: Path) -> Events:
    """Events of five bytes: x, y, polarity and the upper 7 bits of the time, its middle and lower 8."""
    if path.stat().st_size % 5:
        _refuse(path, f"size = {path.stat().st_size} bytes, allowed whole events of 5")
    dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    events: Events = _tonic().io.read_mnist_file(str(path), dtype=dtype)
    return events


def _read_gesture(path: Path) -> Events:
    """tonic's arrays [n, 4]: x, y, p, t [ms]."""
    values = np.load(path, allow_pickle=False)
    if values.ndim != 2 or values.shape[1] != 4 or values.dtype.kind not in "fiu":
        _refuse(path, f"array = {values.dtype} {values.shape}, allowed numbers (n, 4): x, y, p, t")
    if not ((values >= 0) & (values < 2**53 / 1000)).all() or (values[:, 2] > 1).any():
        _refuse(path, "x, y, p or t below 0, above its range or NaN, allowed p 0..1 and times in ms")
    whole = values[:, :3] == np.rint(values[:, :3])
    if not whole.all():
        _refuse(path, f"x, y or p = {values[:, :3][~whole][0]:g}, allowed whole numbers")
    events = np.empty(len(values), [("x", np.int64), ("y", np.int64), ("t", np.int64), ("p", np.int64)])
    for column, name in enumerate(("x", "y", "p")):
        events[name] = values[:, column]
    events["t"] = values[:, 3].astype(np.float64) * 1000
    return events


def _read_aedat4(path: Path) -> Events:
    check_header(path)
    events: Events = _tonic().io.read_aedat4(str(path))
    events.dtype.names = ("t", "x", "y", "p")
    return events


def _read_aedat2(path: Path) -> Events:
    """jAER's AEDAT 2.0: lines that begin with #, then events of an address and a time, 4 bytes each."""
    io = _tonic().io
    version, start = io.read_aedat_header_from_file(str(path))[:2]
    if not 2 <= version < 3 or (path.stat().st_size - start) % 8:
        _refuse(path, f"AEDAT {version:g} of {path.stat().st_size - start} bytes, allowed AEDAT 2 of whole events of 8")
    # tonic 1.7.0's read_dvs_128 unpacks two of the header's three values and fails; these are its bits of the address.
    raw = io.get_aer_events_from_file(str(path), version, start)
    fields = {
        "x": raw["address"] >> 8 & 127,
        "y": raw["address"] >> 1 & 127,
        "t": raw["timeStamp"],
        "p": raw["address"] & 1,
    }
    events = np.empty(len(raw), [(name, np.int64) for name in fields])
    for name, values in fields.items():
        events[name] = values
    return events


AEDAT: dict[str, Callable[[Path], Events]] = {".aedat4": _read_aedat4, ".aedat": _read_aedat2}


def _read_aedat(path: Path) -> Events:
    return AEDAT[path.suffix](path)


def _resized(frames: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Nearest pixels, ``y = floor(i * H / size)``, as torch's interpolate: counts stay counts, some are left out."""
    rows = np.arange(size) * frames.shape[-2] // size
    columns = np.arange(size) * frames.shape[-1] // size
    return frames[..., rows[:, None], columns]


def _number(path: Path) -> tuple[int, str]:
    """What recordings are ordered by: the last number in the name."""
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else -1, path.name


def _refuse(path: Path, what: str) -> NoReturn:
    raise RmpDeployError(f"data '{path}': {what}. Replace the file.")


def _tonic() -> Any:
    try:
        import tonic
    except ImportError as e:
        what = f"event data: needs {e.name}"
        raise RmpDeployError(
            f"{what}. Run: pip install 'rmp-deploy[events]' && pip install --no-deps tonic==1.7.0."
        ) from e
    return tonic
