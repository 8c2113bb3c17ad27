"""BatchNorm whose statistics are those of the whole batch, wherever its parts are.

torch's SyncBatchNorm works on GPUs alone and loses `TimeDistributed`'s shortcut for static images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


class _Normalize(torch.autograd.Function):
    """``y = (x - mean) / sqrt(var + eps) * weight + bias`` with mean and var over all processes' x [B, C, ...].

    With ``z = (x - mean) / sqrt(var + eps)``, n values of a channel and sums over all processes:
    ``dx = weight / sqrt(var + eps) * (dy - sum(dy) / n - z * sum(dy * z) / n)``; the gradients of weight and bias are
    those of this process's part. Half precision is computed in float32, as torch does: its counts and sums overflow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        axes = [a for a in range(x.dim()) if a != 1]
        channels = [1, -1] + [1] * (x.dim() - 2)
        sums = torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])])
        dist.all_reduce(sums)
        n = sums[-1]
        mean = sums[:-1] / n
        centred = x - mean.view(channels)
        var = centred.square().sum(axes)
        dist.all_reduce(var)
        var = var / n
        scale = torch.rsqrt(var + eps)
        z = centred.mul_(scale.view(channels))
        ctx.save_for_backward(z, scale, weight, n)
        ctx.mark_non_differentiable(mean, var, n)
        return torch.addcmul(bias.view(channels), z, weight.view(channels)).to(given), mean, var, n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, scale, weight, n = ctx.saved_tensors
        given, dy = grads[0].dtype, grads[0].to(z.dtype)
        axes = [a for a in range(dy.dim()) if a != 1]
        channels = [1, -1] + [1] * (dy.dim() - 2)
        d_bias, d_weight = dy.sum(axes), (dy * z).sum(axes)
        sums = torch.stack([d_bias, d_weight])
        dist.all_reduce(sums)
        of_dy, of_dy_z = (sums / n).unbind()
        dx = (dy - of_dy.view(channels)).addcmul_(z, of_dy_z.view(channels), value=-1)
        return dx.mul_((weight * scale).view(channels)).to(given), d_weight, d_bias, None


class _Global(nn.modules.batchnorm._BatchNorm):
    """In training, statistics over all processes; the running variance is corrected for all their values."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        y: Tensor
        y, mean, var, n = _Normalize.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * (n / (n - 1)), momentum)
        return y


class GlobalBatchNorm1d(_Global, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the batch of all processes."""


class GlobalBatchNorm2d(_Global, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batch of all processes."""


GLOBAL: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: GlobalBatchNorm1d,
    nn.BatchNorm2d: GlobalBatchNorm2d,
}


@contextmanager
def global_batch_norm(model: nn.Module) -> Iterator[None]:
    """While it is open, the BatchNorms of `model` are their global ones; parameters and names stay what they are."""
    local = {module: type(module) for module in model.modules() if type(module) in GLOBAL}
    try:
        for module, kind in local.items():
            module.__class__ = GLOBAL[kind]
        yield
    finally:
        for module, kind in local.items():
            module.__class__ = kind
