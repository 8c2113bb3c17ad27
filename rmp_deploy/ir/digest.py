"""A checksum of what a graph computes: the same in memory and in every file that the graph is saved in."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np

from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops.base import Op, same

QUANTIZED_FROM = "quantized from"  # in the provenance of an integer graph: the digest of the float graph it was made of


def digest(graph: SpikingGraph) -> str:
    """SHA-256 of T, input, readout, and of every op's type, name, inputs and parameters: 64 hex digits.

    No spike depends on the graph's name, dt and provenance, nor on a file's version and golden samples: they are left
    out.
    """
    sha = hashlib.sha256(f"T = {graph.T}".encode())
    parts: tuple[Input | Readout | Op, ...] = (graph.input, graph.readout, *graph.ops)
    for part in parts:
        sha.update(f"\n{type(part).__name__}".encode())
        for field in fields(part):
            value = getattr(part, field.name)
            if same(value, field.default):  # left out, so that the digest stays when an op gains a field
                continue
            if isinstance(value, np.ndarray):
                sha.update(f"\n{field.name} {value.shape}: ".encode())
                sha.update(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).data)
            else:
                sha.update(f"\n{field.name}: {value!r}".encode())
    return sha.hexdigest()
