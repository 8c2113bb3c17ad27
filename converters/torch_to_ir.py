"""torch modules -> SpikingGraph by torch.fx: module paths become op names, what cannot be carried is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import ops
from rmp_deploy.ir.graph import Input, Readout, Rule, SpikingGraph
from rmp_deploy.ir.trace import Trace
from rmp_deploy.training import data, neurons
from rmp_deploy.training.config import TrainConfig
from rmp_deploy.training.loop import load_run
from rmp_deploy.training.models import DirectEncoding, MeanOverTime, TimeDistributed

INPUT = "x"


def to_graph(
    model: nn.Module,
    input_shape: tuple[int, ...],
    name: str = "network",
    T: int | None = None,
    provenance: dict[str, str] | None = None,
) -> SpikingGraph:
    """Trace `model` and return its graph, BatchNorms included; `input_shape` is one sample without time and batch.

    A model that begins with `DirectEncoding` is fed [B, *input_shape] and brings T along; any other is fed
    [T, B, *input_shape] and needs `T`. The model must end in a readout (`MeanOverTime`).

    Raises:
        RmpDeployError: a layer, an option of a layer or a function call that the IR cannot carry, named by its path.
    """
    try:
        traced = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError) as e:
        what = f"{type(model).__name__}: cannot be traced ({e})"
        raise RmpDeployError(f"{what}. Use no data-dependent control flow.") from e
    chain = _Chain(model)
    for node in traced.nodes:
        chain.visit(node)
    if chain.rule is None:
        raise RmpDeployError(f"{chain.kind}: readout = none, allowed MeanOverTime. End the model with it.")
    if (chain.T is None) == (T is None):
        given = "nowhere" if T is None else "twice"
        raise RmpDeployError(f"{chain.kind}: T given {given}, allowed once. Use DirectEncoding(T) or pass T.")
    return SpikingGraph(
        name=name,
        input=Input(INPUT, tuple(input_shape), "time_series" if chain.T is None else "direct"),
        ops=tuple(chain.ops),
        readout=Readout(chain.result, chain.rule),
        T=chain.T or T or 0,
        provenance=provenance or {},
    )


def run_to_graph(run_folder: str | Path) -> tuple[SpikingGraph, TrainConfig]:
    """The graph of a run folder's trained network, with its config; provenance says where it came from.

    Raises:
        RmpDeployError: the folder is not a finished run.
    """
    config, model = load_run(run_folder)
    provenance = {
        "trained by": f"rmp-deploy {version('rmp-deploy')}, torch {torch.__version__}",
        "config": json.dumps(config.as_dict(), sort_keys=True),
    }
    shape = data.load(config.data).x.shape[1:]
    return to_graph(model, shape, name=f"{config.data}-convnet", provenance=provenance), config


def trace_torch(model: nn.Module, x: npt.NDArray[Any]) -> Trace:
    """Run `model` in eval mode on samples `x` and record spikes, u and v of every LIF layer.

    `x` is [N, *shape] for a model with a `DirectEncoding`, else [N, T, *shape], fed to the model as [T, N, *shape].
    """
    layers = neurons.neurons(model)
    spikes: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _x, s, name=name: spikes.__setitem__(name, s))
        for name, layer in layers.items()
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            samples = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
            encoded = any(isinstance(module, DirectEncoding) for module in model.modules())
            output = model(samples if encoded else samples.transpose(0, 1))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()

    def by_sample(steps: Tensor | None) -> npt.NDArray[Any]:
        assert steps is not None  # eval mode records both potentials
        return steps.transpose(0, 1).numpy()

    return Trace(
        backend="torch",
        output=output.numpy(),
        spikes={name: by_sample(s) > 0 for name, s in spikes.items()},
        u={name: by_sample(layer.u) for name, layer in layers.items()},
        v={name: by_sample(layer.v) for name, layer in layers.items()},
    )


class _Tracer(fx.Tracer):
    """Every layer that has a converter is a node; everything else is traced through, or refused when converted."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, TimeDistributed | DirectEncoding | MeanOverTime) or type(m) in CONVERTERS
        return ours or super().is_leaf_module(m, module_qualified_name)


