"""Norse networks -> SpikingGraph, from its own modules. What each of them computes: docs/from_frameworks.md."""

from __future__ import annotations

from inspect import signature
from typing import Any, TypeAlias

import norse.torch as norse
import numpy as np
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import nn

from rmp_deploy.converters import framework_graph, membrane_units, torch_layers
from rmp_deploy.converters.membrane_units import F64, number
from rmp_deploy.converters.torch_layers import LAYERS, SEQUENCE_LAYERS, SIZED, refused
from rmp_deploy.converters.torch_states import State
from rmp_deploy.converters.torch_trace import Dialect
from rmp_deploy.ir import ops
from rmp_deploy.ir.graph import Encoding, Rule, SpikingGraph

Cell: TypeAlias = (
    norse.LIFBoxCell
    | norse.LIFCell
    | norse.LIF
    | norse.LIFRecurrentCell
    | norse.LIFRecurrent
    | norse.IAFCell
    | norse.IAF
)


def to_graph(
    model: nn.Module,
    input_shape: tuple[int, ...],
    T: int | None = None,
    *,
    encoding: Encoding = "direct",
    readout: Rule | None = None,
    name: str = "network",
) -> SpikingGraph:
    """The graph of a network that begins without a state, every neuron at rest.

    Args:
        model: of cells (LIFCell, ...) it computes one step [B, *input_shape]; with Lift, LIF, IAF or LI in it, a
            sequence [T, B, *input_shape], which it may repeat from a sample and read out itself. SequentialState, or a
            module of your own that takes and returns the states.
        input_shape: one sample's, without time and batch.
        T: time steps; None where the model repeats its input itself.
        encoding: 'direct', one sample given at every step, or 'time_series', a value for every step.
        readout: 'mean', 'sum' or 'last' over the steps of what the model returns; None where it reads out itself.
        name: of the graph. Its dt is that of the cells, where they have one in common.

    Raises:
        RmpDeployError: a layer, a neuron or a parameter of one that the IR cannot carry, named by its path; T or the
            readout given nowhere or twice; a forward that does anything with a state but give it back to its neuron.
    """
    sequences = any(isinstance(m, SNN | SNNRecurrent | norse.Lift) for m in model.modules())
    dialect, leading = (SEQUENCES, 2) if sequences else (STEPS, 1)
    dts = {float(m.dt) for m in model.modules() if isinstance(m, SNN | SNNCell | SNNRecurrent | SNNRecurrentCell)}
    return framework_graph.to_graph(
        model,
        input_shape,
        dialect,
        leading,
        library="norse",
        name=name,
        T=T,
        encoding=encoding,
        readout=readout,
        dt=dts.pop() if len(dts) == 1 else None,
    )


