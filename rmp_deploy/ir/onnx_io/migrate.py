"""Older files: rewrite a model of an older domain version into the next one, until it is of this version.

Version 1 had one LIF function for both resets with the reset as a text attribute, no `v_subtract`, the weights
outside the step graph, and a checksum of the parameters alone. Version 2 is version 3 without `Quantize` and
`Dequantize`, so that its files are what is written today but for the number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields

import numpy as np
from onnx import ModelProto, helper

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.onnx_io import boundary
from rmp_deploy.ir.onnx_io.functions import DOMAIN, DOMAIN_VERSION, FUNCTIONS, SUFFIX
from rmp_deploy.ir.onnx_io.model import step_of

# The functions of version 1, as SHA-256 of their bytes: no other body may pass for them.
FUNCTIONS_OF_1 = {
    "LIF": "391dae5ad0ff194b7e4cc3bf4bb9703a17666d9516ec39e85f81314aa0840afe",
    "CubaLIF": "6b825f8333aaaa656215132ef7026e19e08f1c1fa919ffaa2445a85ff6ac8275",
    "LI": "42d3c3a9902dd26e4d7f7f66b6a5ec417d0d57696211693899d9fb23f98049ce",
    "SumPool2d": "805231dadd6fe4141c3f804ff93bf80d0bbffd23c2f8623a23b59d849198782a",
    "DelayRead": "efada32e7fd5495910251829c077e915e6d244b3af5dca393f36b7fb85266f3b",
    "DelayWrite": "077049fa99b984e993bdb7b7c9895d3ee0beac61a3daab2045f7ada6406f5dd4",
    "SpikeCount": "09fae8e549cb715079c541f63ab53d5e8ec14442e866d52cf4697eb9f980f35b",
}


def migrate(model: ModelProto, version: int) -> None:
    """Rewrite `model` of domain version `version` in place, version by version, into the present one.

    Raises:
        ValueError: it is not a file that its version wrote.
    """
    for older in range(version, DOMAIN_VERSION):
        MIGRATIONS[older](model)
        state(model, older + 1)


def state(model: ModelProto, version: int) -> None:
    """Let `model` say that it is of domain version `version`."""
    for opset in model.opset_import:
        if opset.domain == DOMAIN:
            opset.version = version


def _from_1(model: ModelProto) -> None:
    for function in model.functions:
        found = hashlib.sha256(function.SerializeToString(deterministic=True)).hexdigest()
        if found != FUNCTIONS_OF_1[function.name]:
            raise ValueError(f"function '{function.name}' is not that of version 1")
    body = step_of(model.graph.node)
    for node in body.node:
        if node.domain == DOMAIN and node.op_type in ("LIF", "CubaLIF"):
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            reset = attributes.pop("reset").decode()
            if reset == "soft":  # version 1 wrote a v_reset beside it, which had no effect
                taken = attributes.pop("v_reset")
                taken.CopyFrom(attributes["v_threshold"])
                taken.name = "v_subtract"
                attributes["v_subtract"] = taken
            kind, name, ends = node.op_type + SUFFIX[reset], node.name, (list(node.input), list(node.output))
            node.CopyFrom(helper.make_node(kind, *ends, name=name, domain=DOMAIN, **attributes))
    used = {node.op_type for node in body.node if node.domain == DOMAIN}
    del model.functions[:]
    model.functions.extend(make() for name, make in FUNCTIONS.items() if name in used)
    read = {value for node in body.node for value in node.input}
    outside = list(model.graph.initializer)
    del model.graph.initializer[:]
    for tensor in outside:
        (body if tensor.name in read else model.graph).initializer.append(tensor)


def _from_2(model: ModelProto) -> None:
    for node in step_of(model.graph.node).node:
        if node.op_type in boundary.FUNCTIONS:
            raise ValueError(f"node '{node.name}': {node.op_type} in version 2")


MIGRATIONS: dict[int, Callable[[ModelProto], None]] = {1: _from_1, 2: _from_2}
REWRITTEN = 1  # files up to this version are in other bytes than those that their graph gives today


def checksum_of_1(graph: SpikingGraph) -> str:
    """SHA-256 of every parameter that version 1 had."""
    sha = hashlib.sha256()
    for op in graph.ops:
        for field in fields(op):
            if field.metadata.get("since", 1) > 1:
                continue
            value = getattr(op, field.name)
            content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            sha.update(f"{op.name}/{field.name}:{len(content)}:".encode() + content)
    return sha.hexdigest()
