"""`SpikingGraph`: one synchronous network that is stepped T times."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.integers import currents, limits
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Concat,
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
    SpikingNeuron,
)
from rmp_deploy.ir.ops.base import MAX_MESSAGE_BITS

Encoding = Literal["direct", "time_series"]
Rule = Literal["mean", "sum", "last"]
ENCODINGS: tuple[Encoding, ...] = ("direct", "time_series")
RULES: tuple[Rule, ...] = ("mean", "sum", "last")
MAX_T = 65_535
MAX_VALUES = 2**28  # of one value in one step of one sample, its padding included
NAME = re.compile(r"[A-Za-z0-9_.\-]+")
RESERVED = frozenset({"input", "output", "spike_count", "time", "trace"})  # what the ONNX file calls its own values
AnyOp = TypeVar("AnyOp", bound=Op)


@dataclass(frozen=True)
class Input:
    """What the network is fed: one sample of `shape`, without time and batch.

    ``direct``: a real-valued sample [B, *shape] is repeated at every step (the first synapses do multiply-accumulates).
    ``time_series``: a value for every step is given, [B, T, *shape].
    ``message_bits``: None for real values; what Loihi's ops read is stated: 0 for spikes (0 or 1), n for integers
    (graded spikes) ``|x| < 2^n``.
    """

    name: str
    shape: Shape
    encoding: Encoding
    message_bits: int | None = None


@dataclass(frozen=True)
class Readout:
    """The network's answer: `rule` over the T steps of the value `value`."""

    value: str
    rule: Rule


