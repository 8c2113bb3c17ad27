"""The self-check of a file: its golden samples on ONNX Runtime and on the reference."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rmp_deploy import backends
from rmp_deploy.analysis import parity
from rmp_deploy.analysis.replay import replay
from rmp_deploy.errors import op_error
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Record, Trace
from rmp_deploy.report.json import Section

RECORD: tuple[Record, ...] = ("spikes", "v")
MAX_VALUES = 2**26  # of the golden samples that are checked together, over all steps


def check_golden(graph: SpikingGraph, file: str | Path) -> Section | None:
    """Run the file's own golden samples through the file's own bytes on stock ONNX Runtime; None without any.

    It holds where the expected counts are the reference's, the found ones ONNX Runtime's, the readout that of its own
    spikes, and the two backends agree up to ties: float rounding at a threshold may make the counts differ.

    Raises:
        RmpDeployError: `load_golden` refuses the file, or one sample is more than `MAX_VALUES`.
    """
    golden = onnx_io.load_golden(file)
    if golden is None:
        return None
    values = values_of_a_sample(graph)
    if values > MAX_VALUES:
        todo = "Export it with fewer steps"
        raise op_error("SpikingGraph", graph.name, f"values to check = {values:,}", f"{MAX_VALUES:,} a sample", todo)
    together = MAX_VALUES // values  # a small file may ask for many steps of many neurons
    layers: dict[str, dict[str, list[int]]] = {name: {"expected": [], "found": []} for name in golden.spike_count}
    holds = True
    for start in range(0, len(golden.x), together):
        part = slice(start, start + together)
        expected = {name: counts[part] for name, counts in golden.spike_count.items()}
        found, right = _check_samples(graph, file, golden.x[part], expected)
        holds = holds and right
        for name, layer in layers.items():
            layer["expected"] += expected[name]
            layer["found"] += found[name]
    return {"samples": len(golden.x), "holds": holds, "layers": layers}


def values_of_a_sample(graph: SpikingGraph) -> int:
    """What a check holds of a sample: values of one step, and input, neurons and readout of all steps."""
    size = {name: math.prod(shape) for name, shape in graph.shapes.items()}
    kept = [graph.input.name, graph.readout.value, *(op.name for op in graph.spiking)]
    return sum(size.values()) + graph.T * sum(size[name] for name in kept)


def _check_samples(
    graph: SpikingGraph, file: str | Path, x: npt.NDArray[np.float32], expected: dict[str, list[int]]
) -> tuple[dict[str, list[int]], bool]:
    """The spike counts of samples `x` that ONNX Runtime finds, and whether all is as `check_golden` says."""
    from rmp_deploy.backends import onnxruntime

    outputs = onnxruntime.run_file(file, x)
    found: dict[str, list[int]] = {name: outputs[f"spike_count/{name}"].tolist() for name in expected}
    exact, traced = (backends.run(graph, x, backend, RECORD) for backend in ("reference", "onnxruntime"))
    own = replay(graph, x, traced)
    return found, (
        parity.compare(graph, x, exact, traced).holds
        and expected == _spike_counts(exact)
        and found == _spike_counts(traced)
        and bool((np.abs(outputs["output"] - own.output) <= own.output_tolerance).all())
    )


def _spike_counts(trace: Trace) -> dict[str, list[int]]:
    return {name: spikes.reshape(len(spikes), -1).sum(axis=1).tolist() for name, spikes in trace.spikes.items()}
