"""What one step of one op costs: a counting rule for every op."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.counts.fan_out import Convolution, Dense, Pool, fan_out
from rmp_deploy.analysis.counts.values import MESSAGES, REAL, SPIKES, Step
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
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
    SumPool2d,
)

KEEP_ALL = 4096  # Loihi's decays are fractions of it


def cost(op: Op, read: Sequence[Step], made: Step) -> dict[str, int]:
    """What the N samples of one step of `op` cost, by term; terms that are absent are 0."""
    return COUNT[type(op)](op, read, made)


def _synapse(op: Dense | Convolution, read: Sequence[Step], made: Step) -> dict[str, int]:
    """A spike is accumulated along each of its synapses; a message is multiplied and accumulated."""
    (x,) = read
    synapses = fan_out(op, x.events.shape[1:])

    def reached(events: npt.NDArray[np.bool_]) -> int:
        return int((events.sum(axis=0, dtype=np.int64) * synapses).sum())

    dense = int(np.count_nonzero(x.facts.kinds == REAL)) * int(synapses.sum())
    ac, mac = reached(x.of(SPIKES)), reached(x.of(MESSAGES)) + dense
    has_bias = getattr(op, "bias", None) is not None
    return {"ac": ac, "mac": mac, "weight_read": ac + mac, "bias_add": made.events.size if has_bias else 0}


def shortcut(x: Step) -> dict[str, int]:
    """One synapse for each element."""
    ac, mac = int(np.count_nonzero(x.of(SPIKES))), int(np.count_nonzero(x.of(MESSAGES))) + x.of(REAL).size
    return {"ac": ac, "mac": mac, "weight_read": ac + mac}


def _joined(x: Step) -> dict[str, int]:
    """What joins a current, or neurons, without a synapse: spikes and messages pass an identity, as on the chip."""
    if x.facts.host:
        return {"residual_add": int(np.count_nonzero(x.events))}
    ac, mac = (int(np.count_nonzero(x.of(kind))) for kind in (SPIKES, MESSAGES))
    return {"ac": ac, "mac": mac, "weight_read": ac + mac, "residual_add": x.of(REAL).size}


def _add(_op: Add, read: Sequence[Step], made: Step) -> dict[str, int]:
    """Currents add up in the neuron, where each accumulate is that add already: what else there is, is counted."""
    if made.facts.current:
        return _sum([_joined(x) for x in read if not x.facts.current])
    real = made.facts.kinds == REAL
    meeting = np.sum([x.events[~real] for x in read], axis=0, dtype=np.int64) - 1
    dense = (len(read) - 1) * made.events[real].size
    return {"residual_add": dense + int(meeting[meeting > 0].sum())}


def _sum(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    terms = dict.fromkeys(term for part in parts for term in part)
    return {term: sum(part.get(term, 0) for part in parts) for term in terms}


def _sum_of_window(op: Pool, _read: Sequence[Step], made: Step) -> dict[str, int]:
    return {"pool_add": made.events.size * (math.prod(op.kernel) - 1)}


def _or_of_window(op: MaxPool2d, _read: Sequence[Step], made: Step) -> dict[str, int]:
    return {"pool_or": made.events.size * (math.prod(op.kernel) - 1)}


def _conversion(_op: Op, _read: Sequence[Step], made: Step) -> dict[str, int]:
    return {"conversion": made.events.size}


def _delay(_op: Delay, _read: Sequence[Step], made: Step) -> dict[str, int]:
    """A word goes into the buffer of `steps` words and another one comes out; no synaptic operation."""
    return dict.fromkeys(("state_read", "state_write"), made.events.size)


def _moved(_op: Op, _read: Sequence[Step], _made: Step) -> dict[str, int]:
    return {}


def _lif(op: LIF, read: Sequence[Step], made: Step) -> dict[str, int]:
    decays = [op.decay, op.current_decay] if isinstance(op, CubaLIF) else [op.decay]
    return _neurons([decay.astype(np.float64) for decay in decays], read, made)


def _loihi_lif(op: LoihiLIF, read: Sequence[Step], made: Step) -> dict[str, int]:
    kept = [1 - op.dv / KEEP_ALL, 1 - (op.du + 1) / KEEP_ALL]
    counted = _neurons(kept, read, made)
    return {**counted, "bias_add": made.events.size if op.bias_mant.any() else 0}


def _neurons(kept: Sequence[npt.NDArray[np.float64]], read: Sequence[Step], made: Step) -> dict[str, int]:
    """`kept`: the factor per step of the membrane, and of the synaptic current where the neuron has one."""
    counted = _states(kept, read, made, made.events)
    spikes = int(np.count_nonzero(made.events))
    return {**counted, "neuron_compare": made.events.size, "reset": spikes, "spike": spikes}


def _li(op: LI, read: Sequence[Step], made: Step) -> dict[str, int]:
    return _states([op.decay.astype(np.float64)], read, made, np.zeros_like(made.events))


def _states(
    kept: Sequence[npt.NDArray[np.float64]], read: Sequence[Step], made: Step, spikes: npt.NDArray[np.bool_]
) -> dict[str, int]:
    """Updates and their arithmetic: a factor of 0 forgets and one of 1 keeps, neither multiplies."""
    (x,) = read
    samples, shape = len(made.events), made.events.shape[1:]
    factors = [np.broadcast_to(factor, shape) for factor in kept]
    active = int(np.count_nonzero(x.events | spikes))
    words = made.events.size + samples * sum(int(np.count_nonzero(factor)) for factor in factors[1:])
    return {
        **({} if x.facts.current or x.facts.host else _joined(x)),
        "neuron_active": active,
        "neuron_inactive": made.events.size - active,
        "neuron_multiply": samples * sum(int(np.count_nonzero((f != 0) & (f != 1))) for f in factors),
        "neuron_add": samples * sum(int(np.count_nonzero(f)) for f in factors),
        "state_read": words,
        "state_write": words,
    }


COUNT: dict[type[Op], Callable[[Any, Sequence[Step], Step], dict[str, int]]] = {
    **dict.fromkeys((Linear, Conv1d, Conv2d, LoihiLinear, LoihiConv2d), _synapse),
    Add: _add,
    **dict.fromkeys((AvgPool2d, SumPool2d), _sum_of_window),
    MaxPool2d: _or_of_window,
    **dict.fromkeys((Quantize, Dequantize), _conversion),
    Delay: _delay,
    **dict.fromkeys((Flatten, Concat), _moved),
    **dict.fromkeys((LIF, CubaLIF), _lif),
    LoihiLIF: _loihi_lif,
    LI: _li,
}
