"""Neurons over T steps as one autograd node a layer: the forward and the backward recurrence, written out.

A loop of autograd operations keeps some eight tensors and nodes for every step. Here one node keeps the membrane
potentials u [T, B, ...] and the spikes, and its backward pass walks the same recurrence from the last step to the
first. Each is tested against the loop in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rmp_deploy.training.surrogate import Rectangular, Surrogate, times_derivative

Reset = Literal["hard", "soft"]


@dataclass(frozen=True)
class Options:
    """How the neurons of one layer fire and reset, and how gradients pass them.

    Attributes:
        reset: hard ``v = v_reset where s else u``, or soft ``v = u - v_threshold * s``.
        detach_reset: no gradient through the spike of the reset.
        surrogate: stands in for ds/du.
        distance_power: 1 or 2: the forward pass also gives ``mean(min(|u|, |1 - u|) ** power)``; None: it gives 0.
    """

    reset: Reset = "hard"
    detach_reset: bool = False
    surrogate: Surrogate = field(default_factory=Rectangular)
    distance_power: int | None = None


def lif(
    x: Tensor, decay: Tensor | float, v_threshold: Tensor | float, v_reset: Tensor | float, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """LIF over currents x [T, B, ...]: spikes and potentials before the reset, both [T, B, ...], and the distance [].

    ``u[t] = decay * v[t-1] + x[t]``, ``s[t] = u[t] > v_threshold``, ``v[-1] = 0``. Parameters broadcast against
    [B, ...] and get gradients where they are tensors that ask for them. The gradients, from the last step to the first,
    with ``g = ds/du`` (the surrogate), incoming ``ds[t]`` and ``du[t]``, and ``dv[T-1] = 0``:

        hard: ``du[t] += (ds[t] + dv[t] (v_reset - u[t])) g + dv[t] (1 - s[t])``
        soft: ``du[t] += (ds[t] - dv[t] v_threshold) g + dv[t]``
        ``dx[t] = du[t]``, ``dv[t-1] = decay * du[t]``

    With a detached reset the factor of g is ``ds[t]`` alone.
    """
    spikes, u, distance = _LIF.apply(x, decay, v_threshold, v_reset, options)  # type: ignore[no-untyped-call]
    return spikes, u, distance


def lif_step(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor | float,
    v_threshold: Tensor | float,
    v_reset: Tensor | float,
    reset: Reset,
) -> tuple[Tensor, Tensor]:
    """One step of `lif`, its arithmetic to the last bit: currents x [B, ...] and v before (None: 0) to spikes and v."""
    u, spikes, after = (x.new_empty(x.shape) for _ in range(3))
    _leak(v, decay, x, out=u)
    torch.gt(u, v_threshold, out=spikes)
    return spikes, _after_reset(u, spikes, v_threshold, v_reset, reset, out=after)


def leaky_step(x: Tensor, y: Tensor | None, decay: Tensor | float) -> Tensor:
    """One step of `leaky_sum`: x [B, ...] and y before (None: 0) to y."""
    return _leak(y, decay, x, out=x.new_empty(x.shape))


def leaky_sum(x: Tensor, decay: Tensor | float) -> Tensor:
    """``y[t] = decay * y[t-1] + x[t]``, ``y[-1] = 0``, over x [T, B, ...]: the synaptic current of CubaLIF, and LI.

    Gradients: ``dx[t] = dy[t] + decay * dx[t+1]``.
    """
    y: Tensor = _LeakySum.apply(x, decay)  # type: ignore[no-untyped-call]
    return y


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        decay: Tensor | float,
        v_threshold: Tensor | float,
        v_reset: Tensor | float,
        options: Options,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        u, spikes = (x.new_empty(x.shape) for _ in range(2))  # empty_like would follow the strides of an expanded x
        v = x.new_empty(x.shape[1:])
        exact = torch.promote_types(x.dtype, torch.float32)  # a sum of distances is beyond what float16 holds
        distance = x.new_zeros((), dtype=exact)
        for t, (x_t, u_t, s_t) in enumerate(zip(x, u, spikes, strict=True)):
            _leak(None if t == 0 else v, decay, x_t, out=u_t)
            torch.gt(u_t, v_threshold, out=s_t)
            if options.distance_power is not None:  # while the step is in the cache; v holds nothing now
                signed = signed_distance(u_t, s_t, v_threshold, out=v)
                distance += (signed.abs_() if options.distance_power == 1 else signed.square_()).sum(dtype=exact)
            if t < len(x) - 1:
                _after_reset(u_t, s_t, v_threshold, v_reset, options.reset, out=v)
        parameters = (decay, v_threshold, v_reset)
        ctx.options, ctx.numbers = options, [None if isinstance(p, Tensor) else p for p in parameters]
        ctx.save_for_backward(u, spikes, *(p for p in parameters if isinstance(p, Tensor)))
        return spikes, u, distance.div_(max(1, u.numel()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        d_spikes, d_u, d_mean = grads
        o: Options = ctx.options
        u, spikes, *tensors = ctx.saved_tensors
        d_distance = None if d_mean is None else d_mean / u.numel()
        kept = iter(tensors)
        decay, v_threshold, v_reset = (next(kept) if number is None else number for number in ctx.numbers)
        d_x, scratch = torch.empty_like(u), torch.empty_like(u[0])
        d_v: Tensor | None = None  # gradient of v[t], which step t + 1 reads
        wanted = [bool(w) for w in ctx.needs_input_grad[1:4]]
        d_decay, d_threshold, d_reset = (
            torch.zeros_like(p) if w else None for p, w in zip((decay, v_threshold, v_reset), wanted, strict=True)
        )
        for t in reversed(range(len(u))):
            u_t, s_t, du = u[t], spikes[t], d_x[t]
            d_s = _of_spikes(None if d_spikes is None else d_spikes[t], d_v, u_t, v_threshold, v_reset, o, out=scratch)
            if d_s is None:
                du.zero_()
            else:
                times_derivative(d_s, u_t, v_threshold, o.surrogate, out=du)
                if d_threshold is not None:
                    d_threshold -= du.sum_to_size(d_threshold.shape)
            if d_v is not None:
                if d_threshold is not None and o.reset == "soft":
                    d_threshold -= (d_v * s_t).sum_to_size(d_threshold.shape)
                if d_reset is not None and o.reset == "hard":
                    d_reset += (d_v * s_t).sum_to_size(d_reset.shape)
                du.add_(d_v)
                if o.reset == "hard":
                    du.addcmul_(d_v, s_t, value=-1)
            if d_u is not None:
                du.add_(d_u[t])
            if d_distance is not None and o.distance_power is not None:
                signed = signed_distance(u_t, s_t, v_threshold, out=scratch)
                du.addcmul_(signed.sign_() if o.distance_power == 1 else signed.mul_(2), d_distance)
            if t > 0:
                if d_decay is not None:
                    before = _after_reset(u[t - 1], spikes[t - 1], v_threshold, v_reset, o.reset, out=scratch)
                    d_decay += (du * before).sum_to_size(d_decay.shape)
                d_v = torch.mul(du, decay, out=d_v)
        return d_x, d_decay, d_threshold, d_reset, None


class _LeakySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, decay: Tensor | float) -> Tensor:
        y = x.new_empty(x.shape)
        before: Tensor | None = None
        for t in range(len(x)):
            before = _leak(before, decay, x[t], out=y[t])
        ctx.number = None if isinstance(decay, Tensor) else decay
        ctx.save_for_backward(*([y, decay] if isinstance(decay, Tensor) else []))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (d_y,) = grads
        y, decay = ctx.saved_tensors if ctx.number is None else (d_y, ctx.number)
        d_x = d_y.new_empty(d_y.shape)
        later: Tensor | None = None
        for t in reversed(range(len(d_y))):
            later = _leak(later, decay, d_y[t], out=d_x[t])
        d_decay = None
        if ctx.needs_input_grad[1]:
            d_decay = (d_x[1:] * y[:-1]).sum_to_size((1, *_padded(decay, d_x.dim() - 1))).reshape(decay.shape)
        return d_x, d_decay


def _padded(parameter: Tensor, axes: int) -> tuple[int, ...]:
    """The shape of a parameter with leading ones, as broadcasting against `axes` axes reads it."""
    return (1,) * (axes - parameter.dim()) + tuple(parameter.shape)


def _leak(v: Tensor | None, decay: Tensor | float, x: Tensor, out: Tensor) -> Tensor:
    """``out = decay * v + x``; v None is 0."""
    if v is None:
        return out.copy_(x)
    if isinstance(decay, Tensor):
        return torch.addcmul(x, v, decay, out=out)
    return torch.add(x, v, alpha=decay, out=out)


def _after_reset(
    u: Tensor, s: Tensor, v_threshold: Tensor | float, v_reset: Tensor | float, reset: Reset, out: Tensor
) -> Tensor:
    """The membrane after the reset: ``out = u - (u - v_reset) s`` or ``u - v_threshold s``."""
    if reset == "soft":
        if isinstance(v_threshold, Tensor):
            return torch.addcmul(u, s, v_threshold, value=-1, out=out)
        return torch.add(u, s, alpha=-v_threshold, out=out)
    torch.addcmul(u, u, s, value=-1, out=out)
    if isinstance(v_reset, Tensor):
        return out.addcmul_(s, v_reset)
    return out if v_reset == 0 else out.add_(s, alpha=v_reset)


def _of_spikes(
    d_spikes: Tensor | None,
    d_v: Tensor | None,
    u: Tensor,
    v_threshold: Tensor | float,
    v_reset: Tensor | float,
    options: Options,
    out: Tensor,
) -> Tensor | None:
    """Gradient of the step's spikes: what comes in and, unless detached, what the reset makes of it (in `out`)."""
    if d_v is None or options.detach_reset:
        return d_spikes
    before = d_v.new_zeros(()) if d_spikes is None else d_spikes
    torch.sub(before, torch.mul(d_v, v_threshold if options.reset == "soft" else u, out=out), out=out)
    if options.reset == "soft":
        return out
    if isinstance(v_reset, Tensor):
        return out.addcmul_(d_v, v_reset)
    return out if v_reset == 0 else out.add_(d_v, alpha=v_reset)


def signed_distance(u: Tensor, spikes: Tensor, v_threshold: Tensor | float, out: Tensor) -> Tensor:
    """u less the nearer of 0 and 1, which is the spike where the threshold lies in the middle."""
    middle = 0.5
    in_the_middle = not isinstance(v_threshold, Tensor) and v_threshold == middle
    return torch.sub(u, spikes if in_the_middle else torch.gt(u, middle, out=out), out=out)
