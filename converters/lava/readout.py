"""What was recorded, and the readout's value made of it on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Delay, Op, Shape
from rmp_deploy.ir.reference import STATELESS
from rmp_deploy.passes.paths import NEURONS, SYNAPSES


@dataclass(frozen=True)
class Recording:
    """N samples of one value, its rows one per time step, latency removed; `shape` is [N, T, *shape in the graph]."""

    rows: Any
    shape: Shape

    def read(self) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self.rows.read()
        return values.reshape(self.shape)


@dataclass(frozen=True)
class Readout:
    """The graph's readout value for samples `x`, of recorded spikes, potentials and currents (without their biases)."""

    graph: SpikingGraph
    x: npt.NDArray[Any]
    recordings: dict[str, Recording]
    biases: dict[str, npt.NDArray[np.float64]]

    def read(self) -> npt.NDArray[Any]:
        """[N, T, *shape]: Flatten, Concat, Add, Delay and Dequantize behind what is recorded run here, exactly."""
        direct = self.graph.input.encoding == "direct"
        x = np.repeat(self.x[:, None], self.graph.T, axis=1) if direct else self.x
        values = {self.graph.input.name: x}
        values |= {name: rows.read() + self.biases.get(name, 0) for name, rows in self.recordings.items()}
        waiting = [op for op in behind(self.graph, self.graph.readout.value) if op.name not in values]
        while waiting:
            for op in waiting:
                if values.keys() >= set(op.inputs):
                    values[op.name] = _made(op, [values[i] for i in op.inputs])
            waiting = [op for op in waiting if op.name not in values]
        return values[self.graph.readout.value]


def recorded_values(graph: SpikingGraph) -> list[str]:
    """The synapses and neurons that the readout's value is made of: what has to be recorded for it."""
    return [op.name for op in behind(graph, graph.readout.value) if isinstance(op, (*SYNAPSES, *NEURONS))]


def behind(graph: SpikingGraph, value: str) -> list[Op]:
    """The ops from `value` back to the nearest synapses and neurons, these included."""
    found: dict[str, Op] = {}
    waiting = [value]
    while waiting:
        op = graph.by_name.get(waiting.pop())
        if op is not None and op.name not in found:
            found[op.name] = op
            if not isinstance(op, (*SYNAPSES, *NEURONS)):
                waiting += op.inputs
    return list(found.values())[::-1]


def _made(op: Op, read: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if isinstance(op, Delay):
        late = np.zeros_like(read[0])
        late[:, op.steps :] = read[0][:, : -op.steps]
        return late
    n, T = read[0].shape[:2]
    made = STATELESS[type(op)](op, *(values.reshape(n * T, *values.shape[2:]) for values in read))
    return made.reshape(n, T, *made.shape[1:])
