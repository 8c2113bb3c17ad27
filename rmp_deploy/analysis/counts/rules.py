"""What the steps of one op cost: a counting rule for every op."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.counts.fan_out import Convolution, Dense, FanOut, Pool
from rmp_deploy.analysis.counts.sums import CHANNEL, Events, Ints
from rmp_deploy.analysis.counts.values import MESSAGES, REAL, SPIKES, Step
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    Concat,
    CubaLIF,
    Delay,
    Dequantize,
    Flatten,
    LoihiLIF,
    MaxPool2d,
    Op,
    Quantize,
    SumPool2d,
)

Tally = int | Ints  # of each sample and step: one number where they do not differ, else what broadcasts to [N, T]
Terms = dict[str, Tally]
KEEP_ALL = 4096  # Loihi's decays are fractions of it


def cost(op: Op, read: Sequence[Step], made: Step) -> Terms:
    """What `op`, which is no synapse, costs, by term; terms that are absent are 0."""
    return COUNT[type(op)](op, read, made)


def synapses(op: Dense | Convolution, x: Step, made: Step, reached: FanOut) -> tuple[Terms, dict[str, int]]:
    """What a synaptic op costs, and what it read, by the names in `ACTIVITY`, over all samples and steps.

    A spike is accumulated along each of its synapses; a message is multiplied and accumulated; of real values every one
    is.
    """
    real = x.of(REAL)
    events = np.zeros((1, 1), np.int64) if real.all() else x.events.weighted(reached.synapses)
    ac = x.of(SPIKES) * events
    mac = x.of(MESSAGES) * events + real * reached.synapses.sum()
    has_bias = getattr(op, "bias", None) is not None
    terms: Terms = {"ac": ac, "mac": mac, "weight_read": ac + mac, "bias_add": _size(made) if has_bias else 0}
    activity = {"input_elements": x.value.size}
    if not x.facts.known:
        return terms, activity
    known = x.events is x.nonzero and reached.nonzero is reached.synapses and not real.all()
    n = events if known else x.nonzero.weighted(reached.nonzero)
    return terms, {
        **activity,
        "input_events": _total(x.nonzero.per_step, x),
        "ac_nonzero": _total(x.of(SPIKES) * n, x),
        "mac_nonzero": _total((1 - x.of(SPIKES)) * n, x),
    }


def _total(n: Ints, x: Step) -> int:
    """Over all samples and steps, of which `n` has one where they do not differ."""
    return int(n.sum()) * (math.prod(x.value.shape[:CHANNEL]) // n.size)


def _joined(x: Step) -> Terms:
    """What joins a current, or neurons, without a synapse: spikes and messages pass an identity, as on the chip."""
    if x.facts.host:
        return {"residual_add": x.events.per_step}
    events = np.zeros((1, 1), np.int64) if x.of(REAL).all() else x.events.per_step
    ac, mac = x.of(SPIKES) * events, x.of(MESSAGES) * events
    return {"ac": ac, "mac": mac, "weight_read": ac + mac, "residual_add": x.of(REAL) * _size(x)}


def _size(x: Step) -> int:
    """Elements of one step of one sample."""
    return math.prod(x.value.shape[CHANNEL:])


def _add(_op: Add, read: Sequence[Step], made: Step) -> Terms:
    """Currents add up in the neuron, where each accumulate is that add already: what else there is, is counted."""
    if made.facts.current:
        return _sum([_joined(x) for x in read if not x.facts.current])
    real = made.of(REAL)
    if real.all():
        return {"residual_add": (len(read) - 1) * _size(made)}
    somewhere = Events(reduce(np.logical_or, [x.events.where for x in read]))
    meeting = sum(x.events.per_step for x in read) - somewhere.per_step
    return {"residual_add": real * (len(read) - 1) * _size(made) + (1 - real) * meeting}


def _sum(parts: Sequence[Terms]) -> Terms:
    terms = dict.fromkeys(term for part in parts for term in part)
    return {term: sum(part.get(term, 0) for part in parts) for term in terms}


def _sum_of_window(op: Pool, _read: Sequence[Step], made: Step) -> Terms:
    return {"pool_add": _size(made) * (math.prod(op.kernel) - 1)}


def _or_of_window(op: MaxPool2d, _read: Sequence[Step], made: Step) -> Terms:
    return {"pool_or": _size(made) * (math.prod(op.kernel) - 1)}


def _conversion(_op: Op, _read: Sequence[Step], made: Step) -> Terms:
    return {"conversion": _size(made)}


def _delay(_op: Delay, _read: Sequence[Step], made: Step) -> Terms:
    """A word goes into the buffer of `steps` words and another one comes out; no synaptic operation."""
    return dict.fromkeys(("state_read", "state_write"), _size(made))


def _moved(_op: Op, _read: Sequence[Step], _made: Step) -> Terms:
    return {}


def _lif(op: LIF, read: Sequence[Step], made: Step) -> Terms:
    decays = [op.decay, op.current_decay] if isinstance(op, CubaLIF) else [op.decay]
    return _neurons([decay.astype(np.float64) for decay in decays], read, made)


def _loihi_lif(op: LoihiLIF, read: Sequence[Step], made: Step) -> Terms:
    kept = [1 - op.dv / KEEP_ALL, 1 - (op.du + 1) / KEEP_ALL]
    return {**_neurons(kept, read, made), "bias_add": _size(made) if op.bias_mant.any() else 0}


def _neurons(kept: Sequence[npt.NDArray[np.float64]], read: Sequence[Step], made: Step) -> Terms:
    """`kept`: the factor per step of the membrane, and of the synaptic current where the neuron has one."""
    counted = _states(kept, read, made, made.events.outside(read[0].events.where))
    spikes = made.events.per_step
    return {**counted, "neuron_compare": _size(made), "reset": spikes, "spike": spikes}


def _li(op: LI, read: Sequence[Step], made: Step) -> Terms:
    return _states([op.decay.astype(np.float64)], read, made, 0)


def _states(kept: Sequence[npt.NDArray[np.float64]], read: Sequence[Step], made: Step, unprompted: Tally) -> Terms:
    """Updates and their arithmetic: a factor of 0 forgets and one of 1 keeps, neither multiplies.

    `unprompted`: spikes of neurons that no event reached.
    """
    (x,) = read
    factors = [np.broadcast_to(factor, made.value.shape[CHANNEL:]) for factor in kept]
    active = x.events.per_step + unprompted
    words = _size(made) + sum(int(np.count_nonzero(factor)) for factor in factors[1:])
    return {
        **({} if x.facts.current or x.facts.host else _joined(x)),
        "neuron_active": active,
        "neuron_inactive": _size(made) - active,
        "neuron_multiply": sum(int(np.count_nonzero((f != 0) & (f != 1))) for f in factors),
        "neuron_add": sum(int(np.count_nonzero(f)) for f in factors),
        "state_read": words,
        "state_write": words,
    }


COUNT: dict[type[Op], Callable[[Any, Sequence[Step], Step], Terms]] = {
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
