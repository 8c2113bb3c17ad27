"""MPBN neurons -> ops: the BatchNorm of the membrane becomes thresholds, exactly. docs/mpbn.md has the algebra.

A neuron fires where ``fl(fl(u * scale) + shift) > v_threshold``. Rounding is monotonic: for each channel this is one
comparison with u. Where it changes is searched among the numbers that u can be; the formula
``(v_threshold - shift) / scale`` rounds to one of their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmp_deploy.converters.torch_layers import Converters, array, refused
from rmp_deploy.ir import ops
from rmp_deploy.training.mpbn import MPBNLIF

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}  # whose order is that of the floats of their bits


@dataclass(frozen=True)
class Fold:
    """``s = sign * u > v_threshold``, for every u of the layer's type short of its largest number.

    Attributes:
        sign: 1, or -1 where the BatchNorm turns the potentials round; (C, 1, ...), broadcasts against a sample.
        v_threshold: (C, 1, ...), or one per neuron where the layer has them. Of a channel that fires whatever u is, the
            least number of the type; of one that never fires, the largest.
    """

    sign: Tensor
    v_threshold: Tensor


@torch.no_grad()
def fold(layer: MPBNLIF, axes: int) -> Fold:
    """Thresholds on the raw potentials for samples of so many `axes`, of a layer in eval mode and in its own dtype.

    The threshold is the largest number at which the neuron does not fire, found by halving all numbers of the type in
    the order of their bit patterns: 32 comparisons, 64 in float64.
    """
    assert not layer.bn.training  # its statistics would be those of the numbers tried
    sign = _sign(layer, axes)
    shape = (sign * layer.v_threshold).shape
    integer = INTEGERS[sign.dtype]
    largest = int(sign.new_tensor(torch.finfo(sign.dtype).max).view(integer))
    silent = torch.full(shape, -largest, dtype=integer, device=sign.device)
    firing = torch.full_like(silent, largest + 1)  # as if it fired at infinity: never asked
    for _ in range(torch.iinfo(integer).bits):
        middle = (silent >> 1) + (firing >> 1) + (silent & firing & 1)  # their mean, without overflow
        fires = layer.normalize((sign * _number(middle, sign.dtype))[None])[0] > layer.v_threshold
        firing = torch.where(fires, middle, firing)
        silent = torch.where(fires, silent, middle)
    return Fold(sign, _number(silent, sign.dtype))


def membrane(layer: MPBNLIF) -> tuple[Tensor, Tensor]:
    """u and v of the last pass in eval mode as the exported neurons have them: raw, and turned where `sign` is -1."""
    assert layer.u_raw is not None and layer.v is not None  # eval mode keeps both
    sign = _sign(layer, layer.u_raw.dim() - 2)
    return sign * layer.u_raw, sign * layer.v


class _AtShape(nn.Module):
    """A layer and the number of axes of its samples, which its channels are broadcast along."""

    def __init__(self, layer: MPBNLIF, axes: int) -> None:
        super().__init__()
        self.layer, self.axes = layer, axes

    @classmethod
    def of(cls, layer: MPBNLIF, path: str, shape: ops.Shape) -> _AtShape:
        """Of samples of `shape`.

        Raises:
            RmpDeployError: another number of channels, a threshold, or a BatchNorm's gain or shift, that is not finite.
        """
        channels = layer.bn.num_features
        if shape[0] != channels:
            raise refused(layer, path, f"input shape = {shape}", f"({channels}, ...)", "Match the channels")
        bad = [name for name, p in zip(("scale", "shift"), layer.affine(), strict=True) if not p.isfinite().all()]
        if bad:
            what = f"{bad[0]} of bn holds NaN or infinite values"
            raise refused(layer, path, what, "finite numbers", "Look at the training run: it may have diverged")
        if not torch.as_tensor(layer.v_threshold).isfinite().all():  # it would never fire, or always
            what = "v_threshold holds NaN or infinite values"
            raise refused(layer, path, what, "finite numbers", "Look at the training run: it may have diverged")
        return cls(layer, len(shape))


def _mpbn_lif(at_shape: _AtShape, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """A LIF with the folded thresholds; where channels are turned round, behind a BatchNorm ``<path>.bn`` of gain ±1.

    `passes.fold_batchnorm` puts that into the weights of everything that feeds the membrane, which rounds nothing.
    """
    layer = at_shape.layer
    folded = fold(layer, at_shape.axes)
    sign, made = array(folded.sign), list[ops.Op]()
    after = {"v_reset": array(layer.v_reset)} if layer.reset == "hard" else {"v_subtract": array(layer.v_threshold)}
    if (sign < 0).any():
        ones = np.ones(sign.size, np.float32)
        turn = ops.BatchNorm(
            name=f"{path}.bn", inputs=inputs, gamma=sign.ravel(), beta=0 * ones, mean=0 * ones, var=ones, eps=0.0
        )
        made, inputs = [turn], (turn.name,)
        after = {name: sign * value + 0 for name, value in after.items()}  # + 0: no -0
    decay, v_threshold = array(layer.decay), array(folded.v_threshold)
    lif = ops.LIF(name=path, inputs=inputs, decay=decay, v_threshold=v_threshold, reset=layer.reset, **after)
    return [*made, lif]


def _sign(layer: MPBNLIF, axes: int) -> Tensor:
    scale, _ = layer.affine()
    return torch.where(scale < 0, -1, 1).to(scale.dtype).view(-1, *(1,) * (axes - 1))


def _number(order: Tensor, dtype: torch.dtype) -> Tensor:
    """The float at place `order`: 0 is at 0, the bits of its magnitude at the places of positive ones."""
    magnitude = order.abs().view(dtype)
    return torch.where(order < 0, -magnitude, magnitude)


CONVERTERS: Converters = {_AtShape: _mpbn_lif}
SIZED: dict[type[nn.Module], Callable[[Any, str, ops.Shape], nn.Module]] = {MPBNLIF: _AtShape.of}
