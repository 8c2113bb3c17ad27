"""Encoders: images in 0..1 become T steps of input, spikes or not.

They run where samples are read, before the network: the exported graph takes what they give, a time series.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rmp_deploy.errors import RmpDeployError

MAX_T = 65_535  # as a graph's


def encode(x: Tensor, T: int, encoding: str, generator: torch.Generator) -> Tensor:
    """T steps of input from a batch: [B, ...] -> [T, B, ...], of x's type and device.

    direct       x[t] = x, the same values at every step (not copied)
    poisson      `poisson`, drawn from `generator`
    ttfs         `time_to_first_spike`
    time_series  x is [B, T, ...] already: time goes first

    Raises:
        RmpDeployError: an unknown encoding, T that is no whole number >= 1, values that it does not take, a time
            series of another length.
    """
    if encoding not in ENCODERS:
        raise RmpDeployError(f"encoding '{encoding}': unknown, allowed {', '.join(ENCODERS)}. Choose one.")
    if type(T) is not int or not 1 <= T <= MAX_T:
        raise RmpDeployError(f"encoding '{encoding}': T = {T!r}, allowed 1..{MAX_T}. Correct it.")
    return ENCODERS[encoding](x, T, generator)


def encode_samples(x: npt.NDArray[np.float32], T: int, encoding: str, seed: int) -> npt.NDArray[np.float32]:
    """Samples as a time-series graph takes them: [N, ...] -> [N, T, ...]; raises as `encode`."""
    steps = encode(torch.from_numpy(np.ascontiguousarray(x)), T, encoding, torch.Generator().manual_seed(seed))
    return steps.transpose(0, 1).contiguous().numpy()


def poisson(x: Tensor, T: int, generator: torch.Generator) -> Tensor:
    """Rate coding: at every step a spike of probability x, independently; [B, ...] -> [T, B, ...].

    s[t] ~ Bernoulli(x): the mean of T steps is x, its variance x (1 - x) / T. What the field calls Poisson encoding is
    this, one Bernoulli draw a step (SpikingJelly's PoissonEncoder, snnTorch's spikegen.rate). The draws are those of
    the generator's device, whatever x's.

    Raises:
        RmpDeployError: a value outside 0..1.
    """
    _check_range(x, "poisson")
    dtype = torch.promote_types(x.dtype, torch.float32)  # half precision has too few numbers near 0
    drawn = torch.rand((T, *x.shape), dtype=dtype, device=generator.device, generator=generator)  # in [0, 1)
    return (drawn.to(x.device) < x).to(x.dtype)


def time_to_first_spike(x: Tensor, T: int) -> Tensor:
    """One spike, the earlier the larger x; none where x = 0; [B, ...] -> [T, B, ...].

    s[t] = 1 if t = round((T - 1) (1 - x)) and x > 0 else 0, halves rounded to even. The equation is that of
    SpikingJelly's LatencyEncoder (linear), where also x = 0 fires, at T - 1: the background of an image would then
    be as loud as the image.

    Raises:
        RmpDeployError: a value outside 0..1.
    """
    _check_range(x, "ttfs")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision does not hold every step
    fires_at = torch.where(x > 0, torch.round((T - 1) * (1 - wide)), T)
    steps = torch.arange(T, dtype=wide.dtype, device=x.device).reshape(T, *(1,) * x.dim())
    return (steps == fires_at).to(x.dtype)


def _direct(x: Tensor, T: int, generator: torch.Generator) -> Tensor:
    return x.unsqueeze(0).expand(T, *x.shape)


def _ttfs(x: Tensor, T: int, generator: torch.Generator) -> Tensor:
    return time_to_first_spike(x, T)


def _time_series(x: Tensor, T: int, generator: torch.Generator) -> Tensor:
    if x.dim() < 3 or x.shape[1] != T:
        raise RmpDeployError(
            f"encoding 'time_series': samples {tuple(x.shape[1:])}, allowed ({T}, ...) of T = {T}. Set T to the data's."
        )
    return x.transpose(0, 1)


ENCODERS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "direct": _direct,
    "poisson": poisson,
    "ttfs": _ttfs,
    "time_series": _time_series,
}


def _check_range(x: Tensor, encoding: str) -> None:
    if not x.is_floating_point():
        raise RmpDeployError(f"encoding '{encoding}': x = {x.dtype}, allowed floats in 0..1. Convert them.")
    inside = (x >= 0) & (x <= 1)  # NaN is not
    if not bool(inside.all()):
        value = float(x[~inside][0])
        raise RmpDeployError(f"encoding '{encoding}': value = {value:g}, allowed 0..1. Scale the samples.")
