"""Another library's network -> `SpikingGraph`: steps, encoding and readout are stated once and never guessed."""

from __future__ import annotations

from importlib.metadata import version

import torch
from torch import nn

from rmp_deploy.converters.torch_functions import INPUT
from rmp_deploy.converters.torch_trace import Dialect, check_steps, trace
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Encoding, Input, Readout, Rule, SpikingGraph


def to_graph(
    model: nn.Module,
    input_shape: tuple[int, ...],
    dialect: Dialect,
    leading: int,
    *,
    library: str,
    name: str,
    T: int | None,
    encoding: Encoding,
    readout: Rule | None,
    dt: float | None = None,
) -> SpikingGraph:
    """Trace `model` in `dialect` and state what its library leaves to the loop around it.

    Args:
        model: one time step of a network (leading = 1), or one on whole sequences (leading = 2).
        input_shape: one sample's, without time and batch.
        dialect: what the library's layers mean.
        leading: axes before a sample in what the model is given: [B, ...] or [T, B, ...].
        library: the distribution's name, for the provenance.
        name: of the graph.
        T: time steps; None where the model repeats its input T times itself.
        encoding: what the loop gives at every step: one sample, or the next value of a time series.
        readout: what is done with the returned values over time; None where the model does it itself.
        dt: length of a step in seconds.

    Raises:
        RmpDeployError: T or the readout are given nowhere or twice, parameters that are not float32, or what `trace`
            refuses.
    """
    for path, x in (*model.named_parameters(), *model.named_buffers()):
        if x.ndim > 0 and x.is_floating_point() and x.dtype != torch.float32:
            found = f"{type(model).__name__}: '{path}' = {x.dtype}, allowed torch.float32"
            raise RmpDeployError(f"{found}. Use model.float(), and see that it is still as good.")
    kind = type(model).__name__
    check_steps(kind, T)
    traced = trace(model, input_shape, dialect, leading)
    if (traced.T is None) == (T is None):
        given = "nowhere" if T is None else f"twice, {traced.T} in the model"
        raise RmpDeployError(f"{kind}: T = {T} given {given}, allowed once. Pass T, or repeat the input in the model.")
    if (traced.rule is None) == (readout is None):
        given = "nowhere" if readout is None else f"twice, {traced.rule!r} in the model"
        todo = "Pass readout='mean', 'sum' or 'last', or read out in the model"
        raise RmpDeployError(f"{kind}: readout = {readout!r} given {given}, allowed once. {todo}.")
    if traced.T is not None and encoding != "direct":
        raise RmpDeployError(
            f"{kind}: encoding = {encoding!r}, allowed 'direct': the model repeats its input itself. Pass that."
        )
    rule = traced.rule or readout
    assert rule is not None  # one of them, as checked
    return SpikingGraph(
        name=name,
        input=Input(INPUT, tuple(input_shape), encoding),
        ops=traced.ops,
        readout=Readout(traced.value, rule),
        T=traced.T or T or 0,
        dt=dt,
        provenance={"converted from": f"{library} {version(library)}"},
    )
