"""What functions and methods in a traced torch module mean: `FUNCTIONS` and `METHODS`, one handler each.

A handler has the signature of the torch function behind a `Call`, with `Value`s in place of tensors. What has no
handler is refused: adding a constant or multiplying two values has no op in the IR.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Rule
from rmp_deploy.ir.ops import Add, AvgPool2d, Concat, Flatten, Op, Shape

INPUT = "x"


@dataclass(frozen=True)
class Value:
    """A tensor of the traced module: the IR's value `name`, with `leading` axes before one sample's `shape`.

    leading = 1 is [B, *shape], one time step; 2 is [T, B, *shape], a sequence. Values of one `storage` may share
    memory.
    """

    name: str
    leading: int
    shape: Shape
    storage: int = 0
    rule: Rule | None = None  # how time was read out, after which nothing may follow
    unsqueezed: bool = False  # the input [1, B, *shape], which waits to be repeated over time

    @property
    def ndim(self) -> int:
        return self.leading + len(self.shape)


@dataclass(frozen=True)
class Size:
    """The size of a leading axis, T or B: not known while tracing, and only good for `view` and `reshape`."""

    axis: int


@dataclass(frozen=True)
class Call:
    """One call of a function: where it stands, and what a handler needs to answer it."""

    function: str
    where: str  # type and path of the module in whose forward it stands
    new_name: Callable[[str], str]  # a free name for an op of that module
    emit: Callable[[list[Op], Value], Value]
    apply: Callable[[nn.Module, Value], Value]  # convert a layer as if it stood here
    encode: Callable[[int], Value]  # the input, repeated T times
    read_later: Callable[[Value], bool]  # does anything else read this memory afterwards?

    def refused(self, what: str, allowed: str, todo: str) -> RmpDeployError:
        return RmpDeployError(f"{self.where}: function '{self.function}' {what}, allowed {allowed}. {todo}.")

    def value(self, x: object) -> Value:
        """`x`, if it is a tensor that may still be used."""
        if not isinstance(x, Value) or x.unsqueezed:
            raise self.refused(f"of {x!r}", "values of the network", "Put it into a layer's bias or weight")
        if x.rule is not None:
            raise self.refused("after the readout", "the readout last", "Remove it")
        return x


def add(call: Call, input: object, other: object, *, alpha: float = 1) -> Value:
    """``input + other``, two values of one shape: a residual connection."""
    if alpha != 1:
        raise call.refused(f"with alpha = {alpha}", "1", "Scale the weights before it")
    return _join(call, Add, [input, other])


def add_in_place(call: Call, input: object, other: object, *, alpha: float = 1) -> Value:
    """``input += other``, where nobody reads the memory of `input` afterwards."""
    result = add(call, input, other, alpha=alpha)
    if call.read_later(call.value(input)):
        raise call.refused("in place changes a value that is used elsewhere", "a + b", "Write it out of place")
    return result


def cat(call: Call, tensors: Sequence[object], dim: int = 0) -> Value:
    """Values behind each other along the first axis of a sample: channels, or neurons."""
    first = call.value(tensors[0])
    if dim % first.ndim != first.leading:
        raise call.refused(f"along dim = {dim}", f"{first.leading} (channels)", "Concatenate channels")
    return first if len(tensors) == 1 else _join(call, Concat, tensors)


def _join(call: Call, kind: type[Add | Concat], tensors: Sequence[object]) -> Value:
    values = [call.value(x) for x in tensors]
    if len({x.leading for x in values}) > 1:
        raise call.refused("of a step and a sequence", "values of equal axes", "Join sequences with sequences")
    joined = kind(name=call.new_name("add" if kind is Add else "cat"), inputs=tuple(x.name for x in values))
    return call.emit([joined], values[0])


def flatten(call: Call, input: object, start_dim: int = 0, end_dim: int = -1) -> Value:
    """A whole sample to one axis; batch and time stay."""
    x = call.value(input)
    if (start_dim % x.ndim, end_dim % x.ndim) != (x.leading, x.ndim - 1):
        raise call.refused(f"of dims {start_dim}..{end_dim}", f"{x.leading}..-1", "Flatten a whole sample")
    return x if len(x.shape) == 1 else call.emit([Flatten(name=call.new_name("flatten"), inputs=(x.name,))], x)


def reshape(call: Call, input: object, *shape: Any) -> Value:
    """``view`` or ``reshape`` that flattens a whole sample, or changes nothing."""
    x = call.value(input)
    wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    head, tail = wanted[: x.leading], wanted[x.leading :]
    unknown = sum(isinstance(n, int) and n == -1 for n in wanted)
    kept = all(n in (Size(axis), -1) for axis, n in enumerate(head)) and unknown <= 1
    if kept and tail == x.shape:
        return x
    if kept and len(head) == x.leading and tail in ((-1,), (math.prod(x.shape),)):
        return flatten(call, x, x.leading)
    raise call.refused(f"to {_sizes(wanted)} of a sample {x.shape}", "a whole sample flattened", "Use nn.Flatten")


def _sizes(wanted: tuple[Any, ...]) -> str:
    return f"({', '.join('size' if isinstance(n, Size) else str(n) for n in wanted)})"


def size(call: Call, input: object, dim: int | None = None) -> Any:
    """The shape: numbers for a sample's axes, `Size` for time and batch."""
    x = call.value(input)
    sizes = (*(Size(axis) for axis in range(x.leading)), *x.shape)
    if dim is not None and not -x.ndim <= dim < x.ndim:
        raise call.refused(f"of dim {dim}", f"{-x.ndim}..{x.ndim - 1}", "Ask for an axis that it has")
    return sizes if dim is None else sizes[dim]


