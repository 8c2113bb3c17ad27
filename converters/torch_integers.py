"""The layers of `ir_to_torch`: synapses and neurons in integers that are learnt, and the host's in floating point.

A layer computes its `constants` (what it learns, rounded to what Loihi holds) once a pass and reads them at every step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmp_deploy.ir.ops import LIF, Conv2d, Dequantize, Linear, LoihiConv2d, LoihiLIF, LoihiLinear, Op
from rmp_deploy.ir.ops.loihi import PARAMETER_SPAN, STATE_SHIFT, WEIGHT_SPAN, weight_step
from rmp_deploy.ir.reference_loihi import DECAY_SHIFT, STATE_LIMIT
from rmp_deploy.training.straight_through import spike, spike_gradient, straight_through
from rmp_deploy.training.surrogate import Surrogate

State = tuple[Tensor, ...]
NEARLY_HALF = 0.49  # a step: it rounds to where it was


class Step(NamedTuple):
    """One step of neurons; the first of the states is v."""

    spikes: Tensor
    states: State
    u: Tensor


class Learnt(nn.Module):
    """The layer of one op."""

    states = 0  # that `step` takes, each [B, *shape]

    def constants(self) -> State:
        """What every step of a pass reads."""
        raise NotImplementedError

    def step(self, x: Tensor, states: State, constants: State) -> Step:
        """One step of neurons from their current [B, *shape]."""
        raise NotImplementedError

    def to_op(self) -> Op:
        """The op, with what was learnt."""
        raise NotImplementedError


class LoihiSynapse(Learnt):
    """Integer synapses whose weights are ``step * round(weight * unit / step)``, clipped to what `sign_mode` holds.

    `unit` is a number for all outputs or one for each, in units of the current.
    `most` is the largest sum of magnitudes over the synapses of an output for which every sum stays below 2^23; the
    weights of an output that exceed it are scaled down to it. A synapse of one weight for each value alone (the
    identity of a residual shortcut) is not learnt: it stays one.
    """

    unit: Tensor

    def __init__(self, op: LoihiLinear | LoihiConv2d, unit: npt.NDArray[np.float64], most: int) -> None:
        super().__init__()
        self.op, self.most = op, most
        unit = unit.reshape(-1, *(1,) * (op.weight.ndim - 1)) * 2.0**-op.weight_exp
        self.register_buffer("unit", _f32(unit), persistent=False)
        self.weight = nn.Parameter(_f32(op.weight / unit), requires_grad=not _is_identity(op))

    @torch.no_grad()
    def start_from(self, weight: npt.NDArray[np.float64]) -> None:
        """Let the real numbers be `weight`, each as far as it rounds to the integer that it stands for now."""
        if self.weight.requires_grad:
            reach = NEARLY_HALF * weight_step(self.op.num_weight_bits, self.op.sign_mode) / self.unit
            self.weight.copy_(torch.clamp(_f32(weight), self.weight - reach, self.weight + reach))

    def constants(self) -> State:
        """The weights as Loihi holds them, integers in float32."""
        return (straight_through(self._stored, self.weight * self.unit),)

    def _stored(self, weight: Tensor) -> Tensor:
        step = weight_step(self.op.num_weight_bits, self.op.sign_mode)
        low, high = (int(np.trunc(end / step)) for end in WEIGHT_SPAN[self.op.sign_mode])
        units = (weight / step).round_().clamp_(low, high)
        most = self.most / step
        total = units.double().abs().flatten(1).sum(1)
        if bool((total > most).any()):
            shrunk = (most / total).clamp(max=1).reshape(-1, *(1,) * (units.dim() - 1))
            units = torch.where(shrunk < 1, (units * shrunk).trunc(), units).to(weight.dtype)
        return units * step

    def forward(self, x: Tensor, constants: State) -> Tensor:
        op, (weight,) = self.op, constants
        if isinstance(op, LoihiLinear):
            total = F.linear(x.float(), weight)
        else:
            total = F.conv2d(x.float(), weight, None, op.stride, op.padding, op.dilation, op.groups)
        # float32 adds integers below 2^23 exactly in any order; a library that convolves by a transform does not add
        scaled = straight_through(torch.round, total.double()) * 2.0**op.weight_exp
        return scaled if op.weight_exp >= 0 else straight_through(torch.floor, scaled)

    def to_op(self) -> Op:
        (weight,) = self.constants()
        return replace(self.op, weight=weight.numpy().astype(np.int32))


class LoihiNeuron(Learnt):
    """Loihi's neurons, equations in `rmp_deploy.ir.ops.LoihiLIF`; their bias is learnt where the op has one."""

    states = 2
    kept_i: Tensor  # of the state after a step: 1 less the decay
    kept_v: Tensor
    v_threshold: Tensor
    bias_unit: Tensor

    def __init__(self, op: LoihiLIF, surrogate: Surrogate) -> None:
        super().__init__()
        self.op, self.surrogate = op, surrogate
        self.unit = max(1.0, float(op.vth.mean())) * 2**STATE_SHIFT
        unity = 1 << DECAY_SHIFT
        self.keeps_current = bool((op.du < unity - 1).any())
        self.register_buffer("kept_i", _f64((unity - 1 - op.du) / unity), persistent=False)
        self.register_buffer("kept_v", _f64((unity - op.dv) / unity), persistent=False)
        self.register_buffer("v_threshold", _f64(op.threshold), persistent=False)
        self.register_buffer("bias_unit", _f64(2.0**op.bias_exp), persistent=False)
        self.bias = nn.Parameter(_f32(op.bias / self.unit)) if op.bias_mant.any() else None

    def constants(self) -> State:
        """The bias in units of the state."""
        if self.bias is None:
            return (torch.zeros((), dtype=torch.float64),)
        mantissa = straight_through(self._mantissa, self.bias.double() * self.unit / self.bias_unit)
        return (mantissa * self.bias_unit,)

    @staticmethod
    def _mantissa(bias: Tensor) -> Tensor:
        return bias.round().clamp(*PARAMETER_SPAN["bias_mant"])

    def step(self, x: Tensor, states: State, constants: State) -> Step:
        bias = constants[0].expand(x.shape)
        spikes, v, i, u = _LoihiStep.apply(x, *states, bias, self)  # type: ignore[no-untyped-call]
        return Step(spikes, (v, i), u)

    def to_op(self) -> Op:
        if self.bias is None:
            return self.op
        mantissa = self._mantissa(self.bias.double() * self.unit / self.bias_unit)
        return replace(self.op, bias_mant=mantissa.numpy().astype(np.int32))


