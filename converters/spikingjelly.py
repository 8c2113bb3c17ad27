"""SpikingJelly networks -> SpikingGraph, from its own modules. What each of them computes: docs/from_frameworks.md."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeAlias

from spikingjelly.activation_based import layer, neuron, surrogate
from spikingjelly.activation_based.base import MemoryModule
from torch import Tensor, nn

from rmp_deploy.converters import framework_graph, membrane_units, torch_layers
from rmp_deploy.converters.membrane_units import F64, number
from rmp_deploy.converters.torch_layers import LAYERS, SEQUENCE_LAYERS, SIZED, Converter, Converters, refused
from rmp_deploy.converters.torch_trace import Dialect
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import ops
from rmp_deploy.ir.graph import Encoding, Rule, SpikingGraph

Node: TypeAlias = neuron.IFNode | neuron.LIFNode | neuron.ParametricLIFNode | neuron.CUBALIFNode


def to_graph(
    model: nn.Module,
    input_shape: tuple[int, ...],
    T: int | None = None,
    *,
    encoding: Encoding = "direct",
    readout: Rule | None = None,
    name: str = "network",
) -> SpikingGraph:
    """The graph of a network that begins at ``functional.reset_net``.

    Args:
        model: in step mode 's' it computes one step [B, *input_shape], in step mode 'm' a sequence
            [T, B, *input_shape], which it may repeat from a sample and read out itself.
        input_shape: one sample's, without time and batch.
        T: time steps; None where the model repeats its input itself.
        encoding: 'direct', one sample given at every step, or 'time_series', a value for every step.
        readout: 'mean', 'sum' or 'last' over the steps of what the model returns; None where it reads out itself.
        name: of the graph.

    Raises:
        RmpDeployError: a layer, a neuron or an option of one that the IR cannot carry, named by its path; layers in
            different step modes; T or the readout given nowhere or twice.
    """
    sequences = any(type(m) in CONTAINERS or getattr(m, "step_mode", "s") == "m" for m in model.modules())
    dialect, leading = (MULTI_STEP, 2) if sequences else (SINGLE_STEP, 1)
    return framework_graph.to_graph(
        model,
        input_shape,
        dialect,
        leading,
        library="spikingjelly",
        name=name,
        T=T,
        encoding=encoding,
        readout=readout,
    )


def _if(node: neuron.IFNode, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``u = v + x``"""
    return [_node(node, path, inputs, decay=number(1.0))]


