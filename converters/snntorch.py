"""snnTorch networks -> SpikingGraph, from its own modules. What each of them computes: docs/from_frameworks.md."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import snntorch as snn
from torch import nn

from rmp_deploy.converters import framework_graph, membrane_units, torch_layers
from rmp_deploy.converters.membrane_units import F64, number
from rmp_deploy.converters.torch_layers import LAYERS, SIZED, Converters, refused
from rmp_deploy.converters.torch_states import State
from rmp_deploy.converters.torch_trace import Dialect
from rmp_deploy.ir import ops
from rmp_deploy.ir.graph import Encoding, Rule, SpikingGraph

Neuron: TypeAlias = snn.Leaky | snn.Synaptic | snn.Lapicque | snn.RLeaky | snn.RSynaptic


def to_graph(
    model: nn.Module,
    input_shape: tuple[int, ...],
    T: int,
    *,
    encoding: Encoding = "direct",
    readout: Rule,
    name: str = "network",
) -> SpikingGraph:
    """The graph of a network that begins at ``snntorch.utils.reset``, all states 0.

    Args:
        model: one time step, [B, *input_shape] -> spikes [B, K]: a Sequential with ``init_hidden=True``, or a module of
            your own that keeps the states of its neurons, or takes and returns them. The loop over time stays outside.
        input_shape: one sample's, without time and batch.
        T: time steps of the loop.
        encoding: 'direct', one sample given at every step, or 'time_series', a value for every step.
        readout: 'mean', 'sum' or 'last' over the steps of the spikes or currents that the model returns.
        name: of the graph.

    Raises:
        RmpDeployError: a layer, a neuron or an option of one that the IR cannot carry, named by its path, or a forward
            that does anything with a state but give it back to its neuron.
    """
    return framework_graph.to_graph(
        model,
        input_shape,
        DIALECT,
        leading=1,
        library="snntorch",
        name=name,
        T=T,
        encoding=encoding,
        readout=readout,
    )


def _leaky(lif: snn.Leaky, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``u = beta * mem + x``; a spike resets mem before the next step's leak, so that none of its input is lost."""
    return [_neuron(lif, path, inputs, decay=_clamped(lif.beta), zero_is_clean=True)]


