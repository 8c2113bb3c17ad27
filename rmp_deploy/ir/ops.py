"""The spiking ops, one frozen dataclass each: parameters, invariants, shape inference.

Shapes leave out time and batch: a value has shape ``(N,)`` or ``(C, H, W)`` and is stepped T times for B samples.
An op's value carries the op's name. What an op computes is defined by `rmp_deploy.ir.reference`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import op_error

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Pair = tuple[int, int]
Reset = Literal["hard", "soft"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Op:
    """A node of the graph: reads the values named in `inputs`, produces the value `name`.

    Raises:
        RmpDeployError: a parameter is not finite, or its shape breaks the op's invariant.
    """

    name: str
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        self._check(bool(self.name), "name = ''", "a non-empty name", "Name the op")
        self._check(len(self.inputs) == 1, f"inputs = {len(self.inputs)}", "1", "Give it one input")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and str(field.type).startswith("Array"):
                value = np.array(value, dtype=np.float32)  # a copy: the caller may go on with theirs
                bad = int(value.size - np.isfinite(value).sum())
                self._check(
                    bad == 0,
                    f"{field.name} holds {bad} NaN or infinite value{'s' * (bad != 1)}",
                    "finite numbers",
                    "Look at the training run: the loss may have diverged",
                )
                value.setflags(write=False)
                object.__setattr__(self, field.name, value)

    @property
    def kind(self) -> str:
        return type(self).__name__

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the value that this op makes of an input of `shape`."""
        raise NotImplementedError

    def _check(self, holds: bool, what: str, allowed: str, todo: str) -> None:
        if not holds:
            raise op_error(self.kind, self.name, what, allowed, todo)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]


def _same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Op):
    """Dense synapses: ``y[o] = sum_i weight[o, i] * x[i] + bias[o]``; weight (N_out, N_in), bias (N_out,)."""

    weight: Array
    bias: Array | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.weight.ndim == 2, f"weight.ndim = {self.weight.ndim}", "2 (N_out, N_in)", "Reshape it")
        _check_bias(self, self.weight.shape[0], self.bias)

    def output_shape(self, shape: Shape) -> Shape:
        wanted = (self.weight.shape[1],)
        self._check(shape == wanted, f"input shape = {shape}", f"{wanted}", "Put a Flatten before it or fix N_in")
        return (self.weight.shape[0],)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(Op):
    """2-D cross-correlation as in torch: weight (C_out, C_in/groups, KH, KW), bias (C_out,), zero padding.

    ``y[o,h,w] = sum_{c,i,j} weight[o,c,i,j] * x[c, h*stride + i*dilation - padding, ...] + bias[o]``
    """

    weight: Array
    bias: Array | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(
            self.weight.ndim == 4, f"weight.ndim = {self.weight.ndim}", "4 (C_out, C_in/groups, KH, KW)", "Reshape it"
        )
        for what, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
            value = getattr(self, what)
            self._check(min(value) >= least, f"{what} = {value}", f">= {least}", "Correct it")
        self._check(
            self.groups >= 1 and self.weight.shape[0] % self.groups == 0,
            f"groups = {self.groups}",
            f"a divisor of C_out = {self.weight.shape[0]}",
            "Correct it",
        )
        _check_bias(self, self.weight.shape[0], self.bias)

    def output_shape(self, shape: Shape) -> Shape:
        c_in = self.weight.shape[1] * self.groups
        self._check(
            len(shape) == 3 and shape[0] == c_in, f"input shape = {shape}", f"({c_in}, H, W)", "Match the channels"
        )
        reach = [d * (k - 1) + 1 for k, d in zip(self.weight.shape[2:], self.dilation, strict=True)]
        h, w = (
            (n + 2 * p - r) // s + 1 for n, p, r, s in zip(shape[1:], self.padding, reach, self.stride, strict=True)
        )
        self._check(min(h, w) >= 1, f"input map = {shape[1:]}", f"at least {tuple(reach)}", "Use a smaller kernel")
        return (self.weight.shape[0], h, w)


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchNorm(Op):
    """Inference BatchNorm over channels, shapes (C,); lives between export and `passes.fold_batchnorm`.

    ``y = gamma * (x - mean) / sqrt(var + eps) + beta``
    """

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eps", float(np.float32(self.eps)))  # as the file keeps it
        shapes = {self.gamma.shape, self.beta.shape, self.mean.shape, self.var.shape}
        self._check(
            len(shapes) == 1 and self.gamma.ndim == 1, f"parameter shapes = {sorted(shapes)}", "one (C,)", "Correct it"
        )
        self._check(float(self.var.min()) + self.eps > 0, f"var + eps = {self.var.min() + self.eps}", "> 0", "Fix it")

    def output_shape(self, shape: Shape) -> Shape:
        c = self.gamma.shape[0]
        self._check(len(shape) >= 1 and shape[0] == c, f"input shape = {shape}", f"({c}, ...)", "Match the channels")
        return shape


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool2d(Op):
    """Mean over ``kernel`` windows that start every ``stride`` pixels; a border narrower than a window is dropped."""

    kernel: Pair
    stride: Pair

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("kernel", "stride"):
            self._check(min(getattr(self, what)) >= 1, f"{what} = {getattr(self, what)}", ">= 1", "Correct it")

    def output_shape(self, shape: Shape) -> Shape:
        self._check(
            len(shape) == 3 and shape[1] >= self.kernel[0] and shape[2] >= self.kernel[1],
            f"input shape = {shape}",
            f"(C, H, W) with H, W >= {self.kernel}",
            "Use a smaller kernel",
        )
        h, w = ((n - k) // s + 1 for n, k, s in zip(shape[1:], self.kernel, self.stride, strict=True))
        return (shape[0], h, w)


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(Op):
    """(C, H, W) -> (C*H*W,) in C order, as torch."""

    def output_shape(self, shape: Shape) -> Shape:
        return (int(np.prod(shape)),)


@dataclass(frozen=True, eq=False, kw_only=True)
class LIF(Op):
    """Leaky integrate-and-fire neurons, strict threshold; IF is ``decay = 1``.

    ``u[t] = decay * v[t-1] + x[t]``, ``s[t] = u[t] > v_threshold``, ``v[-1] = 0``; then hard reset
    ``v[t] = v_reset where s[t] else u[t]`` or soft reset ``v[t] = u[t] - v_threshold * s[t]``.
    Parameters broadcast against the neurons as in torch: (), (C, 1, 1), (C, H, W) or (N,).
    Source: rmp_loss.md section 2 (decay 0.25, effective threshold 0.5, pre-reset `u` is what fires).
    """

    decay: Array
    v_threshold: Array
    v_reset: Array
    reset: Reset = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.reset in ("hard", "soft"), f"reset = {self.reset!r}", "'hard' or 'soft'", "Choose one")
        low, high = float(self.decay.min()), float(self.decay.max())
        self._check(low >= 0 and high <= 1, f"decay = {low:g}..{high:g}", "0..1", "Give v's factor per step, not tau")

    def output_shape(self, shape: Shape) -> Shape:
        for what in ("decay", "v_threshold", "v_reset"):
            parameter: Shape = getattr(self, what).shape
            try:
                fits = np.broadcast_shapes(parameter, shape) == shape
            except ValueError:
                fits = False
            self._check(fits, f"{what}.shape = {parameter}", f"what broadcasts to {shape}", "Reshape it, as in torch")
        return shape


def _check_bias(op: Op, n: int, bias: Array | None) -> None:
    if bias is not None and bias.shape != (n,):
        raise op_error(op.kind, op.name, f"bias.shape = {bias.shape}", f"({n},)", "Give one bias per output")
