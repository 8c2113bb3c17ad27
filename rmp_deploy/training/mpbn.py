"""MPBN: neurons whose membrane potential passes a BatchNorm before they fire. docs/mpbn.md has the algebra.

Source: Guo et al., "Membrane Potential Batch Normalization for Spiking Neural Networks", ICCV 2023, arXiv 2308.08359.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rmp_deploy.training.fused import Options, Reset, signed_distance
from rmp_deploy.training.neurons import LIF, State, _number
from rmp_deploy.training.surrogate import Surrogate, times_derivative


class MPBNLIF(LIF):
    """LIF neurons that fire on the normalized potential m: currents [T, B, C, ...] in, spikes [T, B, C, ...] out.

    ``u[t] = decay * v[t-1] + x[t]``, ``m[t] = BN(u[t])``, ``s[t] = m[t] > v_threshold``, ``v[-1] = 0``. Leak and reset
    are those of `LIF` and use the raw u: hard ``v[t] = v_reset where s[t] else u[t]``, soft
    ``v[t] = u[t] - v_threshold * s[t]``. The surrogate stands for ds/dm.

    `bn` has one gain and shift per channel, shared by all steps. In training every step is normalized with its own
    statistics over [B, ...], and moves the running ones; in eval mode the running ones make it
    ``m = u * scale + shift``, two roundings of each element that are the same on every device.

    After a forward pass `u` holds m, which is what `RMPLoss` regularizes and `distance` is of: the distance of a raw
    potential to a spike means nothing where m decides. In eval mode `u_raw` holds the potentials before the reset and
    `v` those after it.

    Raises:
        ValueError: as `LIF`; channels < 1, or when called, currents of another number of channels or of no steps
            (which have no potentials for `u`).
    """

    of_the_last_pass = (*LIF.of_the_last_pass, "u_raw", "_v")

    def __init__(
        self,
        channels: int,
        decay: float | Tensor = 0.25,
        v_threshold: float | Tensor = 0.5,
        v_reset: float | Tensor = 0.0,
        reset: Reset = "hard",
        surrogate: Surrogate | None = None,
        detach_reset: bool = False,
        learn_decay: bool = False,
    ) -> None:
        super().__init__(decay, v_threshold, v_reset, reset, surrogate, detach_reset, learn_decay)
        if type(channels) is not int or channels < 1:
            raise ValueError(f"MPBNLIF: channels = {channels!r}, allowed whole numbers >= 1.")
        self.bn = nn.BatchNorm1d(channels)
        self.u_raw: Tensor | None = None
        self._v: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 0 or len(x) == 0:
            wanted = f"[T, B, {self.bn.num_features}, ...]"
            raise ValueError(f"MPBNLIF: shape = {tuple(x.shape)}, allowed currents {wanted} with T >= 1.")
        state: State | None = None
        steps = []
        for x_t in x:
            step = self._step(x_t, state)
            steps.append(step)
            state = (step[2],)
        spikes, u_raw, v, m, distances = zip(*steps, strict=True)
        self.u = torch.stack(m)
        self.distance = None if self.distance_power is None else torch.stack(distances).mean()
        self.u_raw, self._v = (None, None) if self.training else (torch.stack(u_raw), torch.stack(v))
        return torch.stack(spikes)

    @property
    def v(self) -> Tensor | None:
        """The membrane potentials after the reset of the last pass in eval mode, [T, B, C, ...]."""
        return self._v

    @torch.no_grad()
    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One time step, for streaming: currents [B, C, ...] and the state before (None: zeros), spikes and (v,)."""
        spikes, _, v, _, _ = self._step(x, state)
        return spikes, (v,)

    def normalize(self, u: Tensor) -> Tensor:
        """``m = BN(u)`` of one step's potentials [B, C, ...]."""
        if self.bn.training:
            m: Tensor = self.bn(u.flatten(2) if u.dim() > 3 else u)
            return m.view_as(u)
        scale, shift = (p.view(-1, *(1,) * (u.dim() - 2)) for p in self.affine())
        return u * scale + shift  # never fused into one rounding: its boundary is the threshold that export finds

    def affine(self) -> tuple[Tensor, Tensor]:
        """What the running statistics make of the BatchNorm, (C,) each.

        ``scale = gamma / sqrt(var + eps)``, ``shift = beta - mean * scale``
        """
        mean, var = self.bn.running_mean, self.bn.running_var
        assert mean is not None and var is not None  # a BatchNorm of ours tracks them
        scale = self.bn.weight / torch.sqrt(var + self.bn.eps)
        return scale, self.bn.bias - mean * scale

    def _step(self, x: Tensor, state: State | None) -> tuple[Tensor, ...]:
        """Spikes, u, v and m of one step, [B, C, ...], and the distance of m to the spikes, []."""
        if x.dim() < 2 or x.shape[1] != self.bn.num_features:
            wanted = f"[T, B, {self.bn.num_features}, ...]"
            raise ValueError(f"MPBNLIF: shape of one step = {tuple(x.shape)}, allowed currents {wanted}.")
        decay, v_threshold, v_reset = (_number(p) for p in (self.decay, self.v_threshold, self.v_reset))
        if state is None:
            u = x
        else:
            (v,) = state
            u = torch.addcmul(x, v, decay) if isinstance(decay, Tensor) else torch.add(x, v, alpha=decay)
        m = self.normalize(u)
        o = Options(self.reset, self.detach_reset, self.surrogate, self.distance_power)
        spikes, v, distance = _FireAndReset.apply(u, m, v_threshold, v_reset, o)  # type: ignore[no-untyped-call]
        return spikes, u, v, m, distance


