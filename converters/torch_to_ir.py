"""torch modules -> SpikingGraph by torch.fx: module paths become op names, what cannot be carried is named."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rmp_deploy.converters import torch_mpbn
from rmp_deploy.converters.torch_functions import INPUT
from rmp_deploy.converters.torch_layers import SEQUENCE_LAYERS, SIZED, Converters, array
from rmp_deploy.converters.torch_trace import Dialect, check_steps, trace
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import ops
from rmp_deploy.ir.graph import ENCODINGS, Encoding, Input, Readout, SpikingGraph
from rmp_deploy.ir.trace import Trace
from rmp_deploy.training import neurons
from rmp_deploy.training.config import TrainConfig
from rmp_deploy.training.models import DirectEncoding, TimeDistributed
from rmp_deploy.training.mpbn import MPBNLIF
from rmp_deploy.training.run_folder import read_run


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
    kind = type(model).__name__
    check_steps(kind, T)
    traced = trace(model, input_shape, TRAINING, leading=2)
    if traced.rule is None:
        raise RmpDeployError(
            f"{kind}: readout = none, allowed a mean, sum or last step over time. End the model with it."
        )
    if (traced.T is None) == (T is None):
        given = "nowhere" if T is None else "twice"
        raise RmpDeployError(f"{kind}: T given {given}, allowed once. Use DirectEncoding(T) or pass T.")
    return SpikingGraph(
        name=name,
        input=Input(INPUT, tuple(input_shape), "time_series" if traced.T is None else "direct"),
        ops=traced.ops,
        readout=Readout(traced.value, traced.rule),
        T=traced.T or T or 0,
        provenance=provenance or {},
    )


def run_to_graph(run_folder: str | Path) -> tuple[SpikingGraph, TrainConfig]:
    """The graph of a run folder's trained network, with its config; provenance says where it came from.

    Raises:
        RmpDeployError: the folder is not a finished run.
    """
    run = read_run(run_folder)
    config, task = run.config, run.task
    provenance = {
        "trained by": f"rmp-deploy {version('rmp-deploy')}, torch {torch.__version__}",
        "config": json.dumps({**config.as_dict(), "data": task.data}, sort_keys=True),
    }
    T = None if config.model.encoding == "direct" else config.model.T
    name = f"{task.data}-{config.model.name}"
    return to_graph(run.model, task.shape, name, T, provenance), config


def trace_torch(model: nn.Module, x: npt.NDArray[Any], encoding: Encoding) -> Trace:
    """Run `model` in eval mode on samples `x` and record spikes, u and v of every LIF layer: those of its op.

    `encoding` is that of the model's graph, ``to_graph(...).input.encoding``: `x` is [N, *shape] where it is "direct",
    [N, T, *shape] where it is "time_series", fed to the model as [T, N, *shape].

    Raises:
        RmpDeployError: an encoding that is neither.
    """
    if encoding not in ENCODINGS:
        allowed = " or ".join(ENCODINGS)
        raise RmpDeployError(f"trace_torch: encoding = {encoding!r}, allowed {allowed}. Pass graph.input.encoding.")
    recorded: dict[str, tuple[Tensor, ...]] = {}

    def record(name: str, layer: neurons.LIF, spikes: Tensor) -> None:
        recorded[name] = (spikes > 0, *_membrane(layer))  # now: the model may go on to write into its spikes

    hooks = [
        layer.register_forward_hook(lambda layer, _x, spikes, name=name: record(name, layer, spikes))
        for name, layer in neurons.neurons(model).items()
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            samples = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
            output = model(samples if encoding == "direct" else samples.transpose(0, 1))
    finally:
        for module, training in modes.items():
            module.training = training
        for hook in hooks:
            hook.remove()
    spikes, u, v = ({name: steps[i].transpose(0, 1).numpy() for name, steps in recorded.items()} for i in range(3))
    return Trace(backend="torch", output=output.numpy(), spikes=spikes, u=u, v=v)


def _membrane(layer: neurons.LIF) -> tuple[Tensor, Tensor]:
    """u and v of the last pass in eval mode, which keeps both."""
    if isinstance(layer, MPBNLIF):
        return torch_mpbn.membrane(layer)
    assert layer.u is not None and layer.v is not None
    return layer.u, layer.v


def _lif(layer: neurons.LIF, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    return [ops.LIF(name=path, inputs=inputs, decay=array(layer.decay), **_firing(layer))]


def _cuba_lif(layer: neurons.CubaLIF, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    current_decay, decay = array(layer.current_decay), array(layer.decay)
    return [ops.CubaLIF(name=path, inputs=inputs, current_decay=current_decay, decay=decay, **_firing(layer))]


def _li(layer: neurons.LI, path: str, inputs: tuple[str, ...]) -> list[ops.Op]:
    return [ops.LI(name=path, inputs=inputs, decay=array(layer.decay))]


def _firing(layer: neurons.LIF) -> dict[str, Any]:
    return {"v_threshold": array(layer.v_threshold), "v_reset": array(layer.v_reset), "reset": layer.reset}


NEURONS: Converters = {neurons.LIF: _lif, neurons.IF: _lif, neurons.CubaLIF: _cuba_lif, neurons.LI: _li}
TRAINING = Dialect(
    converters={**SEQUENCE_LAYERS, **NEURONS, **torch_mpbn.CONVERTERS},
    per_step={TimeDistributed: lambda container: container.layer},
    encoders={DirectEncoding: lambda encoding: encoding.T},
    sized={**SIZED, **torch_mpbn.SIZED},
)