def _lif_box(cell: norse.LIFBoxCell, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``u = v + dt * tau_mem_inv * (v_leak - v + x)``"""
    if cell.p.reset_method not in (reset_value, reset_subtract):
        found = f"reset_method = {getattr(cell.p.reset_method, '__name__', cell.p.reset_method)}"
        raise refused(cell, path, found, "reset_value or reset_subtract", "Use one of them")
    leak = cell.dt * number(cell.p.tau_mem_inv)
    soft = cell.p.reset_method is reset_subtract
    return [_neuron(cell, path, inputs, decay=1 - leak, gain=leak, v_rest=number(cell.p.v_leak), soft=soft)]


def _lif(cell: norse.LIFCell | norse.LIF, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``i = i + x``, ``u = v + dt * tau_mem_inv * (v_leak - v + i)``, and only then ``i = i - dt * tau_syn_inv * i``"""
    leak, loss = cell.dt * number(cell.p.tau_mem_inv), cell.dt * number(cell.p.tau_syn_inv)
    rest = number(cell.p.v_leak)
    return [_neuron(cell, path, inputs, decay=1 - leak, gain=leak, v_rest=rest, current_decay=1 - loss)]


def _lif_recurrent(
    cell: norse.LIFRecurrentCell | norse.LIFRecurrent, path: str, inputs: tuple[str, ...]
) -> list[ops.Op]:
    """As `_lif` of ``input_weights x[t] + recurrent_weights z[t-1]``."""
    shape = (int(cell.hidden_size),)
    spikes = ops.Delay(name=f"{path}.z", inputs=(path,), steps=1, shape=shape)
    forward = _linear(f"{path}.input_weights", inputs, cell.input_weights)
    back = _linear(f"{path}.recurrent_weights", (spikes.name,), cell.recurrent_weights)
    total = ops.Add(name=f"{path}.add", inputs=(forward.name, back.name))
    return [forward, spikes, back, total, *_lif(cell, path, (total.name,))]


def _linear(name: str, inputs: tuple[str, ...], weight: Any) -> ops.Linear:
    return ops.Linear(name=name, inputs=inputs, weight=torch_layers.array(weight))


def _iaf(cell: norse.IAFCell | norse.IAF, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``u = v + x``; v starts at v_reset."""
    return [_neuron(cell, path, inputs, decay=number(1.0), v_rest=number(cell.p.v_reset))]


def _neuron(
    cell: Cell,
    path: str,
    inputs: tuple[str, ...],
    decay: F64,
    v_rest: F64,
    gain: F64 | float = 1.0,
    soft: bool = False,
    current_decay: F64 | None = None,
) -> ops.LIF:
    """What all neurons share: they fire at ``u > v_th``."""
    _check_functions(cell, path)
    if cell.p.method not in HEAVISIDE:
        raise refused(cell, path, f"method = {cell.p.method!r}", ", ".join(HEAVISIDE), "Use one that fires at > 0")
    threshold = number(cell.p.v_th)
    return membrane_units.lif(
        path,
        inputs,
        decay=decay,
        v_threshold=threshold,
        v_reset=None if soft else number(cell.p.v_reset),
        v_subtract=threshold if soft else None,
        v_rest=v_rest,
        gain=gain,
        current_decay=current_decay,
    )


def _check_functions(cell: nn.Module, path: str) -> None:
    """Every cell holds its functions as attributes: Norse's own, and the state that its type begins with."""
    module = getattr(cell.activation, "__module__", "") or ""
    if not module.startswith("norse.torch.functional."):
        raise refused(cell, path, "has an activation of its own", "Norse's", "Make a new cell")
    if cell.state_fallback != getattr(cell, "initial_state", None):
        raise refused(cell, path, "has a state_fallback of its own", "initial_state", "Make a new cell")


class _Integrator(nn.Module):
    """A readout cell at a shape: its value is v itself, so that its gain must be an op, one number per channel."""

    def __init__(self, cell: norse.LICell | norse.LI | norse.LIBoxCell, shape: ops.Shape) -> None:
        super().__init__()
        self.cell, self.shape = cell, shape

    @classmethod
    def of(cls, cell: norse.LICell | norse.LI | norse.LIBoxCell, path: str, shape: ops.Shape) -> _Integrator:
        return cls(cell, shape)


def _integrator(layer: _Integrator, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``v = v + dt * tau_mem_inv * (v_leak - v + i)``, where i is x, or what x has left in LICell's current.

    The gain is a BatchNorm before it, which `passes.fold_batchnorm` puts into the weights.
    """
    cell, ones = layer.cell, np.ones(layer.shape[0], np.float32)
    _check_functions(cell, path)
    leak = cell.dt * number(cell.p.tau_mem_inv)
    rest = number(cell.p.v_leak).ravel()
    if rest.any():
        todo = "Put it into the bias of a layer after it"
        raise refused(cell, path, f"v_leak = {rest[rest.nonzero()][0]:g}", "0", todo)
    if leak.size != 1 and not (leak.shape == layer.shape and leak.ndim == 1):
        raise refused(cell, path, f"tau_mem_inv of shape {leak.shape}", "one, or one per neuron", "Use one")
    gain = ops.BatchNorm(
        name=f"{path}.gain", inputs=inputs, gamma=leak * ones, beta=0 * ones, mean=0 * ones, var=ones, eps=0.0
    )
    chain: list[ops.Op] = [gain]
    if not isinstance(cell, norse.LIBoxCell):
        loss = cell.dt * number(cell.p.tau_syn_inv)
        chain.append(ops.LI(name=f"{path}.i", inputs=(gain.name,), decay=1 - loss))
    return [*chain, ops.LI(name=path, inputs=(chain[-1].name,), decay=1 - leak)]


def _value_and_state(layer: nn.Module, value: Any, path: str) -> Any:
    return value, State(path)


def _lifted(lift: norse.Lift, value: Any, path: str) -> Any:
    return (value, State(path)) if lift.is_stateful else value


HEAVISIDE = ("super", "heaviside", "triangle", "tanh", "circ", "heavi_erfc")
LEAVES = tuple(
    kind
    for kind in vars(norse).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__.startswith("norse.torch.module.")
    if kind is not norse.SequentialState
)
STATEFUL = {kind: _value_and_state for kind in LEAVES if "state" in signature(kind.forward).parameters}
STEPS = Dialect(
    converters={
        **LAYERS,
        norse.LIFBoxCell: _lif_box,
        norse.LIFCell: _lif,
        norse.LIFRecurrentCell: _lif_recurrent,
        norse.IAFCell: _iaf,
        _Integrator: _integrator,
    },
    sized={**SIZED, norse.LICell: _Integrator.of, norse.LIBoxCell: _Integrator.of},
    leaves=LEAVES,
    stateful=STATEFUL,
    keep_state=False,
)
SEQUENCES = Dialect(
    converters={
        **SEQUENCE_LAYERS,
        norse.LIF: _lif,
        norse.LIFRecurrent: _lif_recurrent,
        norse.IAF: _iaf,
        _Integrator: _integrator,
    },
    per_step={norse.Lift: lambda lift: lift.lifted_module},
    step=STEPS,
    sized={**SIZED, norse.LI: _Integrator.of},
    leaves=LEAVES,
    stateful={**STATEFUL, norse.Lift: _lifted},
)
