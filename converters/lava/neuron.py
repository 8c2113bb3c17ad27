"""LIF, CubaLIF, LI and LoihiLIF -> Lava's LIFReset, in floating and in fixed point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.converters.lava.synapse import F64
from rmp_deploy.converters.lava.wiring import lava_shape
from rmp_deploy.ir.ops import LI, LIF, Array, CubaLIF, LoihiLIF, Op, Shape


def lif(op: LIF, shape: Shape, bias: F64, T: int, latency: int) -> Any:
    """LIFReset neurons of our `shape`; `bias` is that of all synapses that they read, for each neuron.

    ``u = a_in; v = decay * v + u + bias; s = v > v_threshold; v[s] = 0`` (lava/proc/lif/models.py:45-69, du = 1:
    Lava's default du = 0 would keep every input current for ever). u and v start at 0 when the layer's window opens, at
    time steps ``1 + latency + i*T``: biases do not integrate before the input arrives, and samples do not mix.
    """
    return _lif(op.name, shape, T, latency, decay=op.decay, v_threshold=op.v_threshold, bias=bias)


def cuba_lif(op: CubaLIF, shape: Shape, _bias: F64, T: int, latency: int) -> Any:
    """LIFReset neurons with ``u = current_decay * u + a_in``. Lava's bias would skip u: a bias arrives with a_in."""
    own = op.current_decay
    return _lif(op.name, shape, T, latency, decay=op.decay, v_threshold=op.v_threshold, current_decay=own)


def li(op: LI, shape: Shape, bias: F64, T: int, latency: int) -> Any:
    """LIFReset neurons that never fire; their v is the value."""
    never = np.array(np.inf)
    return _lif(op.name, shape, T, latency, decay=op.decay, v_threshold=never, bias=bias)


def _lif(
    name: str,
    shape: Shape,
    T: int,
    latency: int,
    *,
    decay: Array,
    v_threshold: Array | F64,
    current_decay: Array | None = None,
    bias: F64 | None = None,
) -> Any:
    from lava.proc.lif.process import LIFReset

    return LIFReset(
        name=name,
        shape=lava_shape(shape)[::-1],
        du=1.0 if current_decay is None else 1.0 - per_neuron(current_decay.astype(np.float64), shape),
        dv=1.0 - per_neuron(decay.astype(np.float64), shape),
        vth=per_neuron(v_threshold.astype(np.float64), shape),
        bias_mant=0.0 if bias is None else per_neuron(bias, shape),
        reset_interval=T,
        reset_offset=1 + latency,
    )


def loihi_lif(op: LoihiLIF, shape: Shape, _bias: F64, T: int, latency: int) -> Any:
    """LIFReset neurons with Lava's own parameters, which are ours; arrays where they differ from neuron to neuron."""
    from lava.proc.lif.process import LIFReset

    parameters = {name: per_neuron(value, shape) if value.ndim else int(value) for name, value in op.per_neuron.items()}
    return LIFReset(
        name=op.name, shape=lava_shape(shape)[::-1], reset_interval=T, reset_offset=1 + latency, **parameters
    )


def per_neuron(parameter: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """A parameter that broadcasts against neurons of our `shape`, one for each, in Lava's order."""
    return np.broadcast_to(parameter, shape).reshape(lava_shape(shape)).T


NEURONS: dict[type[Op], Callable[..., Any]] = {LIF: lif, CubaLIF: cuba_lif, LI: li, LoihiLIF: loihi_lif}