@dataclass(frozen=True)
class SpikingGraph:
    """Ops in topological order, their input, T steps [1], `dt` [s] (optional), readout and provenance.

    Raises:
        RmpDeployError: a name is used twice, an op reads a value that is not made before it, shapes do not fit, the
            readout names no value, or T, dt, encoding or rule is outside its range.
    """

    name: str
    input: Input
    ops: tuple[Op, ...]
    readout: Readout
    T: int
    dt: float | None = None
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def check(holds: bool, what: str, allowed: str, todo: str) -> None:
            if not holds:
                raise op_error("SpikingGraph", self.name, what, allowed, todo)

        for name in (self.input.name, *(op.name for op in self.ops)):
            check(
                bool(NAME.fullmatch(name)) and name not in RESERVED,
                f"name = {name!r}",
                f"letters, digits, '_', '-', '.' and none of {', '.join(sorted(RESERVED))}",
                "Rename it",
            )
        check(1 <= self.T <= MAX_T, f"T = {self.T}", f"1..{MAX_T}", "Set the number of time steps")
        check(self.dt is None or (np.isfinite(self.dt) and self.dt > 0), f"dt = {self.dt}", "> 0 [s]", "Correct it")
        encoding, rule = self.input.encoding, self.readout.rule
        check(encoding in ENCODINGS, f"encoding = {encoding!r}", " or ".join(ENCODINGS), "Choose one")
        check(rule in RULES, f"readout = {rule!r}", " or ".join(RULES), "Choose one")
        size = self.input.shape
        fits = len(size) >= 1 and min(size) >= 1 and math.prod(size) <= MAX_VALUES
        check(fits, f"input shape = {size}", f"sizes >= 1, {MAX_VALUES} in all", "Give one sample's shape")
        bits = self.input.message_bits
        todo = "State what the input's values are"
        check(bits is None or 0 <= bits <= MAX_MESSAGE_BITS, f"message_bits = {bits}", f"0..{MAX_MESSAGE_BITS}", todo)
        check(len(self.spiking) > 0, "LIF ops = 0", "at least 1", "A network without neurons does not spike")
        _ = self.shapes  # infers every shape, or says which op does not fit
        _ = self.integers  # or says which op reads what it cannot
        for op in self.of_type(MaxPool2d):
            if not self.is_spikes(op.inputs[0]):
                todo = "Put it behind neurons, or use AvgPool2d"
                raise op_error(op.kind, op.name, f"input = '{op.inputs[0]}'", "spikes (of spikes, max is OR)", todo)
        check(
            self.readout.value in self.shapes, f"readout value = {self.readout.value!r}", "the name of an op", "Name it"
        )

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every value by name, the input's included; a Delay may read a value that is made after it."""
        shapes = {self.input.name: self.input.shape}
        later = {op.name for op in self.ops}
        for op in self.ops:
            if op.name in shapes:
                raise op_error(op.kind, op.name, "name is used twice", "one op per name", "Rename one")
            missing = [i for i in op.inputs if i not in shapes and not (isinstance(op, Delay) and i in later)]
            if missing:
                todo = "Order the ops topologically; only a Delay reads a value that is made after it"
                raise op_error(op.kind, op.name, f"input = {missing[0]!r}", "a value made before it", todo)
            shapes[op.name] = op.output_shape(*(shapes[i] for i in op.inputs if i in shapes))
            _check_size(op, [shapes[i] for i in op.inputs if i in shapes], shapes[op.name])
        for op in self.of_type(Delay):
            op.output_shape(shapes[op.inputs[0]])
        return shapes

    @cached_property
    def spiking(self) -> tuple[SpikingNeuron, ...]:
        """The neurons that spike, in order: those that a trace has spikes, v and u of."""
        return tuple(op for op in self.ops if isinstance(op, SpikingNeuron))

    @cached_property
    def integers(self) -> dict[str, int]:
        """Largest magnitude of every value that is an integer, by name (`rmp_deploy.ir.integers`)."""
        return limits(self.ops, self.input.name, self.input.message_bits)

    @cached_property
    def currents(self) -> frozenset[str]:
        """The values that Loihi's synapses made and no neuron has read yet: integers, and no spikes."""
        return currents(self.ops)

    def of_type(self, *kinds: type[AnyOp]) -> tuple[AnyOp, ...]:
        """The ops of these types, in order."""
        return tuple(op for op in self.ops if isinstance(op, kinds))

    @cached_property
    def by_name(self) -> dict[str, Op]:
        return {op.name: op for op in self.ops}

    def consumers(self, value: str) -> list[Op]:
        """The ops that read `value`."""
        return [op for op in self.ops if value in op.inputs]

    def is_spikes(self, value: str) -> bool:
        """True where every element of `value` is 0 or 1: made by neurons or a spiking input, and not added up since."""
        return value in self._spike_values

    @cached_property
    def _spike_values(self) -> frozenset[str]:
        found = {self.input.name} if self.input.message_bits == 0 else set()
        found |= {op.name for op in self.spiking}
        passing, before = self.of_type(Flatten, MaxPool2d, Concat, Delay), -1
        while len(found) > before:  # one round, unless a Delay reads what is made after it
            before = len(found)
            for op in passing:
                if found.issuperset(op.inputs):
                    found.add(op.name)
            passing = passing[::-1]
        return frozenset(found)

    def sources(self, value: str) -> Iterator[Op]:
        """The ops from `value` back to the nearest neurons or the input, nearest first, those neurons included."""
        waiting, seen = [value], {value}
        while waiting:
            op = self.by_name.get(waiting.pop(0))
            if op is None:
                continue
            yield op
            if not isinstance(op, SpikingNeuron):
                waiting += [i for i in op.inputs if i not in seen]
                seen |= set(op.inputs)

    def check_samples(self, x: npt.NDArray[Any]) -> None:
        """Raise RmpDeployError unless `x` is [N, *shape] (direct) or [N, T, *shape] (time_series) and finite."""
        shape = self.input.shape if self.input.encoding == "direct" else (self.T, *self.input.shape)
        if x.dtype.kind not in "fiub":
            raise RmpDeployError(f"samples: dtype = {x.dtype}, allowed numbers. Convert them to float32.")
        if x.ndim != len(shape) + 1 or x.shape[1:] != shape or x.shape[0] < 1:
            axes = ", ".join(map(str, shape))
            todo = f"Reshape the data to the network's input ({self.input.encoding} encoding)"
            if (
                self.input.encoding == "time_series" and x.shape[1:] == self.input.shape
            ):  # a network that was trained on encoded images, given images
                todo = "It takes time steps: encode the samples (encode_samples, docs/train.md)"
            raise RmpDeployError(f"samples for graph '{self.name}': shape = {x.shape}, allowed (N, {axes}). {todo}.")
        if not np.isfinite(x).all():
            raise RmpDeployError(f"samples for graph '{self.name}': NaN or infinite, allowed finite. Clean them.")
        bits = self.input.message_bits
        if bits is not None:
            low, high = (0, 1) if bits == 0 else (1 - 2**bits, 2**bits - 1)
            wrong = (x < low) | (x > high) | (x != np.rint(x))
            if wrong.any():
                raise RmpDeployError(
                    f"samples for graph '{self.name}': value = {x.flat[np.argmax(wrong)]:g}, "
                    f"allowed integers {low}..{high} (message_bits = {bits}). Quantize the data first."
                )


