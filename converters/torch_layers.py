"""torch.nn layers -> ops: one function per layer, `LAYERS` says which. Only inference: dropout is the identity.

A converter takes the layer, its module path and the names of its inputs, and returns ops in topological order, the last
of which is the layer's value and carries the path as its name; no ops at all are the identity of its one input.
Converters of other libraries' layers have the same form and may call these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir import ops

Converter = Callable[[Any, str, tuple[str, ...]], list[ops.Op]]
Converters = dict[type[nn.Module], Converter]


def linear(layer: nn.Linear, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """Weight and bias."""
    return [ops.Linear(name=path, inputs=inputs, weight=array(layer.weight), bias=optional(layer.bias))]


def conv(layer: nn.Conv1d | nn.Conv2d, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """Any stride, dilation and groups; zero padding in numbers, 'valid', or 'same' where both sides get the same.

    Raises:
        RmpDeployError: another padding mode, or 'same' with an even reach, which pads one pixel more on one side.
    """
    if layer.padding_mode != "zeros":
        raise refused(layer, path, f"padding_mode = {layer.padding_mode!r}", "'zeros'", "Train with zero padding")
    n = len(layer.kernel_size)
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "same":
        if any(r % 2 for r in reach):
            what = f"padding = 'same' with kernel = {layer.kernel_size}"
            raise refused(layer, path, what, "an odd kernel", "Pad both sides alike, in numbers")
        padding: tuple[int, ...] = tuple(r // 2 for r in reach)
    else:
        padding = (0,) * n if layer.padding == "valid" else tuple(int(p) for p in layer.padding)
    kind = ops.Conv1d if n == 1 else ops.Conv2d
    return [
        kind(
            name=path,
            inputs=inputs,
            weight=array(layer.weight),
            bias=optional(layer.bias),
            stride=layer.stride,  # type: ignore[arg-type]  # as many numbers as the kind has axes
            padding=padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            groups=layer.groups,
        )
    ]


def batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """Running statistics and the affine part, gamma = 1 and beta = 0 without one.

    Raises:
        RmpDeployError: no running statistics: such a BatchNorm depends on the batch that it is given.
    """
    if layer.running_mean is None or layer.running_var is None:
        raise refused(layer, path, "track_running_stats = False", "True", "Train it with running statistics")
    c = layer.num_features
    return [
        ops.BatchNorm(
            name=path,
            inputs=inputs,
            gamma=array(layer.weight) if layer.weight is not None else np.ones(c, np.float32),
            beta=array(layer.bias) if layer.bias is not None else np.zeros(c, np.float32),
            mean=array(layer.running_mean),
            var=array(layer.running_var),
            eps=layer.eps,
        )
    ]


def avg_pool2d(layer: nn.AvgPool2d, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """Windows with or without padding, the padding counted.

    Raises:
        RmpDeployError: ceil_mode, divisor_override, or padding that is not counted.
    """
    padding = pair(layer.padding)
    check_default(layer, path, "ceil_mode", False)
    check_default(layer, path, "divisor_override", None)
    if any(padding):
        check_default(layer, path, "count_include_pad", True)
    kernel, stride = pair(layer.kernel_size), pair(layer.stride)
    return [ops.AvgPool2d(name=path, inputs=inputs, kernel=kernel, stride=stride, padding=padding)]


def max_pool2d(layer: nn.MaxPool2d, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """Of spikes only, which the graph checks.

    Raises:
        RmpDeployError: ceil_mode, dilation, or indices as a second value.
    """
    check_default(layer, path, "ceil_mode", False)
    check_default(layer, path, "return_indices", False)
    if pair(layer.dilation) != (1, 1):
        raise refused(layer, path, f"dilation = {layer.dilation}", "1", "Use dense windows")
    kernel, stride, padding = (pair(x) for x in (layer.kernel_size, layer.stride, layer.padding))
    return [ops.MaxPool2d(name=path, inputs=inputs, kernel=kernel, stride=stride, padding=padding)]


def flatten(layer: nn.Flatten, path: str, inputs: tuple[str, ...], start: int = 1) -> list[ops.Op]:
    """A whole sample; `start` is the first axis of one.

    Raises:
        RmpDeployError: other axes than all of a sample.
    """
    if (layer.start_dim, layer.end_dim) != (start, -1):
        dims = f"dims = {layer.start_dim}..{layer.end_dim}"
        raise refused(layer, path, dims, f"{start}..-1", "Flatten a whole sample")
    return [ops.Flatten(name=path, inputs=inputs)]


def identity(layer: nn.Module, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """What does nothing in inference."""
    return []


def flatten_sequence(layer: nn.Flatten, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """A whole sample of [T, B, ...]."""
    return flatten(layer, path, inputs, start=2)


# layers of one time step, [B, ...]
LAYERS: Converters = {
    nn.Linear: linear,
    nn.Conv1d: conv,
    nn.Conv2d: conv,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.AvgPool2d: avg_pool2d,
    nn.MaxPool2d: max_pool2d,
    nn.Flatten: flatten,
    nn.Identity: identity,
    nn.Dropout: identity,
    nn.Dropout1d: identity,
    nn.Dropout2d: identity,
}
# layers that torch applies to whole sequences [T, B, ...] just as to one step
SEQUENCE_LAYERS: Converters = {
    nn.Linear: linear,
    nn.Flatten: flatten_sequence,
    nn.Identity: identity,
    nn.Dropout: identity,
}


def _adaptive_avg_pool2d(layer: nn.AdaptiveAvgPool2d, path: str, shape: ops.Shape) -> nn.Module:
    """The AvgPool2d that gives `output_size` from maps of this size; the identity, if they have it.

    Raises:
        RmpDeployError: the size does not divide the map: its windows would differ in size.
    """
    wanted = layer.output_size
    size = (wanted, wanted) if isinstance(wanted, int) or wanted is None else wanted
    rows_columns = [n if s is None else s for n, s in zip(shape[-2:], size, strict=False)]
    if len(shape) != 3 or any(n % s for n, s in zip(shape[1:], rows_columns, strict=True)):
        what = f"output_size = {wanted} of a value {shape}"
        raise refused(layer, path, what, "divisors of the map", "Use AvgPool2d with a kernel")
    kernel = (shape[1] // rows_columns[0], shape[2] // rows_columns[1])
    return nn.Identity() if kernel == (1, 1) else nn.AvgPool2d(kernel)


# layers that depend on the size of their input -> the layer that does the same at `shape`
SIZED: dict[type[nn.Module], Callable[[Any, str, ops.Shape], nn.Module]] = {
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool2d,
}


def array(x: Tensor) -> ops.Array:
    """A parameter as float32."""
    return x.detach().cpu().float().numpy()


def optional(x: Tensor | None) -> ops.Array | None:
    """A parameter, or none."""
    return None if x is None else array(x)


def pair(x: int | Iterable[int]) -> tuple[int, int]:
    """torch's ``n`` or ``(n, m)`` as two numbers."""
    h, w = (x, x) if isinstance(x, int) else x
    return (int(h), int(w))


def check_default(layer: nn.Module, path: str, option: str, default: object) -> None:
    """Raise RmpDeployError unless the layer has `option` as torch sets it."""
    value = getattr(layer, option)
    if value != default:
        raise refused(layer, path, f"{option} = {value}", f"{default}", "Use the default")


def refused(layer: nn.Module, path: str, what: str, allowed: str, todo: str) -> RmpDeployError:
    """The error that names a layer by its type and path."""
    return op_error(type(layer).__name__, path, what, allowed, todo)