class _Chain:
    """What a walk over the traced nodes has found so far."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.kind = model, type(model).__name__
        self.ops: list[ops.Op] = []
        self.values: dict[fx.Node, str] = {}  # the name of the value that each node stands for
        self.result = ""
        self.rule: Rule | None = None
        self.readout: fx.Node | None = None
        self.T: int | None = None

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.values:
                raise RmpDeployError(f"{self.kind}: inputs = 2 or more, allowed 1. Give the model one input.")
            self.values[node] = INPUT
        elif node.op == "output":
            self.result = self._value(node.args[0])
            if self.rule is not None and node.args[0] is not self.readout:
                raise RmpDeployError(f"{self.kind}: returns '{node.args[0]}', allowed the readout. Return that alone.")
        elif node.op == "call_module":
            path = str(node.target)
            layer = self.model.get_submodule(path)
            if len(node.args) != 1 or node.kwargs:
                raise _refused(layer, path, "called with several or named arguments", "one tensor", "Pass it alone")
            self.values[node] = self._layer(layer, path, self._value(node.args[0]))
            if isinstance(layer, MeanOverTime):
                self.readout = node
        else:
            raise RmpDeployError(
                f"{self.kind}: {node.op} '{node.target}', allowed calls of layers. Wrap it in a layer."
            )

    def _layer(self, layer: nn.Module, path: str, source: str) -> str:
        """Convert one called layer; the name of the value that it makes."""
        if self.rule is not None:
            raise _refused(layer, path, "a layer after the readout", "the readout last", "Remove it")
        if isinstance(layer, DirectEncoding):
            if source != INPUT or self.ops or self.T is not None:
                raise _refused(layer, path, "not the first layer", "directly on the input", "Move it to the front")
            self.T = layer.T
            return INPUT
        if isinstance(layer, MeanOverTime):
            self.rule = "mean"
            return source
        self.ops += _convert(layer, path, source)
        return self.ops[-1].name if self.ops else INPUT

    def _value(self, argument: object) -> str:
        if not isinstance(argument, fx.Node):
            raise RmpDeployError(
                f"{self.kind}: passes {argument!r}, allowed one tensor. Return and pass single tensors."
            )
        return self.values[argument]


def _convert(layer: nn.Module, path: str, source: str, in_time: bool = False) -> list[ops.Op]:
    """The ops of one layer; `in_time`: it stands inside TimeDistributed, where every step is a sample of its own."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        todo = "Remove it first (torch.nn.utils.remove_weight_norm, handle.remove())"
        raise _refused(layer, path, "has a forward hook, whose effect is unknown", "no hooks", todo)
    if isinstance(layer, TimeDistributed):
        return _convert(layer.layer, path, source, in_time=True)
    if isinstance(layer, nn.Sequential):
        chain: list[ops.Op] = []
        for child, inner in layer.named_children():
            chain += _convert(inner, f"{path}.{child}", chain[-1].name if chain else source, in_time)
        return chain
    if type(layer) not in CONVERTERS or (in_time and isinstance(layer, neurons.LIF)):
        known = ", ".join(sorted(kind.__name__ for kind in CONVERTERS if not (in_time and kind is neurons.LIF)))
        what = "inside TimeDistributed" if type(layer) in CONVERTERS else "no such op in the IR"
        raise _refused(layer, path, what, known, "Put it outside" if type(layer) in CONVERTERS else "Replace the layer")
    return [CONVERTERS[type(layer)](layer, path, (source,))]


def _linear(layer: nn.Linear, path: str, inputs: tuple[str]) -> ops.Op:
    return ops.Linear(name=path, inputs=inputs, weight=_array(layer.weight), bias=_optional(layer.bias))


def _conv2d(layer: nn.Conv2d, path: str, inputs: tuple[str]) -> ops.Op:
    if layer.padding_mode != "zeros":
        raise _refused(layer, path, f"padding_mode = {layer.padding_mode!r}", "'zeros'", "Train with zero padding")
    if isinstance(layer.padding, str):
        raise _refused(layer, path, f"padding = {layer.padding!r}", "numbers", "Give the padding in pixels")
    return ops.Conv2d(
        name=path,
        inputs=inputs,
        weight=_array(layer.weight),
        bias=_optional(layer.bias),
        stride=_pair(layer.stride),
        padding=_pair(layer.padding),
        dilation=_pair(layer.dilation),
        groups=layer.groups,
    )


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, path: str, inputs: tuple[str]) -> ops.Op:
    if layer.running_mean is None or layer.running_var is None:
        raise _refused(layer, path, "track_running_stats = False", "True", "Train it with running statistics")
    c = layer.num_features
    return ops.BatchNorm(
        name=path,
        inputs=inputs,
        gamma=_array(layer.weight) if layer.affine else np.ones(c, np.float32),
        beta=_array(layer.bias) if layer.affine else np.zeros(c, np.float32),
        mean=_array(layer.running_mean),
        var=_array(layer.running_var),
        eps=layer.eps,
    )


def _avg_pool2d(layer: nn.AvgPool2d, path: str, inputs: tuple[str]) -> ops.Op:
    for what, allowed in (("padding", ((0, 0),)), ("ceil_mode", (False,)), ("divisor_override", (None,))):
        value = getattr(layer, what)
        if (_pair(value) if what == "padding" else value) not in allowed:
            raise _refused(layer, path, f"{what} = {value}", f"{allowed[0]}", "Use the default")
    return ops.AvgPool2d(name=path, inputs=inputs, kernel=_pair(layer.kernel_size), stride=_pair(layer.stride))


def _flatten(layer: nn.Flatten, path: str, inputs: tuple[str]) -> ops.Op:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        dims = f"dims = {layer.start_dim}..{layer.end_dim}"
        raise _refused(layer, path, dims, "1..-1", "Flatten a whole sample inside TimeDistributed")
    return ops.Flatten(name=path, inputs=inputs)


def _lif(layer: neurons.LIF, path: str, inputs: tuple[str]) -> ops.Op:
    return ops.LIF(
        name=path,
        inputs=inputs,
        decay=_array(layer.decay),
        v_threshold=_array(layer.v_threshold),
        v_reset=_array(layer.v_reset),
        reset=layer.reset,
    )


CONVERTERS: dict[type[nn.Module], Callable[[Any, str, tuple[str]], ops.Op]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _avg_pool2d,
    nn.Flatten: _flatten,
    neurons.LIF: _lif,
}


def _array(x: Tensor) -> ops.Array:
    return x.detach().cpu().numpy().astype(np.float32)


def _optional(x: Tensor | None) -> ops.Array | None:
    return None if x is None else _array(x)


def _pair(x: int | Iterable[int]) -> tuple[int, int]:
    h, w = (x, x) if isinstance(x, int) else x
    return (int(h), int(w))


def _refused(layer: nn.Module, path: str, what: str, allowed: str, todo: str) -> RmpDeployError:
    return RmpDeployError(f"{type(layer).__name__} '{path}': {what}, allowed {allowed}. {todo}.")
