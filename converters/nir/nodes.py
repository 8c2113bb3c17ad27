"""What each NIR node is in the IR: its ops, and the gain and current that stand before a neuron."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np

from rmp_deploy.converters.nir.metadata import Record, compact
from rmp_deploy.converters.nir.rules import F64, Rule
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir import ops
from rmp_deploy.ir.ops import Array, Op, Shape


@dataclass(frozen=True)
class Site:
    """Where a node stands: its name, the value that it reads and its shape, and how steps are made."""

    name: str
    source: str
    shape: Shape
    dt: float
    rule: Rule
    record: Record

    def reads(self) -> dict[str, Any]:
        return {"name": self.name, "inputs": (self.source,)}

    def compact(self, parameter: str, full: F64) -> Array:
        return compact(full.astype(np.float32), self.record.shape_of(self.name, parameter))


@dataclass(frozen=True)
class Drive:
    """What a neuron makes of its input before it integrates it: ``gain * x + current``, of the neurons' shape."""

    neuron: str
    gain: F64
    current: F64


Converted = tuple[list[Op], list[Drive]]  # the last op's value is the node's


def convert(node: nir.NIRNode, site: Site) -> Converted:
    kind = type(node)
    if kind not in CONVERTERS:
        known = ", ".join(sorted(k.__name__ for k in CONVERTERS))
        raise op_error(kind.__name__, site.name, "no such node in the IR", known, "Replace it")
    return CONVERTERS[kind](node, site)


def _linear(node: nir.Affine | nir.Linear, site: Site) -> Converted:
    bias = _array(node, site, "bias") if isinstance(node, nir.Affine) else None
    return [ops.Linear(**site.reads(), weight=_array(node, site, "weight"), bias=bias)], []


