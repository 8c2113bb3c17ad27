"""LIF and LoihiLIF -> Lava's LIFReset, in floating and in fixed point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rmp_deploy.converters.lava.synapse import F64
from rmp_deploy.ir.ops import LIF, Array, LoihiLIF, Op, Shape


def lif(op: LIF, shape: Shape, logical: Shape, bias: F64, T: int, latency: int) -> Any:
    """LIFReset neurons of our `shape`; parameters are given for `logical`, which a Flatten may have made of it.

    ``u = a_in; v = decay * v + u + bias; s = v > v_threshold; v[s] = 0`` (lava/proc/lif/models.py:45-69, du = 1:
    Lava's default du = 0 would keep every input current for ever). u and v start at 0 when the layer's window opens, at
    time steps ``1 + latency + i*T``: biases do not integrate before the input arrives, and samples do not mix.
    """
    from lava.proc.lif.process import LIFReset

    def per_neuron(parameter: Array) -> F64:
        return np.broadcast_to(parameter.astype(np.float64), logical).reshape(shape).T

    return LIFReset(
        name=op.name,
        shape=shape[::-1],
        du=1.0,
        dv=1.0 - per_neuron(op.decay),
        vth=per_neuron(op.v_threshold),
        bias_mant=bias.reshape(shape).T,
        reset_interval=T,
        reset_offset=1 + latency,
    )


def loihi_lif(op: LoihiLIF, shape: Shape, logical: Shape, _bias: F64, T: int, latency: int) -> Any:
    """LIFReset neurons with Lava's own parameters, which are ours; arrays where they differ from neuron to neuron."""
    from lava.proc.lif.process import LIFReset

    parameters = {
        name: np.broadcast_to(value, logical).reshape(shape).T if value.ndim else int(value)
        for name, value in op.per_neuron.items()
    }
    return LIFReset(name=op.name, shape=shape[::-1], reset_interval=T, reset_offset=1 + latency, **parameters)


NEURONS: dict[type[Op], Callable[..., Any]] = {LIF: lif, LoihiLIF: loihi_lif}