class _LoihiStep(torch.autograd.Function):
    """One step as one node: no tensor is kept but u, in which the spikes are seen again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, i: Tensor, bias: Tensor, layer: LoihiNeuron) -> State:
        arriving = x * 2**STATE_SHIFT
        i = _wrap((i * layer.kept_i).trunc_().add_(arriving) if layer.keeps_current else arriving)
        u = _int32((v * layer.kept_v).trunc_().add_(i).add_(bias)).clamp_(1 - STATE_LIMIT, STATE_LIMIT - 1)
        fired = u > layer.v_threshold
        ctx.layer = layer
        ctx.save_for_backward(u)
        ctx.mark_non_differentiable(u)
        return fired.to(u.dtype), u.masked_fill(fired, 0), i, u

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor, None]:
        """``v = u (1 - s)``: the reset is not detached, as in training; what rounds, wraps or clips passes through."""
        (u,), layer = ctx.saved_tensors, ctx.layer
        d_s, d_v, d_i, _ = grads
        d_s = torch.addcmul(d_s, d_v, u, value=-1)
        d_u = spike_gradient(d_s, u, layer.v_threshold, layer.unit, layer.surrogate)
        d_u += d_v.masked_fill(u > layer.v_threshold, 0)
        d_i = d_i + d_u
        return d_i * 2**STATE_SHIFT, d_u * layer.kept_v, d_i * layer.kept_i if layer.keeps_current else None, d_u, None


class HostSynapse(Learnt):
    """Real-valued synapses, in float64."""

    def __init__(self, op: Linear | Conv2d) -> None:
        super().__init__()
        self.op = op
        self.weight = nn.Parameter(_f32(op.weight))
        self.bias = None if op.bias is None else nn.Parameter(_f32(op.bias))

    def constants(self) -> State:
        return (self.weight.double(),) if self.bias is None else (self.weight.double(), self.bias.double())

    def forward(self, x: Tensor, constants: State) -> Tensor:
        if isinstance(self.op, Linear):
            return F.linear(x, *constants)
        weight, bias = constants if len(constants) > 1 else (constants[0], None)
        return F.conv2d(x, weight, bias, self.op.stride, self.op.padding, self.op.dilation, self.op.groups)

    def to_op(self) -> Op:
        bias = None if self.bias is None else self.bias.numpy()
        return replace(self.op, weight=self.weight.numpy(), bias=bias)


class HostNeuron(Learnt):
    """Real-valued `LIF`, in float64; nothing of it is learnt."""

    states = 1
    decay: Tensor
    v_threshold: Tensor
    v_reset: Tensor
    subtracted: Tensor

    def __init__(self, op: LIF, surrogate: Surrogate) -> None:
        super().__init__()
        self.op, self.surrogate = op, surrogate
        self.unit = float(np.abs(op.v_threshold).mean()) or 1.0
        values = {"decay": op.decay, "v_threshold": op.v_threshold, "v_reset": op.v_reset, "subtracted": op.subtracted}
        for name, value in values.items():
            self.register_buffer(name, _f64(value), persistent=False)

    def constants(self) -> State:
        return ()

    def step(self, x: Tensor, states: State, constants: State) -> Step:
        u = self.decay * states[0] + x
        spikes = spike(u, self.v_threshold, self.unit, self.surrogate)
        if self.op.reset == "soft":
            return Step(spikes, (u - self.subtracted * spikes,), u)
        return Step(spikes, (u * (1 - spikes) + self.v_reset * spikes,), u)

    def to_op(self) -> Op:
        return self.op


class Readout(Learnt):
    """`Dequantize`; its bias is learnt."""

    scale: Tensor

    def __init__(self, op: Dequantize) -> None:
        super().__init__()
        self.op = op
        self.register_buffer("scale", _f64(op.scale), persistent=False)
        self.bias = nn.Parameter(_f32(op.bias))

    def constants(self) -> State:
        return (self.bias.double(),)

    def forward(self, x: Tensor, constants: State) -> Tensor:
        return self.scale * x + constants[0]

    def to_op(self) -> Op:
        return replace(self.op, bias=self.bias.numpy())


def _wrap(i: Tensor) -> Tensor:
    """Once into 24 bits."""
    lowest, highest = torch.aminmax(i)
    if lowest > -STATE_LIMIT and highest <= STATE_LIMIT:
        return i
    i = _int32(i)
    return i - 2 * STATE_LIMIT * (i > STATE_LIMIT) + 2 * STATE_LIMIT * (i <= -STATE_LIMIT)


def _int32(x: Tensor) -> Tensor:
    """Into 32 bits, as Lava's arrays."""
    lowest, highest = torch.aminmax(x)
    return x if lowest >= -(2**31) and highest < 2**31 else x.long().int().to(x.dtype)


def _f32(value: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(value, np.float32))


def _f64(value: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(value, np.float64))


def _is_identity(op: LoihiLinear | LoihiConv2d) -> bool:
    """One and the same weight from each value to its own."""
    weight = op.weight
    if isinstance(op, LoihiConv2d):
        return weight.shape[1:] == (1, 1, 1) and op.groups == len(weight) and bool((weight == weight.flat[0]).all())
    n, m = weight.shape
    return n == m and bool((weight == np.eye(n, dtype=np.int32) * weight[0, 0]).all())
