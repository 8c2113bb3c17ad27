"""The NumPy reference: these functions *are* the definition of the ops; every other path is tested against them.

Values are [B, *shape] arrays of float64, or of int64 where Loihi's ops (`reference_loihi`) or `quantize` made them.
Time is the outer loop, as on the hardware.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir import reference_loihi
from rmp_deploy.ir.correlate import correlate, windows
from rmp_deploy.ir.graph import Readout, Rule, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    Array,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Quantize,
    Shape,
    SumPool2d,
)
from rmp_deploy.ir.trace import Record, Trace

F64 = npt.NDArray[np.float64]
Value = npt.NDArray[Any]  # float64; int64 where Loihi's ops made it


def linear(op: Linear, x: F64) -> F64:
    """``y[b, o] = sum_i weight[o, i] * x[b, i] + bias[o]``"""
    y: F64 = x @ op.weight.astype(np.float64).T
    return y if op.bias is None else y + op.bias


def conv1d(op: Conv1d, x: F64) -> F64:
    """Cross-correlation along one axis: [B, C, L] -> [B, C_out, L_out]; a 2-D one of height 1."""
    return _convolve(op, x[:, :, None], op.weight[:, :, None], (1, *op.stride), (0, *op.padding), (1, *op.dilation))[
        :, :, 0
    ]


def conv2d(op: Conv2d, x: F64) -> F64:
    """Cross-correlation by explicit windows: [B, C, H, W] -> [B, C_out, H_out, W_out]."""
    return _convolve(op, x, op.weight, op.stride, op.padding, op.dilation)


def _convolve(op: Conv1d | Conv2d, x: F64, weight: Array, stride: Shape, padding: Shape, dilation: Shape) -> F64:
    y = correlate(x, weight, stride, padding, dilation, op.groups)
    return y if op.bias is None else y + op.bias.astype(np.float64)[:, None, None]


def batch_norm(op: BatchNorm, x: F64) -> F64:
    """``y = gamma * (x - mean) / sqrt(var + eps) + beta`` on axis 1."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    gamma, beta, mean, var = (p.astype(np.float64).reshape(shape) for p in (op.gamma, op.beta, op.mean, op.var))
    y: F64 = gamma * (x - mean) / np.sqrt(var + op.eps) + beta
    return y


def avg_pool2d(op: AvgPool2d, x: F64) -> F64:
    """Mean of each window, padding counted."""
    mean: F64 = windows(x, op.kernel, op.stride, op.padding).mean(axis=(4, 5))
    return mean


def sum_pool2d(op: SumPool2d, x: F64) -> F64:
    """Sum of each window."""
    total: F64 = windows(x, op.kernel, op.stride, op.padding).sum(axis=(4, 5))
    return total


def max_pool2d(op: MaxPool2d, x: F64) -> F64:
    """Largest of each window; of spikes, OR."""
    largest: F64 = windows(x, op.kernel, op.stride, op.padding).max(axis=(4, 5))
    return largest


def flatten(op: Flatten, x: F64) -> F64:
    """[B, C, H, W] -> [B, C*H*W]"""
    return x.reshape(x.shape[0], -1)


def add(op: Add, *xs: F64) -> F64:
    """Sum of the inputs."""
    return sum(xs[1:], start=xs[0])


def concat(op: Concat, *xs: F64) -> F64:
    """The inputs behind each other along the first axis after the batch."""
    return np.concatenate(xs, axis=1)


def quantize(op: Quantize, x: F64) -> npt.NDArray[np.int64]:
    """``y = clip(rint(x * scale), -largest, largest)`` of x in float32, as a file takes it: the product is exact."""
    with np.errstate(over="ignore"):
        scaled = x.astype(np.float32).astype(np.float64) * op.scale.astype(np.float64)
    y: npt.NDArray[np.int64] = np.rint(scaled).clip(-op.largest, op.largest).astype(np.int64)
    return y


def dequantize(op: Dequantize, x: Value) -> F64:
    """``y = scale * x + bias``"""
    y: F64 = op.scale.astype(np.float64) * x + op.bias.astype(np.float64)
    return y


@dataclass(frozen=True)
class NeuronStep:
    """One step of a neuron op: its value, what a trace records of it, and its states after the step."""

    value: Value
    states: dict[str, Value]
    u: Value | None = None


def loihi_lif(op: LoihiLIF, x: Value, v: Value, i: Value) -> NeuronStep:
    """One step of Loihi's neuron in integers; equations in `rmp_deploy.ir.ops.LoihiLIF`."""
    spikes, v, i, u = reference_loihi.loihi_lif(op, x, v, i)
    return NeuronStep(spikes, {"v": v, "i": i}, u)


