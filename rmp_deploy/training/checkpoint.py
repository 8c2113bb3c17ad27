"""The checkpoint file: a safetensors file that holds JSON in its header, one file and so always one state.

Whatever kills a run, its folder has the last whole checkpoint: a new one is written beside it and renamed over it. A
SHA-256 over JSON and tensors tells a damaged file from a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically
from rmp_deploy.training.data import Samples

FILE = "checkpoint.safetensors"
FORMAT = "rmp-deploy checkpoint 2"  # 2: with a digest of the diagnostics
PROBED = 64  # samples whose values tell one data set from another


def write(path: Path, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write `values`, of what JSON has, and `tensors`; a reader sees the old file or the new one.

    Raises:
        RmpDeployError: the folder cannot be written.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(values)
    metadata = {"format": FORMAT, "values": text, "sha256": _digest(text, on_cpu)}
    write_atomically(path, save_tensors(on_cpu, metadata))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write` was given.

    Raises:
        RmpDeployError: the file cannot be read, is not a checkpoint, or is damaged.
    """
    try:
        metadata, tensors = read_tensors(path)
    except OSError as e:
        raise RmpDeployError(f"checkpoint '{path}': cannot be read ({e.strerror or e}). Train first.") from e
    except SafetensorError as e:
        raise malformed(path, str(e)) from e
    if metadata.get("format") != FORMAT:
        raise malformed(path, f"format = {metadata.get('format', 'none')}, allowed {FORMAT}")
    text = metadata.get("values", "")
    if _digest(text, tensors) != metadata.get("sha256"):
        raise malformed(path, "its bytes are not those that were written")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise malformed(path, f"its values are not JSON: {type(e).__name__}") from e
    if not isinstance(values, dict):
        raise malformed(path, f"values are a {type(values).__name__}")
    return values, tensors


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file.

    Raises:
        OSError, SafetensorError: it cannot be read, is damaged or no such file.
    """
    path.open("rb").close()  # safetensors' own errors name no file
    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def malformed(path: Path, reason: str) -> RmpDeployError:
    return RmpDeployError(f"checkpoint '{path}': not a whole checkpoint ({reason}). Train into another folder.")


def check_same_run(path: Path, found: Mapping[str, Any], this: Mapping[str, Any]) -> None:
    """Raise RmpDeployError with the first setting, of tables in tables, that the checkpoint has another value of."""
    theirs, ours = _flat(found), _flat(json.loads(json.dumps(this)))
    for key in {**ours, **theirs}:
        before, now = theirs.get(key, "none"), ours.get(key, "none")
        if before != now:
            short = str(before)[:80]
            todo = "Resume with what it was trained with, or train into another folder"
            raise RmpDeployError(f"checkpoint '{path}': {key} = {short}, allowed {now} as this run has. {todo}.")


def check_alike(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError with the first tensor that the one lacks, or whose shape or type differs."""
    theirs, ours = ({n: (tuple(t.shape), t.dtype) for n, t in each.items()} for each in (found, wanted))
    for name in {**ours, **theirs}:
        if theirs.get(name) != ours.get(name):
            raise ValueError(f"{name} = {theirs.get(name, 'none')}, allowed {ours.get(name, 'none')}")


def fingerprint(samples: Samples) -> dict[str, Any]:
    """What tells a data set from another wherever it lies: its size, a digest of all labels and of some samples."""
    chosen = np.unique(np.linspace(0, len(samples.x) - 1, PROBED).astype(np.int64))
    digest = hashlib.sha256(b"" if samples.y is None else samples.y.astype(np.int64).tobytes())
    digest.update(np.ascontiguousarray(samples.x[chosen], np.float32).tobytes())
    return {"shape": [int(n) for n in samples.x.shape], "sha256": digest.hexdigest()}


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
