"""Exact sums of events [N, T, *shape], sample by sample and step by step.

What repeats along an axis is a view with a stride of 0 there, and is visited once: a static image is one step, the
outputs that a convolution reaches are one channel. Channels are added up first, as bytes; what is left is a product
with a vector, in floats that hold every sum exactly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
CHANNEL = 2  # the first axis behind N and T
BYTE = 255  # the most that a byte counts to
EXACT = ((2**24, np.float32), (2**53, np.float64))  # below which a float type holds every integer


def distinct(a: Array, axes: int | None = None) -> Array:
    """`a` with one element along each of its (first) `axes` on which it repeats itself."""
    return a[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in a.strides[:axes])]


def true(shape: tuple[int, ...]) -> Bools:
    """An event everywhere."""
    return np.broadcast_to(np.True_, shape)


def non_zero(value: Array) -> Bools:
    """Where `value` is not 0."""
    if value.dtype == np.bool_:
        return value
    return np.broadcast_to(distinct(value) != 0, value.shape)


def per_step(events: Bools) -> Ints:
    """Events of each sample and step, [N, T]; 1 in place of N or T where they do not differ."""
    return weighted(events, np.broadcast_to(np.int64(1), events.shape[2:]))


def weighted(events: Bools, weights: Ints) -> Ints:
    """``sum(events * weights)`` over all elements, [N, T] as in `per_step`; weights [*shape] are not negative."""
    found, axes = distinct(events), range(CHANNEL, events.ndim)
    repeated = tuple(axis - CHANNEL for axis in axes if found.shape[axis] < events.shape[axis])
    weights = weights.sum(axis=repeated, keepdims=True) if repeated else weights
    if weights.strides[0] == 0:  # of all channels alike
        found, weights = _channels(found), weights[:1]
    return _product(found, weights, most=int(weights.sum()) * events.shape[CHANNEL])


def outside(spikes: Bools, reached: Bools) -> Ints:
    """Spikes where no event arrived, [N, T] as in `per_step`."""
    there = distinct(reached)
    if there.all():
        return np.zeros((1, 1), np.int64)
    if there.shape[CHANNEL] == 1:
        missed = _channels(distinct(spikes)) * ~there
        return _product(missed, np.ones(missed.shape[2:], np.int64), most=math.prod(spikes.shape[2:]))
    return per_step(spikes & ~reached)


def per_neuron(spikes: Bools) -> Ints:
    """Spikes of each neuron over all samples and steps, [neurons]."""
    steps = spikes.reshape(-1, math.prod(spikes.shape[2:])).view(np.uint8)
    total = np.zeros(steps.shape[1], np.int64)
    for start in range(0, len(steps), BYTE):
        total += np.add.reduce(steps[start : start + BYTE], axis=0, dtype=np.uint8)
    return total


def _channels(events: Bools) -> Array:
    """Events over the channels, [N, T, 1, *map]."""
    kind = np.uint8 if events.shape[CHANNEL] <= BYTE else np.int64
    total: Array = np.add.reduce(events.view(np.uint8), axis=CHANNEL, dtype=kind, keepdims=True)
    return total


def _product(found: Array, weights: Ints, most: int) -> Ints:
    """``sum(found * weights)`` over all elements behind N and T, where no sum exceeds `most`."""
    kind: npt.DTypeLike = next((kind for limit, kind in EXACT if most < limit), np.int64)
    rows = found.reshape(*found.shape[:2], -1).astype(kind)
    total: Array = rows @ np.broadcast_to(weights, found.shape[2:]).reshape(-1).astype(kind)
    return total.astype(np.int64)