def _conv(node: nir.Conv1d | nir.Conv2d, site: Site) -> Converted:
    weight, bias = _array(node, site, "weight"), _array(node, site, "bias")
    axes = 2 if isinstance(node, nir.Conv2d) else 1
    if weight.ndim != axes + 2:
        raise _refused(node, site, f"weight.ndim = {weight.ndim}", f"{axes + 2}", "Reshape it")
    stride, dilation = (_integers(node, site, what, axes) for what in ("stride", "dilation"))
    padding = node.padding
    if isinstance(padding, str) and padding == "same":
        reach = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        if any(r % 2 for r in reach) or set(stride) != {1}:
            raise _refused(node, site, "padding = 'same' is uneven", "stride 1 and odd kernels", "Pad by numbers")
        around = tuple(r // 2 for r in reach)
    elif isinstance(padding, str) and padding == "valid":
        around = (0,) * axes
    else:
        around = _integers(node, site, "padding", axes)
    check_stated(node, site.name, "input_shape", node.input_shape, site.shape[1:])
    options: dict[str, Any] = {
        "stride": stride,
        "dilation": dilation,
        "padding": around,
        "groups": _integers(node, site, "groups", 1)[0],
    }
    # NIR's convolutions always have a bias; zeros are no bias unless the op is known to have had one
    given = bias if bias.any() or site.record.shape_of(site.name, "bias") is not None else None
    if axes == 2:
        return [ops.Conv2d(**site.reads(), weight=weight, bias=given, **options)], []
    return [ops.Conv1d(**site.reads(), weight=weight, bias=given, **options)], []


def _pool(node: nir.AvgPool2d | nir.SumPool2d, site: Site) -> Converted:
    kernel, stride, padding = (_integers(node, site, what, 2) for what in ("kernel_size", "stride", "padding"))
    kind = ops.AvgPool2d if isinstance(node, nir.AvgPool2d) else ops.SumPool2d
    return [kind(**site.reads(), kernel=_pair(kernel), stride=_pair(stride), padding=_pair(padding))], []


def _flatten(node: nir.Flatten, site: Site) -> Converted:
    """NIR counts its dimensions without a batch: 0 .. -1 is a whole sample."""
    (start,), (end,) = (_integers(node, site, what, 1) for what in ("start_dim", "end_dim"))
    rank = len(site.shape)
    if (start % rank, end % rank) != (0, rank - 1) or not (-rank <= start < rank and -rank <= end < rank):
        todo = "Flatten a whole sample; NIR counts dimensions without the batch"
        raise _refused(node, site, f"start_dim, end_dim = {start}, {end} of {site.shape}", f"0, {rank - 1}", todo)
    check_stated(node, site.name, "input_type", node.input_type["input"], site.shape)
    return [ops.Flatten(**site.reads())], []


def _delay(node: nir.Delay, site: Site) -> Converted:
    delay = per_neuron(node, site, "delay")
    steps = delay / site.dt
    whole = np.rint(steps.flat[0])
    if not np.isfinite(steps).all() or not np.allclose(steps, whole, rtol=1e-6, atol=0) or whole < 1:
        found = f"delay = {delay.min():g}..{delay.max():g} s"
        raise _refused(node, site, found, f"one multiple of dt = {site.dt:g} s, 1 or more", "Choose another dt")
    return [ops.Delay(**site.reads(), steps=int(whole), shape=site.shape)], []


def _scale(node: nir.Scale, site: Site) -> Converted:
    gain = per_channel("Scale", site.name, "scale", per_neuron(node, site, "scale"))
    return [affine(site.name, site.source, gain, np.zeros(site.shape[0]))], []


def _threshold(node: nir.Threshold, site: Site) -> Converted:
    """``s = x > threshold``: a LIF that forgets everything."""
    threshold = per_neuron(node, site, "threshold")
    return [_fires(ops.LIF, site, threshold, decay=np.zeros(site.shape), v_reset=np.zeros(site.shape))], []


def _lif(node: nir.LIF, site: Site) -> Converted:
    decay, leak = _leak(node, site, "tau")
    threshold, v_reset = per_neuron(node, site, "v_threshold"), per_neuron(node, site, "v_reset")
    op = _fires(ops.LIF, site, threshold, decay=decay, v_reset=v_reset)
    return [op], [Drive(site.name, leak * per_neuron(node, site, "r"), leak * per_neuron(node, site, "v_leak"))]


def _if(node: nir.IF, site: Site) -> Converted:
    """``dv/dt = r x``: both rules say ``v = v + dt * r * x``."""
    threshold, v_reset = per_neuron(node, site, "v_threshold"), per_neuron(node, site, "v_reset")
    op = _fires(ops.LIF, site, threshold, decay=np.ones(site.shape), v_reset=v_reset)
    return [op], [Drive(site.name, site.dt * per_neuron(node, site, "r"), np.zeros(site.shape))]


def _li(node: nir.LI, site: Site) -> Converted:
    decay, leak = _leak(node, site, "tau")
    op = ops.LI(**site.reads(), decay=site.compact("decay", decay))
    return [op], [Drive(site.name, leak * per_neuron(node, site, "r"), leak * per_neuron(node, site, "v_leak"))]


def _i(node: nir.I, site: Site) -> Converted:
    op = ops.LI(**site.reads(), decay=site.compact("decay", np.ones(site.shape)))
    return [op], [Drive(site.name, site.dt * per_neuron(node, site, "r"), np.zeros(site.shape))]


def _cuba_lif(node: nir.CubaLIF, site: Site) -> Converted:
    """The current first, then the membrane with the new current (Norse, snnTorch, Lava).

    The IR's current is NIR's times ``r * (1 - decay)``, which commutes with its decay: one gain before the current.
    """
    gain, current_decay, decay, current = _cuba(node, site)
    if current.any():
        v_leak = per_neuron(node, site, "v_leak")
        found = f"v_leak = {v_leak.min():g}..{v_leak.max():g}"
        raise _refused(node, site, found, "0: a constant behind the synaptic current", "Shift threshold and reset")
    threshold, v_reset = per_neuron(node, site, "v_threshold"), per_neuron(node, site, "v_reset")
    options = {"decay": decay, "v_reset": v_reset, "current_decay": current_decay}
    return [_fires(ops.CubaLIF, site, threshold, **options)], [Drive(site.name, gain, np.zeros(site.shape))]


def _cuba_li(node: nir.CubaLI, site: Site) -> Converted:
    """Two leaky integrators, the current's and the membrane's; the gains of both stand before the first."""
    gain, current_decay, decay, current = _cuba(node, site)
    inner = replace(site, name=f"{site.name}.current")
    first = ops.LI(**inner.reads(), decay=inner.compact("decay", current_decay))
    second = ops.LI(name=site.name, inputs=(inner.name,), decay=site.compact("decay", decay))
    still = np.zeros(site.shape)
    return [first, second], [Drive(inner.name, gain, still), Drive(site.name, np.ones(site.shape), current)]


def _cuba(node: nir.CubaLI | nir.CubaLIF, site: Site) -> tuple[F64, F64, F64, F64]:
    """Gain before the current, the two decays, and the constant behind the current."""
    current_decay, current_leak = _leak(node, site, "tau_syn")
    decay, leak = _leak(node, site, "tau_mem")
    gain = leak * per_neuron(node, site, "r") * current_leak * per_neuron(node, site, "w_in")
    return gain, current_decay, decay, leak * per_neuron(node, site, "v_leak")


CONVERTERS: dict[type[nir.NIRNode], Callable[[Any, Site], Converted]] = {
    nir.Affine: _linear,
    nir.AvgPool2d: _pool,
    nir.Conv1d: _conv,
    nir.Conv2d: _conv,
    nir.CubaLI: _cuba_li,
    nir.CubaLIF: _cuba_lif,
    nir.Delay: _delay,
    nir.Flatten: _flatten,
    nir.I: _i,
    nir.IF: _if,
    nir.LI: _li,
    nir.LIF: _lif,
    nir.Linear: _linear,
    nir.Scale: _scale,
    nir.SumPool2d: _pool,
    nir.Threshold: _threshold,
}


def affine(name: str, source: str, gain: F64, current: F64) -> ops.BatchNorm:
    """``y = gain * x + current`` per channel: a BatchNorm of mean 0 and variance 1 is exactly that."""
    gamma, beta = gain.astype(np.float32), current.astype(np.float32)
    still, one = np.zeros_like(gamma), np.ones_like(gamma)
    return ops.BatchNorm(name=name, inputs=(source,), gamma=gamma, beta=beta, mean=still, var=one, eps=0.0)


def _leak(node: nir.NIRNode, site: Site, what: str) -> tuple[F64, F64]:
    """decay and 1 - decay of the time constant `what`."""
    tau = per_neuron(node, site, what)
    if tau.min() <= 0:
        raise _refused(node, site, f"{what} = {tau.min():g} s", "> 0", "Correct it")
    decay = site.rule.decay(tau, site.dt)
    if decay.min() < 0:
        todo = "Choose a smaller dt, or the rule 'exponential'"
        raise _refused(node, site, f"{what} = {tau.min():g} s", f"dt = {site.dt:g} s or more (euler)", todo)
    return decay, site.rule.leak(tau, site.dt)


def _fires(kind: type[ops.LIF], site: Site, threshold: F64, **parameters: F64) -> ops.LIF:
    """A neuron op. NIR fires at ``v > v_threshold`` (nir/ir/neuron.py), as the IR does."""
    compact: dict[str, Any] = {
        what: site.compact(what, full) for what, full in {"v_threshold": threshold, **parameters}.items()
    }
    return kind(**site.reads(), **compact)


def per_neuron(node: nir.NIRNode, site: Site, what: str) -> F64:
    """The parameter `what` for every neuron: one value, values that broadcast, or one per neuron in C order."""
    values = _numbers(node, site, what)
    if values.size == 1:
        return np.broadcast_to(values.reshape(()), site.shape)
    if values.shape == (int(np.prod(site.shape)),):
        return values.reshape(site.shape)
    try:
        return np.broadcast_to(values, site.shape)
    except ValueError:
        raise _refused(node, site, f"{what}.shape = {values.shape}", f"{site.shape}", "Give one per neuron") from None


def _array(node: nir.NIRNode, site: Site, what: str) -> Array:
    return _numbers(node, site, what).astype(np.float32)


def _numbers(node: nir.NIRNode, site: Site, what: str) -> F64:
    values = np.asarray(getattr(node, what))
    if values.dtype.kind not in "fiub" or values.size == 0:
        raise _refused(node, site, f"{what}: {values.dtype} {values.shape}", "numbers", "Correct it")
    if not np.isfinite(values).all():
        raise _refused(node, site, f"{what} holds NaN or infinite values", "finite numbers", "Correct it")
    return values.astype(np.float64)


def _integers(node: nir.NIRNode, site: Site, what: str, n: int) -> tuple[int, ...]:
    """`n` whole numbers; one stands for all."""
    values = _numbers(node, site, what).reshape(-1)
    whole = bool((values == np.rint(values)).all() and np.abs(values).max() < 2**31)
    if values.size not in (1, n) or not whole:
        found = f"{what} = {values.tolist()!r:.80}"
        raise _refused(node, site, found, f"{n} whole number{'s' * (n > 1)}", "Correct it")
    return tuple(int(v) for v in np.broadcast_to(values, n))


def _pair(values: tuple[int, ...]) -> ops.Pair:
    a, b = values
    return a, b


def check_stated(node: nir.NIRNode, name: str, what: str, stated: Any, shape: Shape) -> None:
    """Refuse a shape that a node states, unless it is that of the value at that place; None states nothing."""
    if stated is not None and np.asarray(stated).reshape(-1).tolist() != list(shape):
        found, todo = f"{what} = {np.asarray(stated).tolist()!r:.80}", "Correct it, or the nodes before it"
        raise op_error(type(node).__name__, name, found, f"{shape}, what reaches it", todo)


def per_channel(kind: str, name: str, what: str, full: F64) -> F64:
    """(C,) of what is the same for all neurons of a channel; of 1-D values every neuron is a channel."""
    by_channel = full.reshape(len(full), -1)
    if (by_channel != by_channel[:, :1]).any():
        raise op_error(kind, name, f"{what} varies within a channel", "one value per channel", "Flatten before it")
    return by_channel[:, 0]


def _refused(node: nir.NIRNode, site: Site, what: str, allowed: str, todo: str) -> RmpDeployError:
    return op_error(type(node).__name__, site.name, what, allowed, todo)
