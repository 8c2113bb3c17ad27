"""What only hands spikes on: identity shortcuts of residual blocks, relays, and pools written as neurons."""

from __future__ import annotations

import math

import numpy as np

from rmp_deploy.analysis.counts.fan_out import SYNAPSES, Dense
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, CubaLIF, LoihiLIF, Op, SpikingNeuron


def is_shortcut(graph: SpikingGraph, op: Op) -> bool:
    """True for one synapse from every element to its own, of one weight that is not 0, that only Adds or relays read.

    What an Add of spikes and a current is without it. Of flat values it is written as a matrix, of which only the
    diagonal is a synapse.
    """
    if not isinstance(op, SYNAPSES) or getattr(op, "bias", None) is not None:
        return False
    readers, weight = graph.consumers(op.name), op.weight
    if not weight.flat[0] or not readers or not all(isinstance(reader, Add) or _forgets(reader) for reader in readers):
        return False
    if isinstance(op, Dense):
        return weight.shape[0] == weight.shape[1] and bool((weight == weight[0, 0] * np.eye(len(weight))).all())
    one_to_one = math.prod(weight.shape[1:]) == 1 and op.groups == len(weight)
    return one_to_one and set(op.stride) == {1} and not any(op.padding) and bool((weight == weight.flat[0]).all())


def repeats(graph: SpikingGraph, op: Op) -> bool:
    """True for neurons without a memory that fire where a spike reaches them through a weight of 1: a relay, a pool.

    They are not in a trace of the graph that they were added to (`passes.balance_latency`), and follow from it.
    """
    if not (isinstance(op, SpikingNeuron) and _forgets(op)):
        return False
    synapse = graph.by_name.get(op.inputs[0])
    if not isinstance(synapse, SYNAPSES) or not graph.is_spikes(synapse.inputs[0]):
        return False
    ones = synapse.weight[synapse.weight != 0] if is_shortcut(graph, synapse) else synapse.weight
    plain = getattr(synapse, "bias", None) is None and not getattr(synapse, "weight_exp", 0)
    if isinstance(op, LoihiLIF):
        plain = plain and not op.bias_mant.any()
    unit = 64 if isinstance(op, LoihiLIF) else 1
    return plain and bool((ones == 1).all() and (op.threshold >= 0).all() and (op.threshold < unit).all())


def _forgets(op: Op) -> bool:
    """Neurons without a memory, as a relay's are."""
    if isinstance(op, LoihiLIF):
        return bool((op.dv == 4096).all() and (op.du == 4095).all())
    return isinstance(op, LIF) and not isinstance(op, CubaLIF) and not op.decay.any()