def attribute(call: Call, input: object, name: str) -> Any:
    """``x.shape`` and ``x.ndim``."""
    if name not in ("shape", "ndim"):
        raise call.refused(f"'{name}'", "shape or ndim", "Remove it")
    return size(call, input) if name == "shape" else call.value(input).ndim


def dim(call: Call, input: object) -> int:
    """``x.dim()``"""
    return call.value(input).ndim


def item(call: Call, input: object, index: Any) -> Any:
    """Of a shape, its sizes; of a sequence, the last step: the readout 'last'."""
    if isinstance(input, tuple):
        return input[index]
    x = call.value(input)
    if x.leading != 2 or index != -1:
        raise call.refused(f"[{index}]", "[-1], the last time step of a sequence", "Read out the last step")
    return _read_out(x, "last")


def mean(call: Call, input: object, dim: Any = None, keepdim: bool = False) -> Value:
    """Over time the readout 'mean'; over the whole map, average pooling."""
    x = call.value(input)
    axes = _axes(x, dim)
    if x.leading == 2 and axes == [0] and not keepdim:
        return _read_out(x, "mean")
    if len(x.shape) != 3 or axes != [x.ndim - 2, x.ndim - 1]:
        raise call.refused(f"over dim = {dim}", "time (0), or height and width", "Use a layer")
    name = call.new_name("mean")
    kernel = (x.shape[1], x.shape[2])
    pool = AvgPool2d(name=name if keepdim else f"{name}.pool", inputs=(x.name,), kernel=kernel, stride=kernel)
    return call.emit([pool] if keepdim else [pool, Flatten(name=name, inputs=(pool.name,))], x)


def total(call: Call, input: object, dim: Any = None, keepdim: bool = False) -> Value:
    """Over time, the readout 'sum'."""
    x = call.value(input)
    if x.leading != 2 or _axes(x, dim) != [0] or keepdim:
        raise call.refused(f"over dim = {dim}", "time (0) of a sequence", "Use a layer")
    return _read_out(x, "sum")


def _axes(x: Value, dim: Any) -> list[int]:
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return sorted(d % x.ndim for d in dims)


def _read_out(x: Value, rule: Rule) -> Value:
    return replace(x, leading=1, rule=rule)


def unsqueeze(call: Call, input: object, dim: int) -> Value:
    """``x.unsqueeze(0)`` of the input, the first half of direct encoding."""
    x = call.value(input)
    if x.name != INPUT or x.leading != 2 or dim != 0:
        raise call.refused(f"of '{x.name}' at {dim}", "the input at 0, to repeat it over time", "Remove it")
    return replace(x, unsqueezed=True)


def repeat(call: Call, input: object, *sizes: Any) -> Value:
    """``.repeat(T, 1, ...)`` of the unsqueezed input: direct encoding."""
    return _encode(call, input, sizes, unchanged=1)


def expand(call: Call, input: object, *sizes: Any) -> Value:
    """``.expand(T, -1, ...)`` of the unsqueezed input: direct encoding."""
    return _encode(call, input, sizes, unchanged=-1)


def _encode(call: Call, input: object, sizes: tuple[Any, ...], unchanged: int) -> Value:
    counts = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if not isinstance(input, Value) or not input.unsqueezed:
        raise call.refused("of a value", "x.unsqueeze(0) of the input", "Repeat the input over time")
    if len(counts) != input.ndim or type(counts[0]) is not int or any(n != unchanged for n in counts[1:]):
        raise call.refused(f"{counts}", f"T, then {unchanged} for the other axes", "Repeat over time alone")
    return call.encode(counts[0])


def dropout(call: Call, input: object, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """The identity in inference."""
    if training:
        raise call.refused("with training = True", "training = self.training", "Switch it off in eval mode")
    return call.value(input)


def same(call: Call, input: object) -> Value:
    """What changes no number."""
    return call.value(input)


def avg_pool2d(call: Call, input: object, *args: Any, **options: Any) -> Value:
    """As the layer; the arguments come in the same order."""
    return call.apply(nn.AvgPool2d(*args, **options), call.value(input))


def adaptive_avg_pool2d(call: Call, input: object, output_size: Any) -> Value:
    """As the layer."""
    return call.apply(nn.AdaptiveAvgPool2d(output_size), call.value(input))


def max_pool2d(
    call: Call,
    input: object,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """As the layer."""
    layer = nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
    return call.apply(layer, call.value(input))


Handler = Callable[..., Any]
FUNCTIONS: dict[object, Handler] = {
    operator.add: add,
    operator.iadd: add_in_place,
    operator.getitem: item,
    builtins.getattr: attribute,
    torch.add: add,
    torch.cat: cat,
    torch.concat: cat,
    torch.flatten: flatten,
    torch.reshape: reshape,
    torch.mean: mean,
    torch.sum: total,
    F.avg_pool2d: avg_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    F.max_pool2d: max_pool2d,
    F.dropout: dropout,
    F.dropout1d: dropout,
    F.dropout2d: dropout,
}
METHODS: dict[str, Handler] = {
    "add": add,
    "add_": add_in_place,
    "flatten": flatten,
    "view": reshape,
    "reshape": reshape,
    "size": size,
    "dim": dim,
    "mean": mean,
    "sum": total,
    "unsqueeze": unsqueeze,
    "repeat": repeat,
    "expand": expand,
    "contiguous": same,
    "clone": same,
    "detach": same,
}
