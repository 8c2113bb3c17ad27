"""Both networks on their own, where recurrent edges had the float network's spikes while layers were quantized."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Dequantize, LoihiLIF
from rmp_deploy.passes.quantize import steps
from rmp_deploy.passes.quantize.results import LayerResult, NeuronResult
from rmp_deploy.passes.quantize.steps import F32


def running_free(
    graph: SpikingGraph, integer: SpikingGraph, x: npt.NDArray[Any], results: tuple[LayerResult, ...]
) -> tuple[LayerResult, ...]:
    """The results with mismatches, rates, wraps, saturations and the readout's error of both networks on their own."""
    wanted, found = (reference.run(each, x, record=("spikes",)).spikes for each in (graph, integer))
    wanted_readout = _values(graph, x, wanted)[graph.readout.value]
    values = _values(integer, x, found)
    free = []
    for result in results:
        op = integer.by_name[result.name]
        if isinstance(op, LoihiLIF) and result.neuron is not None:
            run = steps.loihi_lif(op, values[op.inputs[0]])
            counted = _counted(result.neuron, wanted[op.name], found[op.name], run)
            free.append(replace(result, neuron=counted))
        else:
            error = _output_error(integer, values[integer.readout.value], wanted_readout)
            free.append(replace(result, output_error=error))
    return tuple(free)


def _counted(neuron: NeuronResult, wanted: F32, found: F32, run: steps.LoihiRun) -> NeuronResult:
    return replace(
        neuron,
        mismatches=int((wanted != found).sum()),
        rate=float(found.mean(dtype=np.float64)),
        wraps=run.wraps,
        saturations=run.saturations,
    )


def _output_error(integer: SpikingGraph, found: F32, wanted: F32) -> float | None:
    """As `LayerResult` has it: of the readout's currents, without their bias."""
    op = integer.by_name[integer.readout.value]
    assert isinstance(op, Dequantize)  # what is read out of currents
    error = float(np.square(found - wanted, dtype=np.float64).mean())
    power = float(np.square(wanted - op.bias, dtype=np.float64).mean())
    return math.sqrt(error / power) if power > 0 else None


def _values(graph: SpikingGraph, x: npt.NDArray[Any], spikes: dict[str, Any]) -> dict[str, F32]:
    """Every value, [T, N, *shape], of the network that sent these spikes: with them known, no op waits for a step."""
    values = {name: s.swapaxes(0, 1).astype(np.float32) for name, s in spikes.items()}
    values[graph.input.name] = steps.frames(graph, x)
    for op in graph.ops:
        if op.name not in values:
            values[op.name] = steps.stateless(op, *(values[i] for i in op.inputs))
    return values