def _check_size(op: Op, read: Sequence[Shape], made: Shape) -> None:
    """Refuse a value, a padded map or a delay's memory that no machine would hold, before anything is allocated."""
    padding = getattr(op, "padding", None)
    padded = [n + 2 * p for n, p in zip(read[0][1:], padding, strict=True)] if padding else []
    largest = max(math.prod(made) * getattr(op, "steps", 1), read[0][0] * math.prod(padded) if padded else 0)
    if largest > MAX_VALUES:
        raise op_error(op.kind, op.name, f"values = {largest}", f"1..{MAX_VALUES}", "Use a smaller map")


def describe(op: Op) -> str:
    """One op's parameters in words, as the text form and the reports print them."""
    if isinstance(op, Linear):
        return f"{op.weight.shape[1]} -> {op.weight.shape[0]}{_bias(op)}"
    if isinstance(op, Quantize):
        return f"scale {_span(op.scale)}, integers of {op.message_bits} bits"
    words: list[str] = []
    if isinstance(op, Dequantize):
        words += [f"scale {_span(op.scale)}", f"bias {_span(op.bias)}"]
    if isinstance(op, LoihiLIF):
        words += [f"{name} {_span(value)}" for name, value in op.per_neuron.items() if value.any()]
    if isinstance(op, LoihiLinear | LoihiConv2d):
        words.append(f"{op.sign_mode} {op.num_weight_bits}-bit weights, exponent {op.weight_exp}")
    if isinstance(op, CubaLIF):
        words.append(f"current_decay {_span(op.current_decay)}")
    if isinstance(op, LIF | LI):
        words.append(f"decay {_span(op.decay)}")
    if isinstance(op, LIF):
        words.append(f"v_threshold {_span(op.v_threshold)}")
        words.append(f"reset to {_span(op.v_reset)}" if op.reset == "hard" else f"soft reset by {_span(op.subtracted)}")
    weight = getattr(op, "weight", None)
    if weight is not None:
        words.append(f"weight {tuple(weight.shape)}{_bias(op)}")
    for what, default in (("kernel", None), ("stride", None), ("padding", 0), ("dilation", 1), ("groups", 1)):
        value = getattr(op, what, None)
        if value is not None and set(value if isinstance(value, tuple) else (value,)) != {default}:
            words.append(f"{what} {value if isinstance(value, int) else 'x'.join(map(str, value))}")
    if isinstance(op, Delay):
        words.append(f"{op.steps} step{'s' * (op.steps > 1)}")
    return ", ".join(words)


def to_text(graph: SpikingGraph) -> str:
    """The whole graph, readable: one line per op with its inputs, shape and parameters."""
    steps = f"T = {graph.T}" + ("" if graph.dt is None else f", dt = {graph.dt:g} s")
    bits = graph.input.message_bits
    kind = "" if bits is None else ", spikes" if bits == 0 else f", integers of {bits} bits"
    lines = [
        f"graph {graph.name}: {steps}",
        f"input {graph.input.name} {graph.input.shape}: {graph.input.encoding}{kind}",
    ]
    for op in graph.ops:
        parameters = describe(op)
        kind = f"{op.kind}({', '.join(op.inputs)})"
        lines.append(f"{op.name} {graph.shapes[op.name]} = {kind}" + (f": {parameters}" if parameters else ""))
    return "\n".join([*lines, f"output = {graph.readout.rule} of {graph.readout.value} over T steps"]) + "\n"


def _bias(op: Op) -> str:
    return "" if getattr(op, "bias", None) is None else " + bias"


def _span(x: npt.NDArray[Any]) -> str:
    low, high = float(x.min()), float(x.max())
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"
