"""The JSON properties of a file: what a reader takes of them, so that a writer writes nothing else."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.onnx_io.model import is_text

MAX_JSON = 2**18  # values in a property; a network of 100 neuron ops with 1000 golden samples has 100,000


@dataclass(frozen=True)
class Golden:
    """Samples [N, *shape] with the spikes that each neuron op must send for them, [N] per op."""

    x: npt.NDArray[np.float32]
    spike_count: dict[str, list[int]]


def golden_to_text(golden: Golden) -> str:
    """The golden record as the file keeps it."""
    encoded = base64.b64encode(golden.x.astype("<f4").tobytes()).decode()
    return json.dumps({"shape": golden.x.shape, "spike_count": golden.spike_count, "x": encoded}, sort_keys=True)


def golden_of(graph: SpikingGraph, text: str) -> Golden:
    """The golden record of `graph` that `text` is.

    Raises:
        RmpDeployError: its samples do not fit the graph.
        ValueError, TypeError, KeyError: it is none, or not as `golden_to_text` writes it.
    """
    record = _parse(text)
    x = np.frombuffer(base64.b64decode(record["x"], validate=True), "<f4").reshape(record["shape"])
    golden = Golden(x, {str(k): [int(n) for n in v] for k, v in record["spike_count"].items()})
    graph.check_samples(x)
    if golden_to_text(golden) != text:
        raise ValueError("not as they are written")
    neurons = {op.name for op in graph.spiking}
    if golden.spike_count.keys() != neurons or any(len(n) != len(x) for n in golden.spike_count.values()):
        raise ValueError("their spike counts are not those of the neuron ops")
    return golden


def header_of(text: str) -> dict[str, Any]:
    """The record that the nodes do not tell, each entry of the type that `save` writes.

    Raises:
        ValueError, TypeError, KeyError: it is not.
    """
    header: dict[str, Any] = _parse(text)
    types = {
        "T": (int,),
        "dt": (float, type(None)),
        "input": (dict,),
        "readout": (dict,),
        "provenance": (dict,),
    }
    for key, allowed in types.items():
        if type(header[key]) not in allowed:
            raise TypeError(f"{key} = {header[key]!r:.40}")
    texts = [*header["provenance"].values(), *header["readout"].values(), header["input"]["name"]]
    bits = header["input"].get("message_bits")  # version 1 has none
    numbers = [*header["input"]["shape"], *([] if bits is None else [bits])]
    if not all(is_text(t) for t in texts) or not all(type(n) is int for n in numbers):
        raise TypeError("a text or a size is of another type")
    return header


def _parse(text: str) -> Any:
    """Parse a property; what could take far more memory or time than its length is refused."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant[:20]} is no number")

    def integer(digits: str) -> int:
        return int(digits) if len(digits) < 20 else refuse(digits)

    if _is_more_than(MAX_JSON, text):
        raise ValueError(f"more than {MAX_JSON:,} values in a property")
    return json.loads(text, parse_int=integer, parse_constant=refuse)


def _is_more_than(limit: int, text: str) -> bool:
    """True where the JSON `text` has more values than `limit`, or more strings than so many could hold."""
    bare = text.replace("\\\\", "").replace('\\"', "")  # every quote that is left begins or ends a string
    if bare.count('"') > 4 * (limit + 1):  # a value's key and itself
        return True
    return sum(part.count(c) for part in bare.split('"')[::2] for c in "[{,") > limit