def lif(op: LIF, x: F64, v: F64) -> NeuronStep:
    """One step of LIF from input current and previous membrane; equations in `rmp_deploy.ir.ops.LIF`."""
    u = op.decay.astype(np.float64) * v + x
    spikes = u > op.v_threshold
    after_spike = u - op.subtracted if op.reset == "soft" else op.v_reset.astype(np.float64)
    return NeuronStep(spikes.astype(np.float64), {"v": np.where(spikes, after_spike, u)}, u)


def cuba_lif(op: CubaLIF, x: F64, v: F64, i: F64) -> NeuronStep:
    """``i = current_decay * i + x``, then LIF on i."""
    current = op.current_decay.astype(np.float64) * i + x
    step = lif(op, current, v)
    return NeuronStep(step.value, {**step.states, "i": current}, step.u)


def li(op: LI, x: F64, v: F64) -> NeuronStep:
    """``v = decay * v + x``; the value is v."""
    after = op.decay.astype(np.float64) * v + x
    return NeuronStep(after, {"v": after})


STATELESS: dict[type[Op], Callable[..., Value]] = {
    Linear: linear,
    Conv1d: conv1d,
    Conv2d: conv2d,
    BatchNorm: batch_norm,
    AvgPool2d: avg_pool2d,
    SumPool2d: sum_pool2d,
    MaxPool2d: max_pool2d,
    Flatten: flatten,
    Add: add,
    Concat: concat,
    LoihiLinear: reference_loihi.loihi_linear,
    LoihiConv2d: reference_loihi.loihi_conv2d,
    Quantize: quantize,
    Dequantize: dequantize,
}
NEURONS: dict[type[Op], tuple[Callable[..., NeuronStep], tuple[str, ...]]] = {  # type -> step, states it takes
    LIF: (lif, ("v",)),
    CubaLIF: (cuba_lif, ("v", "i")),
    LI: (li, ("v",)),
    LoihiLIF: (loihi_lif, ("v", "i")),
}


def read_out(readout: Readout, values: Value) -> F64:
    """Apply the readout rule to values [T, B, ...]: their mean, their sum or the last step; [B, K]."""
    rules: dict[Rule, Value] = {"mean": values.mean(axis=0), "sum": values.sum(axis=0), "last": values[-1]}
    return rules[readout.rule].astype(np.float64).reshape(values.shape[1], -1)


def run(graph: SpikingGraph, x: npt.NDArray[Any], record: Sequence[Record] = ()) -> Trace:
    """Step `graph` T times over samples `x` ([N, *shape] direct, [N, T, *shape] time_series) in float64.

    Raises:
        RmpDeployError: the samples do not fit the graph.
    """
    graph.check_samples(x)
    samples = x.astype(np.float64)

    def zeros(op: Op) -> F64:
        return np.zeros((len(x), *graph.shapes[op.name]))

    states = {op.name: {key: zeros(op) for key in NEURONS[type(op)][1]} for op in graph.ops if type(op) in NEURONS}
    waiting = {op.name: deque([zeros(op)] * op.steps) for op in graph.of_type(Delay)}
    spiking = graph.spiking
    kept: dict[Record, dict[str, list[npt.NDArray[Any]]]] = {
        what: {op.name: [] for op in spiking} for what in record if what != "readout"
    }
    read: list[Value] = []
    for t in range(graph.T):
        values = {graph.input.name: samples if graph.input.encoding == "direct" else samples[:, t]}
        for op in graph.ops:
            if isinstance(op, Delay):
                values[op.name] = waiting[op.name].popleft()
            elif type(op) in NEURONS:
                step = NEURONS[type(op)][0](op, values[op.inputs[0]], **states[op.name])
                values[op.name], states[op.name] = step.value, step.states
                if step.u is not None:
                    seen: dict[Record, npt.NDArray[Any]] = {
                        "spikes": step.value > 0,
                        "v": step.states["v"],
                        "u": step.u,
                    }
                    for what, layers in kept.items():
                        layers[op.name].append(seen[what])
            else:
                values[op.name] = STATELESS[type(op)](op, *(values[i] for i in op.inputs))
        for op in graph.of_type(Delay):  # at the end of the step: it may read a value that is made after it
            waiting[op.name].append(values[op.inputs[0]])
        read.append(values[graph.readout.value])
    traces = {
        str(what): {name: np.stack(steps, axis=1) for name, steps in layers.items()} for what, layers in kept.items()
    }
    if "readout" in record:
        traces["readout"] = {graph.readout.value: np.stack(read, axis=1)}
    return Trace(backend="reference", output=read_out(graph.readout, np.stack(read)), **traces)
