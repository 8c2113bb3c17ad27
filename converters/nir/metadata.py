"""What NIR has no place for and no dynamics depend on: T, readout, encoding, names, order, shapes of parameters.

It stands as JSON in the graph's metadata under `rmp_deploy`. A reader that ignores it gets the same network; where it
does not fit the graph any more, `from_nir` does without it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.ops import Array

KEY = "rmp_deploy"


@dataclass(frozen=True)
class Record:
    """The entries, each with what holds where a file does not say it."""

    name: str = "network"
    T: int | None = None
    encoding: str = "time_series"  # NIR's inputs are signals over time
    readout: str = "mean"
    provenance: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)  # of the ops
    names: dict[str, str] = field(default_factory=dict)  # the name that `from_nir` would give -> the op's own
    shapes: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # op -> parameter -> its shape

    def to_metadata(self) -> dict[str, str]:
        return {KEY: json.dumps(asdict(self), sort_keys=True)}

    def shape_of(self, op: str, parameter: str) -> tuple[int, ...] | None:
        shape = self.shapes.get(op, {}).get(parameter)
        return None if shape is None else tuple(shape)


def read(metadata: dict[str, Any]) -> Record | None:
    """The record in a NIR graph's metadata; None where another tool made the graph.

    Raises:
        RmpDeployError: it is there and malformed.
    """
    if KEY not in metadata:
        return None
    try:
        entries = json.loads(metadata[KEY])
        record = Record(**entries)
        "".join((record.name, *record.provenance, *record.provenance.values())).encode()  # half a surrogate is no text
        fits = (
            all(type(t) is str for t in (record.name, record.encoding, record.readout))
            and type(record.T) is int
            and all(type(t) is str for texts in (record.provenance, record.names) for t in texts.values())
            and all(type(t) is str for t in record.order)
            and all(type(n) is int for op in record.shapes.values() for shape in op.values() for n in shape)
        )
    except (TypeError, ValueError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise RmpDeployError(f"NIR graph: its metadata '{KEY}' is malformed. Export it again, or remove that entry.")
    return record


def compact(full: Array, shape: tuple[int, ...] | None) -> Array:
    """The fewest values that broadcast to `full`: of `shape` where that does, else one, one per channel, or all."""
    channels = (full.shape[0], *(1,) * (full.ndim - 1)) if full.ndim else ()
    for candidate in (shape, (), channels):
        if candidate is None or len(candidate) > full.ndim:
            continue
        aligned = (1,) * (full.ndim - len(candidate)) + candidate
        if all(n in (1, size) for n, size in zip(aligned, full.shape, strict=True)):
            small = full[tuple(slice(n) for n in aligned)]
            if np.array_equal(np.broadcast_to(small, full.shape), full):
                return small.reshape(candidate)
    return full
