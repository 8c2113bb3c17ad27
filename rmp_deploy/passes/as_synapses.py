"""Write as synapses and neurons what a chip has nothing else for: OR pools, and spikes where a current is wanted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    LIF,
    Add,
    Concat,
    Conv1d,
    Conv2d,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Shape,
    SpikingNeuron,
)
from rmp_deploy.passes.paths import NEURONS, currents, host_values

MAX_FLAT = 2**14  # neurons whose identity is a matrix: its size is their square


def as_synapses(graph: SpikingGraph) -> SpikingGraph:
    """Return the graph with OR pools and identity shortcuts written as synapses; it means the same, step by step.

    - A MaxPool2d of spikes is ``1 if any spike in the window``: a depthwise convolution with ones, ``<pool>_or``, and
      neurons with the pool's own name that forget: ``LIF(decay = 0, v_threshold = 0.5)``, or Loihi's with
      ``du = 4095, dv = 4096, vth = 0``.
    - Spikes that are joined with a current (Add, Concat), or that neurons read directly, pass an identity synapse of
      weight 1 (a depthwise 1x1 convolution; of flat values, a matrix): ``<add>_identity``, ``<add>_identity2``, or
      ``<neuron>_identity``. What the host sends, which is the input, is a current already.

    Neither has a state, so that both are exact in the same step.

    Raises:
        RmpDeployError: flat values of more than 2^14 neurons need an identity, or a name is taken.
    """
    current = currents(graph)
    host = host_values(graph)
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, MaxPool2d):
            ops += _or_pool(graph, op)
        elif isinstance(op, NEURONS) or (isinstance(op, Add | Concat) and not current.isdisjoint(op.inputs)):
            made = [_read_as_current(graph, op, i, current | host) for i in range(len(op.inputs))]
            ops += [synapse for synapse in made if synapse is not None]
            read = zip(made, op.inputs, strict=True)
            ops.append(replace(op, inputs=tuple(value if s is None else s.name for s, value in read)))
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops)) if len(ops) > len(graph.ops) else graph


def identity(name: str, value: str, shape: Shape, loihi: bool) -> Op:
    """The synapse of weight 1 from each element of `value` to its own; a value without channels needs a matrix."""
    n = shape[0]
    ones = np.ones((n, 1, *(1,) * (len(shape) - 1)), np.int32)
    if len(shape) == 1:
        if n > MAX_FLAT:
            todo = "Keep it a map (C, H, W), whose identity is one weight per channel"
            raise op_error("Linear", name, f"identity of {n} flat values", f"{MAX_FLAT}", todo)
        weight = np.eye(n, dtype=np.int32)
        if loihi:
            return LoihiLinear(name=name, inputs=(value,), weight=weight, sign_mode="excitatory")
        return Linear(name=name, inputs=(value,), weight=weight.astype(np.float32))
    if len(shape) == 3 and loihi:
        return LoihiConv2d(name=name, inputs=(value,), weight=ones, sign_mode="excitatory", groups=n)
    kind = {2: Conv1d, 3: Conv2d}.get(len(shape))
    if kind is None or loihi:
        todo = "Use another backend"
        raise op_error("Conv2d", name, f"identity of shape {shape}", "(N,), (C, H, W) or real-valued (C, L)", todo)
    return kind(name=name, inputs=(value,), weight=ones.astype(np.float32), groups=n)


def forgetful(name: str, current: str, loihi: bool) -> Op:
    """Neurons without a memory that fire where `current` is 1 or more: the current of spikes through weights of 1.

    Their v is 0 after every step, so that any decay of it means the same; this one says it.
    """
    if loihi:
        du, dv, vth = (np.array(value, np.int32) for value in (4095, 4096, 0))
        return LoihiLIF(name=name, inputs=(current,), du=du, dv=dv, vth=vth)
    decay, v_threshold = np.zeros((), np.float32), np.array(0.5, np.float32)
    return LIF(name=name, inputs=(current,), decay=decay, v_threshold=v_threshold)


def _read_as_current(graph: SpikingGraph, op: Op, index: int, as_it_is: frozenset[str]) -> Op | None:
    """The identity synapse before input `index` of `op`; None where it is a current, or the host's."""
    value = op.inputs[index]
    if value in as_it_is:
        return None
    nth = sum(i not in as_it_is for i in op.inputs[: index + 1])
    nth += sum(i.startswith(f"{op.name}_identity") for i in op.inputs)  # those that `fold_pool` made
    loihi = isinstance(op, LoihiLIF) or not graph.currents.isdisjoint(op.inputs)
    return identity(f"{op.name}_identity{nth if nth > 1 else ''}", value, graph.shapes[value], loihi)


def _or_pool(graph: SpikingGraph, pool: MaxPool2d) -> list[Op]:
    (value,) = pool.inputs
    c = graph.shapes[value][0]
    name, loihi = f"{pool.name}_or", _is_loihis(graph, value)
    ones = np.ones((c, 1, *pool.kernel), np.int32)
    stride, padding = pool.stride, pool.padding
    synapse: Op
    if loihi:
        synapse = LoihiConv2d(
            name=name,
            inputs=(value,),
            weight=ones,
            sign_mode="excitatory",
            stride=stride,
            padding=padding,
            groups=c,
        )
    else:
        weight = ones.astype(np.float32)
        synapse = Conv2d(name=name, inputs=(value,), weight=weight, stride=stride, padding=padding, groups=c)
    return [synapse, forgetful(pool.name, name, loihi)]


def _is_loihis(graph: SpikingGraph, value: str) -> bool:
    """True for spikes of Loihi's neurons alone; spikes that are the input are Loihi's in a graph with any of these."""
    makers = [op for op in graph.sources(value) if isinstance(op, SpikingNeuron)]
    return all(isinstance(op, LoihiLIF) for op in makers or graph.spiking)