class _FireAndReset(torch.autograd.Function):
    """Spikes, v and the mean distance of one step as one autograd node; only u and m have gradients.

    With ``g = ds/dm``: ``dm = (ds + dv * (v_reset - u)) g`` and ``du = dv * (1 - s)`` (hard), or
    ``dm = (ds - dv * v_threshold) g`` and ``du = dv`` (soft); a detached reset leaves ``dm = ds g``. The distance is
    ``mean(min(|m|, |1 - m|) ** power)``.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, m: Tensor, v_threshold: Tensor | float, v_reset: Tensor | float, options: Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        spikes = torch.gt(m, v_threshold, out=torch.empty_like(u))  # numbers and no mask: `where` takes twice as long
        if options.reset == "soft":
            v = u - v_threshold * spikes
        else:
            v = torch.addcmul(u, u, spikes, value=-1)
            if isinstance(v_reset, Tensor) or v_reset != 0:
                v += v_reset * spikes
        distance = m.new_zeros(())
        if options.distance_power is not None:
            signed = signed_distance(m, spikes, v_threshold, out=torch.empty_like(m))
            distance = (signed.abs_() if options.distance_power == 1 else signed.square_()).mean()
        ctx.save_for_backward(u, m, spikes)
        ctx.v_threshold, ctx.v_reset, ctx.options = v_threshold, v_reset, options
        return spikes, v, distance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        d_s, d_v, d_distance = grads
        u, m, spikes = ctx.saved_tensors
        o: Options = ctx.options
        if d_v is not None and not o.detach_reset:
            through_reset = d_v * (-ctx.v_threshold if o.reset == "soft" else ctx.v_reset - u)
            d_s = through_reset if d_s is None else through_reset.add_(d_s)
        if d_s is None:
            d_m = torch.zeros_like(m)
        else:
            d_m = times_derivative(d_s, m, ctx.v_threshold, o.surrogate, out=torch.empty_like(m))
        if d_distance is not None:
            signed = signed_distance(m, spikes, ctx.v_threshold, out=torch.empty_like(m))
            d_m.addcmul_(signed.sign_() if o.distance_power == 1 else signed.mul_(2), d_distance / m.numel())
        d_u = d_v if d_v is None or o.reset == "soft" else torch.addcmul(d_v, d_v, spikes, value=-1)
        return d_u, d_m, None, None, None