def _lif(node: neuron.LIFNode, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``u = v - (v - v_reset) / tau + x``, with ``x / tau`` where the input decays too."""
    leak = 1 / number(node.tau)
    return [_node(node, path, inputs, decay=1 - leak, gain=leak if node.decay_input else number(1.0))]


def _plif(node: neuron.ParametricLIFNode, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """As `_lif` with ``1 / tau = sigmoid(w)``."""
    leak = number(node.w.sigmoid())
    return [_node(node, path, inputs, decay=1 - leak, gain=leak if node.decay_input else number(1.0))]


def _cuba_lif(node: neuron.CUBALIFNode, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    """``c = c_decay * c + x``, ``u = v_decay * v + c``; v leaks to 0 and starts at v_reset."""
    if node.v_reset:
        raise refused(node, path, f"v_reset = {node.v_reset}", "0 or None", "It would start at v_reset and leak to 0")
    return [_node(node, path, inputs, decay=number(node.v_decay), current_decay=number(node.c_decay))]


def _node(
    node: Node,
    path: str,
    inputs: tuple[str, ...],
    decay: F64,
    gain: F64 | float = 1.0,
    current_decay: F64 | None = None,
) -> ops.LIF:
    """What all nodes share: they fire at ``u >= v_threshold``, and start at v_reset, or at 0 if the reset is soft."""
    spike = node.surrogate_function
    if type(spike) not in HEAVISIDE or not spike.spiking:
        found = f"surrogate_function = {type(spike).__name__}(spiking={getattr(spike, 'spiking', None)})"
        todo = "Set surrogate.Sigmoid(), if your own fires at >= 0 as it does"
        raise refused(node, path, found, "one of SpikingJelly's that fires at >= 0", todo)
    if node._neuron_precision is not None:
        raise refused(node, path, f"precision = {node._neuron_precision}", "float32", "Use the default precision")
    if type(node.v_threshold) is not float:
        found = f"v_threshold is of type {type(node.v_threshold).__name__}"
        raise refused(node, path, found, "a float", "Set one threshold for the layer")
    if isinstance(node.v_reset, Tensor):
        raise refused(node, path, "v_reset is of type Tensor", "a float or None", "Set one v_reset for the layer")
    start = node.get_reset_value("v")
    if start != (node.v_reset or 0.0):
        raise refused(node, path, f"v before the first step = {start}", "v_reset", "Use set_reset_value('v', v_reset)")
    rest = 0.0 if node.v_reset is None else node.v_reset
    return membrane_units.lif(
        path,
        inputs,
        decay=decay,
        v_threshold=number(node.v_threshold),
        v_reset=None if node.v_reset is None else number(rest),
        v_subtract=number(node.v_threshold) if node.v_reset is None else None,
        v_rest=rest,
        gain=gain,
        fires_at_threshold=True,
        current_decay=current_decay,
    )


def _memories(layer: nn.Module) -> dict[str, Any]:
    """Where SpikingJelly holds v, and whatever else `reset_net` resets."""
    return layer._memories if isinstance(layer, MemoryModule) else {}


def _adaptive_avg_pool2d(pool: layer.AdaptiveAvgPool2d, path: str, shape: ops.Shape) -> nn.Module:
    """As torch's, in the step mode of the layer."""
    fixed: Any = SIZED[nn.AdaptiveAvgPool2d](pool, path, shape)
    if isinstance(fixed, nn.Identity):
        return fixed
    at_shape: nn.Module = layer.AvgPool2d(fixed.kernel_size, step_mode=pool.step_mode)
    return at_shape


def _stateless(container: nn.Sequential) -> nn.Module:
    """What a container applies to all steps at once, as to a larger batch."""
    for path, module in container.named_modules():
        if isinstance(module, neuron.BaseNode):
            kind = type(container).__name__
            todo = "Put it into a MultiStepContainer"
            raise refused(module, path, f"inside {kind}, which flattens time", "layers without memory", todo)
    return _step_by_step(container)


def _step_by_step(container: nn.Sequential) -> nn.Module:
    """What a container applies to every step; named_children would leave out a layer that stands there twice."""
    return nn.Sequential(OrderedDict(container._modules))


def _step_mode_container(container: layer.StepModeContainer) -> nn.Module:
    """The one or the other, among sequences."""
    if container.step_mode != "m":
        found = f"StepModeContainer: step_mode = {container.step_mode!r}, allowed 'm' where it stands"
        raise RmpDeployError(f"{found}. Use functional.set_step_mode(net, 'm').")
    return _step_by_step(container) if container.stateful else _stateless(container)


def _in_step_mode(mode: str, converters: Converters) -> Converters:
    """`converters` for layers in step mode `mode`: in the other one they would take time for the batch."""

    def checked(convert: Converter) -> Converter:
        def in_step_mode(module: Any, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
            if module.step_mode != mode:
                todo = f"Use functional.set_step_mode(net, {mode!r})"
                raise refused(module, path, f"step_mode = {module.step_mode!r}", f"{mode!r} where it stands", todo)
            return convert(module, path, inputs)

        return in_step_mode

    return {kind: checked(convert) for kind, convert in converters.items()}


HEAVISIDE = (
    surrogate.ATan,
    surrogate.DeterministicPass,
    surrogate.Erf,
    surrogate.FakeNumericalGradient,
    surrogate.LeakyKReLU,
    surrogate.LogTailedReLU,
    surrogate.NonzeroSignLogAbs,
    surrogate.PiecewiseExp,
    surrogate.PiecewiseLeakyReLU,
    surrogate.PiecewiseQuadratic,
    surrogate.QPseudoSpike,
    surrogate.Rect,
    surrogate.S2NN,
    surrogate.Sigmoid,
    surrogate.SoftSign,
    surrogate.SquarewaveFourierSeries,
    surrogate.SuperSpike,
)
NEURONS: Converters = {
    neuron.IFNode: _if,
    neuron.LIFNode: _lif,
    neuron.ParametricLIFNode: _plif,
    neuron.CUBALIFNode: _cuba_lif,
}
STEP_MODE_LAYERS: Converters = {  # that do not compute the same in both step modes
    layer.Conv1d: torch_layers.conv,
    layer.Conv2d: torch_layers.conv,
    layer.BatchNorm1d: torch_layers.batch_norm,
    layer.BatchNorm2d: torch_layers.batch_norm,
    layer.ThresholdDependentBatchNorm1d: torch_layers.batch_norm,
    layer.ThresholdDependentBatchNorm2d: torch_layers.batch_norm,
    layer.AvgPool2d: torch_layers.avg_pool2d,
    layer.MaxPool2d: torch_layers.max_pool2d,
    layer.Flatten: torch_layers.flatten,
    **NEURONS,
}
ANY_MODE_LAYERS: Converters = {
    layer.Linear: torch_layers.linear,
    layer.Dropout: torch_layers.identity,
    layer.Dropout2d: torch_layers.identity,
}
CONTAINERS = {
    layer.SeqToANNContainer: _stateless,
    layer.MultiStepContainer: _step_by_step,
    layer.StepModeContainer: _step_mode_container,
}
SIZED_LAYERS = {**SIZED, layer.AdaptiveAvgPool2d: _adaptive_avg_pool2d}
LEAVES = (
    MemoryModule,
    *(kind for kind in vars(layer).values() if isinstance(kind, type) and issubclass(kind, nn.Module)),
)
SINGLE_STEP = Dialect(
    converters={**LAYERS, **ANY_MODE_LAYERS, **_in_step_mode("s", STEP_MODE_LAYERS)},
    sized=SIZED_LAYERS,
    leaves=LEAVES,
    memories=_memories,
)
MULTI_STEP = Dialect(
    converters={**SEQUENCE_LAYERS, **ANY_MODE_LAYERS, **_in_step_mode("m", STEP_MODE_LAYERS)},
    per_step=CONTAINERS,
    step=SINGLE_STEP,
    sized=SIZED_LAYERS,
    leaves=LEAVES,
)
