"""Other libraries' neurons in the variables of the IR: a gain, a rest and a threshold that fires at equality.

A neuron that rests at ``v_rest``, where it starts and to where it leaks, and that scales its input,

    u = v_rest + decay * (v - v_rest) + gain * x
    spikes = u > v_threshold            or u >= v_threshold
    v = v_reset where spikes else u     or u - v_subtract where spikes else u

is the IR's `LIF` of ``w = (v - v_rest) / gain``: the same decay, ``(v_threshold - v_rest) / gain``,
``(v_reset - v_rest) / gain`` and ``v_subtract / gain``. So the weights before it stay the trained ones, bit for bit,
and it may stand anywhere: behind an Add, a pool or the input, where no weight could take the gain. Its potentials are
in units of the gain; a power of two (tau = 2) scales without rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rmp_deploy.errors import op_error
from rmp_deploy.ir import ops

F64 = npt.NDArray[np.float64]
Number = float | F64


def lif(
    path: str,
    inputs: tuple[str, ...],
    *,
    decay: Number,
    v_threshold: Number,
    v_reset: Number | None = None,
    v_subtract: Number | None = None,
    v_rest: Number = 0.0,
    gain: Number = 1.0,
    fires_at_threshold: bool = False,
    current_decay: Number | None = None,
) -> ops.LIF:
    """The IR's neuron of the equations above: hard reset where `v_reset` is given, else soft by `v_subtract`.

    `fires_at_threshold`: the source fires at ``u >= v_threshold``; the IR's strict threshold is then the next smaller
    float32. With `current_decay` it is a `CubaLIF`, whose current is the x of the equations.

    Raises:
        RmpDeployError: a decay outside 0..1, a gain that is not above 0, or shapes that do not fit.
    """
    check_shapes(path, decay, v_threshold, v_rest, gain, 0.0 if v_reset is None else v_reset)
    if not np.all(np.asarray(gain) > 0):
        raise op_error("LIF", path, f"gain of its input = {np.min(gain):g}", "> 0", "Look at its time constants")
    threshold = np.asarray((v_threshold - v_rest) / gain, np.float32)
    if fires_at_threshold:
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    parameters: dict[str, object] = {"decay": decay, "v_threshold": threshold}
    if v_reset is None:
        assert v_subtract is not None
        parameters |= {"reset": "soft", "v_subtract": v_subtract / gain}
    else:
        parameters |= {"reset": "hard", "v_reset": (v_reset - v_rest) / gain}
    if current_decay is None:
        return ops.LIF(name=path, inputs=inputs, **parameters)  # type: ignore[arg-type]
    return ops.CubaLIF(name=path, inputs=inputs, current_decay=current_decay, **parameters)  # type: ignore[arg-type]


def check_shapes(path: str, *parameters: Number) -> None:
    """Raise RmpDeployError unless the parameters of a neuron broadcast against each other."""
    shapes = [np.shape(x) for x in parameters]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        found = f"parameter shapes = {sorted(set(shapes))}"
        raise op_error("LIF", path, found, "shapes that broadcast", "Reshape them, as in torch") from None


def number(x: Tensor | float) -> F64:
    """A parameter in float64, in which the units are changed before they are rounded once."""
    found: F64 = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, np.float64)
    return found
