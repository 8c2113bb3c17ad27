"""Stock ONNX Runtime: no custom operator, the file's own functions define the neurons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Record, Trace

ERRORS = (state.Fail, state.InvalidGraph, state.InvalidArgument, state.NotImplemented, state.RuntimeException)


def run(graph: SpikingGraph, x: npt.NDArray[Any], record: Sequence[Record] = ()) -> Trace:
    """Run `graph` in float32 on the CPU; `record` adds outputs to the model in memory.

    Raises:
        RmpDeployError: the samples do not fit the graph.
    """
    graph.check_samples(x)
    with onnx_io.runnable(graph, record) as model:
        found = _outputs(model, x)
    layers = {str(what): {name: found[f"trace/{what}/{name}"] for name in _recorded(graph, what)} for what in record}
    return Trace(backend="onnxruntime", output=found["output"], **layers)


def _recorded(graph: SpikingGraph, what: Record) -> list[str]:
    return [graph.readout.value] if what == "readout" else [op.name for op in graph.spiking]


def run_file(path: str | Path, x: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Run an .onnx file as any user of ONNX Runtime would: `output` and `spike_count/<neuron op>`.

    A file of an older version is migrated first.

    Raises:
        RmpDeployError: `load` refuses the file, or the samples do not fit it.
    """
    graph, model = onnx_io.load_runnable(path)
    graph.check_samples(x)
    return _outputs(model, x)


def _outputs(model: bytes | str, x: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Every output of a model, given as its bytes or its path."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        values = session.run(None, {"input": np.ascontiguousarray(x, dtype=np.float32)})
    except ERRORS as e:  # out of memory, mostly
        raise RmpDeployError(f"onnxruntime: {' '.join(str(e).split())[:300]}. Try fewer samples at a time.") from e
    return dict(zip([o.name for o in session.get_outputs()], values, strict=True))