def _synaptic(lif: snn.Synaptic, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``syn = alpha * syn + x``, ``u = beta * mem + syn``"""
    return [_neuron(lif, path, inputs, decay=_clamped(lif.beta), current_decay=_clamped(lif.alpha))]


def _lapicque(lif: snn.Lapicque, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``u = (1 - time_step / (R C)) * mem + time_step / C * x``, which is not beta = ``exp(-time_step / (R C))``."""
    gain = number(lif.time_step) / number(lif.C)
    return [_neuron(lif, path, inputs, decay=1 - gain / number(lif.R), gain=gain)]


class _Recurrent(nn.Module):
    """A recurrent neuron layer at a shape, which its delay must state."""

    def __init__(self, neuron: snn.RLeaky | snn.RSynaptic, shape: ops.Shape) -> None:
        super().__init__()
        self.neuron, self.shape = neuron, shape

    @classmethod
    def of(cls, neuron: snn.RLeaky | snn.RSynaptic, path: str, shape: ops.Shape) -> _Recurrent:
        return cls(neuron, shape)


def _recurrent(layer: _Recurrent, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """As Leaky or Synaptic of ``x[t] + recurrent(spikes[t-1])``, the bias of `recurrent` from the first step on."""
    lif = layer.neuron
    if isinstance(lif, snn.RSynaptic) and not lif.reset_delay:
        raise refused(lif, path, "reset_delay = False", "True", "snnTorch 1.0.0 cannot run it either")
    spikes = ops.Delay(name=f"{path}.spk", inputs=(path,), steps=1, shape=layer.shape)
    back = _feedback(lif, f"{path}.recurrent", spikes, path)
    total = ops.Add(name=f"{path}.add", inputs=(*inputs, back.name))
    current_decay = _clamped(lif.alpha) if isinstance(lif, snn.RSynaptic) else None
    neuron = _neuron(lif, path, (total.name,), decay=_clamped(lif.beta), current_decay=current_decay)
    return [spikes, back, total, neuron]


def _feedback(lif: snn.RLeaky | snn.RSynaptic, name: str, spikes: ops.Delay, path: str) -> ops.Op:
    """The synapse from the spikes of the step before: dense, a convolution, or one weight V per neuron or channel."""
    if isinstance(lif.recurrent, nn.Linear):
        return torch_layers.linear(lif.recurrent, name, (spikes.name,))[0]
    if isinstance(lif.recurrent, nn.Conv2d):
        return torch_layers.conv(lif.recurrent, name, (spikes.name,))[0]
    V, shape = number(lif.recurrent.V), spikes.shape
    if len(shape) == 1 and (V.size == 1 or V.shape == shape):
        weight = np.diag(np.broadcast_to(V, shape)).astype(np.float32)
        return ops.Linear(name=name, inputs=(spikes.name,), weight=weight)
    if len(shape) != 3 or V.size not in (1, shape[0]) or V.shape[-2:] not in ((), (1,), (1, 1)):
        raise refused(lif, path, f"V.shape = {V.shape} on {shape}", "one, or one per neuron or channel", "Reshape V")
    weight = np.broadcast_to(V.reshape(-1, 1, 1, 1), (shape[0], 1, 1, 1)).astype(np.float32)
    return ops.Conv2d(name=name, inputs=(spikes.name,), weight=weight, groups=shape[0])


def _neuron(
    lif: Neuron,
    path: str,
    inputs: tuple[str, ...],
    decay: F64,
    gain: F64 | float = 1.0,
    current_decay: F64 | None = None,
    zero_is_clean: bool = False,
) -> ops.LIF:
    """What all neurons share: they fire at ``u > threshold``, and reset in the step after the spike.

    ``mem[t] = decay * mem[t-1] + x[t] - threshold * spike[t-1]`` is the IR's soft reset by ``threshold / decay``. The
    reset to zero of all but Leaky (`zero_is_clean`) drops the next step's input with the potential: no op does that.
    """
    for what, found, allowed in (
        ("inhibition", lif.inhibition, False),
        ("state_quant", bool(lif.state_quant), False),
        ("graded_spikes_factor", float(number(lif.graded_spikes_factor).max()), 1.0),
        ("graded_spikes_factor", float(number(lif.graded_spikes_factor).min()), 1.0),
    ):
        if found != allowed:
            raise refused(lif, path, f"{what} = {found}", f"{allowed}", "Train the network without it")
    bypass = snn.SpikingNeuron._surrogate_bypass  # surrogate_disable=True
    if lif.spike_grad is not bypass and lif.spike_grad.__module__ != snn.surrogate.__name__:
        found = f"spike_grad = {getattr(lif.spike_grad, '__qualname__', type(lif.spike_grad).__name__)}"
        raise refused(lif, path, found, "one of snntorch.surrogate", "Set one, if yours fires at > 0 as they do")
    mechanism = lif.reset_mechanism
    if lif.state_function.__name__ != STATE_FUNCTIONS[mechanism] or lif.reset_mechanism_val != RESETS[mechanism]:
        found = f"reset_mechanism = {mechanism!r} set after the layer was made"
        raise refused(lif, path, found, "the one that it was made with", "Make the layer with it")
    threshold, delayed = number(lif.threshold), getattr(lif, "reset_delay", True)
    if mechanism != "none" and (threshold < 0).any():
        raise refused(lif, path, f"threshold = {threshold.min():g}", ">= 0", "Below 0 the first step resets too")
    resets: dict[str, Any] = {"v_subtract": number(0.0)}
    if mechanism == "zero":
        if delayed and not zero_is_clean:
            found = "reset_mechanism = 'zero', which drops the input of the step after a spike"
            raise refused(lif, path, found, "'subtract', 'none' or Leaky", "Use reset_delay=False where there is one")
        resets = {"v_reset": number(0.0)}
    elif mechanism == "subtract":
        if not delayed:
            found = "reset_delay = False with reset_mechanism = 'subtract', which takes back a reset above threshold"
            raise refused(lif, path, found, "True, or 'zero'", "Use the default reset_delay")
        if (decay == 0).any():
            found = "beta = 0 with reset_mechanism = 'subtract', which outlives the potential"
            raise refused(lif, path, found, "beta > 0, or 'zero'", "Use reset_mechanism='zero'")
        membrane_units.check_shapes(path, threshold, decay)
        resets = {"v_subtract": threshold / decay}
    return membrane_units.lif(
        path, inputs, decay=decay, v_threshold=threshold, gain=gain, current_decay=current_decay, **resets
    )


def _clamped(decay: Any) -> F64:
    """As every forward does with alpha and beta."""
    return np.clip(number(decay), 0, 1)


def _returns(lif: Neuron, value: Any, path: str) -> Any:
    """What the layer returns: spikes, and its states where it does not hide them."""
    states = (State(path, part) for part in STATES[type(lif)])
    return (value, *states) if lif.output or not lif.init_hidden else value


RESETS = {"subtract": 0, "zero": 1, "none": 2}
STATE_FUNCTIONS = {"subtract": "_base_sub", "zero": "_base_zero", "none": "_base_int"}
STATES = {  # what they return after their spikes
    snn.Leaky: ("mem",),
    snn.Synaptic: ("syn", "mem"),
    snn.Lapicque: ("mem",),
    snn.RLeaky: ("mem",),
    snn.RSynaptic: ("syn", "mem"),
}
NEURONS: Converters = {
    snn.Leaky: _leaky,
    snn.Synaptic: _synaptic,
    snn.Lapicque: _lapicque,
    _Recurrent: _recurrent,
}
DIALECT = Dialect(
    converters={**LAYERS, **NEURONS},
    sized={**SIZED, snn.RLeaky: _Recurrent.of, snn.RSynaptic: _Recurrent.of},
    leaves=(snn.SpikingNeuron, snn.LeakyParallel, snn.GradedSpikes),
    stateful=dict.fromkeys(STATES, _returns),
)
