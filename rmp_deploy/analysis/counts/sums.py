"""Exact sums of events [N, T, *shape], sample by sample and step by step.

What repeats along an axis is a view with a stride of 0 there, and is visited once: a static image is one step, the
outputs that a convolution reaches are one channel. Channels are added up first, as bytes; what is left is a product
with a vector, in floats that hold every sum exactly.
"""

from __future__ import annotations

import math
from functools import cached_property
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


class Events:
    """Where events are, bool [N, T, *shape], and their sums, [N, T]; 1 in place of N or T where they do not differ.

    `moved`: the same events in other places, whose sums are known already.
    """

    def __init__(self, where: Bools, moved: Events | None = None) -> None:
        self.where = where
        self.distinct = distinct(where)
        self.moved = moved

    @cached_property
    def per_step(self) -> Ints:
        """Events of each sample and step."""
        if self.moved is not None:
            return self.moved.per_step
        return self._weighted(np.broadcast_to(np.int64(1), self.where.shape[CHANNEL:]))

    def weighted(self, weights: Ints) -> Ints:
        """``sum(events * weights)`` over all elements; weights [*shape] are not negative."""
        if not any(weights.strides):  # all alike
            return self.per_step * weights.flat[0]
        return self._weighted(weights)

    def _weighted(self, weights: Ints) -> Ints:
        found, shape = self.distinct, self.where.shape
        repeated = tuple(i for i, n in enumerate(shape[CHANNEL:]) if found.shape[CHANNEL + i] < n)
        weights = weights.sum(axis=repeated, keepdims=True) if repeated else weights
        if weights.strides[0] == 0:  # of all channels alike
            return self._maps.times(weights[:1], most=int(weights[:1].sum()) * shape[CHANNEL])
        return _Rows(found).times(weights, most=int(weights.sum()))

    def outside(self, reached: Bools) -> Ints:
        """Events where no other one arrived."""
        there = distinct(reached)
        if there.all():
            return np.zeros((1, 1), np.int64)
        if there.shape[CHANNEL] == 1:
            missed = self.over_channels * ~there
            ones = np.broadcast_to(np.int64(1), missed.shape[CHANNEL:])
            return _Rows(missed).times(ones, most=math.prod(self.where.shape[CHANNEL:]))
        return Events(self.where & ~reached).per_step

    @cached_property
    def over_channels(self) -> Array:
        """Events added up over the channels, [N, T, 1, *map]."""
        found = self.distinct.view(np.uint8)
        starts = range(0, found.shape[CHANNEL], BYTE)
        kind = np.uint8 if len(starts) == 1 else np.int64
        total: Array = np.zeros((*found.shape[:CHANNEL], 1, *found.shape[CHANNEL + 1 :]), kind)
        for start in starts:
            part = found[:, :, start : start + BYTE]
            np.add(total, np.add.reduce(part, axis=CHANNEL, dtype=np.uint8, keepdims=True), out=total)
        return total

    @cached_property
    def _maps(self) -> _Rows:
        """`over_channels`, to be multiplied."""
        return _Rows(self.over_channels)


def per_neuron(spikes: Bools) -> Ints:
    """Spikes of each neuron over all samples and steps, [neurons]."""
    steps = spikes.reshape(-1, math.prod(spikes.shape[2:])).view(np.uint8)
    total = np.zeros(steps.shape[1], np.int64)
    for start in range(0, len(steps), BYTE):
        total += np.add.reduce(steps[start : start + BYTE], axis=0, dtype=np.uint8)
    return total


class _Rows:
    """Numbers [N, T, *shape] as factors of products with weights: turned into floats once."""

    def __init__(self, found: Array) -> None:
        self.found = found
        self.floats: dict[npt.DTypeLike, Array] = {}

    def times(self, weights: Ints, most: int) -> Ints:
        """``sum(found * weights)`` over all elements behind N and T, where no sum exceeds `most`."""
        kind: npt.DTypeLike = next((kind for limit, kind in EXACT if most < limit), np.int64)
        if kind not in self.floats:
            self.floats[kind] = self.found.reshape(*self.found.shape[:CHANNEL], -1).astype(kind)
        vector = np.broadcast_to(weights, self.found.shape[CHANNEL:]).reshape(-1).astype(kind)
        total: Array = self.floats[kind] @ vector
        return total.astype(np.int64)
