"""SpikingGraph -> one connected network of Lava processes, with recorders where a trace is wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.converters.lava.neuron import NEURONS
from rmp_deploy.converters.lava.synapse import F64, GRADED_BITS, SYNAPSES, bias
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.integers import SYNAPSES as LOIHI_SYNAPSES
from rmp_deploy.ir.ops import LIF, AvgPool2d, BatchNorm, Flatten, LoihiConv2d, LoihiLIF, Op, Shape, SumPool2d
from rmp_deploy.ir.trace import Record

OTHER_BACKEND = "Use the backend reference or onnxruntime, or a network without it"
INSTEAD: dict[type[Op], str] = {
    BatchNorm: "Apply passes.fold_batchnorm first",
    AvgPool2d: "Apply passes.fold_pool first",
    SumPool2d: "Before a Conv2d or Linear, make it an AvgPool2d, multiply their weights by the window's size and apply "
    "passes.fold_pool; elsewhere use the backend reference or onnxruntime",
}


@dataclass(frozen=True)
class Wire:
    """A value of the graph inside Lava.

    Attributes:
        process: who computes it.
        port: the OutPort that sends it, in Lava's order.
        shape: what the port sends in our order, (C, H, W) or (N,); a Flatten leaves it as it is.
        latency: connection processes between the input and the value; each adds one time step.
        bias: of the synapse that made it; it is not in the value yet.
    """

    process: Any
    port: Any
    shape: Shape
    latency: int = 0
    bias: F64 | None = None


@dataclass(frozen=True)
class Recording:
    """N samples of one value, its rows one per time step, latency removed; `shape` is [N, T, *shape in the graph]."""

    rows: Any
    shape: Shape

    def read(self) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self.rows.read()
        return values.reshape(self.shape)


@dataclass(frozen=True)
class Network:
    """Lava processes, ready to compile: run `source` for `n_steps` time steps with `run_cfg`, then read the recordings.

    `readout` is the graph's readout value without `readout_bias`, which has the value's shape or is 0.
    """

    source: Any
    run_cfg: Any
    n_steps: int
    readout: Recording
    readout_bias: F64
    spikes: dict[str, Recording]
    v: dict[str, Recording]


def check(graph: SpikingGraph) -> None:
    """Raise the first of `refusals`; a wrong network would hang there."""
    for _, error in refusals(graph):
        raise error


def refusals(graph: SpikingGraph) -> Iterator[tuple[Op, RmpDeployError]]:
    """The ops that have no exact counterpart on Lava, each with what `build` raises for it."""
    made_by = _made_by(graph)
    for op in graph.ops:
        if type(op) not in CONVERT:
            allowed = ", ".join(kind.__name__ for kind in CONVERT)
            todo = INSTEAD.get(type(op), OTHER_BACKEND)
            yield op, op_error(op.kind, op.name, f"op = {op.kind}", f"{allowed} [lava]", todo)
            continue
        source = made_by.get(op.inputs[0])
        is_current = type(source) in SYNAPSES
        maker = "the input" if source is None else f"{source.kind} '{source.name}'"
        if isinstance(op, LoihiConv2d):
            yield from _conv_refusals(op)
        if isinstance(op, LIF):
            yield from _lif_refusals(op)
            if not is_current:
                todo = "Put a Linear or Conv2d between them"
                yield op, op_error(op.kind, op.name, f"input = {maker}", "one Linear or Conv2d [lava]", todo)
        elif type(op) in SYNAPSES and is_current:
            todo = "Merge the two into one synapse, or put neurons between them"
            yield op, op_error(op.kind, op.name, f"input = {maker}", "spikes or the input [lava]", todo)


def _conv_refusals(op: LoihiConv2d) -> Iterator[tuple[Op, RmpDeployError]]:
    unit = 1 << max(0, -op.weight_exp)
    wrong = op.weight % unit != 0
    if wrong.any():
        what = f"weight = {op.weight.flat[np.argmax(wrong)]} with weight_exp = {op.weight_exp}"
        todo = "Lava's Conv has no exponent and its weights are integers: use a larger weight_exp, or another backend"
        yield op, op_error(op.kind, op.name, what, f"multiples of {unit} [lava]", todo)


def _lif_refusals(op: LIF) -> Iterator[tuple[Op, RmpDeployError]]:
    if op.reset != "hard":
        todo = "Lava cannot subtract the threshold: train with the hard reset, or use another backend"
        yield op, op_error(op.kind, op.name, f"reset = {op.reset!r}", "'hard' [lava]", todo)
    if np.any(op.v_reset):
        what = f"v_reset = {op.v_reset.flat[np.argmax(op.v_reset != 0)]:g}"
        yield op, op_error(op.kind, op.name, what, "0 [lava]", "Train with v_reset = 0, or use another backend")


def _made_by(graph: SpikingGraph) -> dict[str, Op]:
    """The op behind each value, through any Flatten; none for the input."""
    made: dict[str, Op] = {}
    for op in graph.ops:
        if not isinstance(op, Flatten):
            made[op.name] = op
        elif op.inputs[0] in made:
            made[op.name] = made[op.inputs[0]]
    return made


def build(graph: SpikingGraph, x: npt.NDArray[Any], record: Collection[Record], files: ExitStack) -> Network:
    """Make the processes that stream samples `x` ([N, *shape] or [N, T, *shape]) back to back through `graph`.

    A value may have several readers; nothing joins, so every value has one latency. `files` closes the recordings.

    Raises:
        RmpDeployError: Lava cannot compute an op exactly (see `refusals`), or lava-nc is missing.
    """
    check(graph)
    from rmp_deploy.converters.lava.recorder.processes import Rows, Sink, Source

    direct = graph.input.encoding == "direct"
    frames = x if direct else x.reshape(-1, *graph.input.shape)
    source = Source(frames=frames, repeat=graph.T if direct else 1, name=graph.input.name)
    wires = {graph.input.name: Wire(source, source.s_out, graph.input.shape)}
    for op in graph.ops:
        wires[op.name] = CONVERT[type(op)](graph, op, wires[op.inputs[0]])

    def recording(name: str, dtype: type) -> Recording:
        file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        wire = wires[name]
        rows = Rows(file, dtype, (len(x) * graph.T, *wire.shape), wire.latency)
        return Recording(rows, (len(x), graph.T, *graph.shapes[name]))

    def sink(name: str, dtype: type) -> Recording:
        recorded, port = recording(name, dtype), wires[name].port
        port.connect(Sink(shape=port.shape, rows=recorded.rows, name=f"record {name}").a_in)
        return recorded

    def membrane(name: str) -> Recording:
        recorded = recording(name, np.int64 if name in fixed else np.float64)
        wires[name].process.proc_params["membrane"] = recorded.rows
        return recorded

    fixed = {op.name for op in graph.ops if isinstance(op, (*LOIHI_SYNAPSES, LoihiLIF))}
    if graph.input.message_bits is not None:
        fixed.add(graph.input.name)
    neurons = [op.name for op in graph.spiking]
    spikes = {name: sink(name, np.bool_) for name in neurons if "spikes" in record}
    v = {name: membrane(name) for name in neurons if "v" in record}
    value = graph.readout.value
    readout_bias = wires[value].bias
    return Network(
        source=source,
        run_cfg=_run_cfg(fixed, records_v=bool(v)),
        n_steps=len(x) * graph.T + max(wire.latency for wire in wires.values()),
        readout=spikes.get(value) or sink(value, np.bool_ if graph.is_spikes(value) else np.float64),
        readout_bias=np.zeros(1) if readout_bias is None else readout_bias.reshape(graph.shapes[value]),
        spikes=spikes,
        v=v,
    )


def _synapse(graph: SpikingGraph, op: Op, wire: Wire) -> Wire:
    # 0 bits would turn every input into 0 or 1 (lava/proc/dense/models.py:41-46, lava/proc/conv/models.py:40-43)
    message_bits = 0 if graph.is_spikes(op.inputs[0]) else GRADED_BITS
    process, s_in = SYNAPSES[type(op)](op, wire.shape, message_bits)
    port = wire.port if wire.port.shape == s_in.shape else wire.port.reshape(s_in.shape)
    port.connect(s_in)
    shape = graph.shapes[op.name]
    return Wire(process, process.a_out, shape, wire.latency + 1, bias(op, shape))


def _neuron(graph: SpikingGraph, op: Op, wire: Wire) -> Wire:
    process = NEURONS[type(op)](op, wire.shape, graph.shapes[op.name], wire.bias, graph.T, wire.latency)
    wire.port.connect(process.a_in)
    return Wire(process, process.s_out, wire.shape, wire.latency)


def _flatten(_graph: SpikingGraph, _op: Op, wire: Wire) -> Wire:
    return wire  # whoever reads it permutes its own parameters


CONVERT: dict[type[Op], Callable[[SpikingGraph, Op, Wire], Wire]] = {
    **dict.fromkeys(SYNAPSES, _synapse),
    **dict.fromkeys(NEURONS, _neuron),
    Flatten: _flatten,
}


def _run_cfg(fixed: Collection[str], records_v: bool) -> Any:
    """Fixed-point models for the processes named in `fixed`, floating-point models for the others."""
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.lif.process import LIFReset

    from rmp_deploy.converters.lava.recorder.membrane import PyLifResetFixedRecorded, PyLifResetRecorded

    class RunCfg(Loihi2SimCfg):  # type: ignore[misc]
        def select(self, process: Any, proc_models: list[Any]) -> Any:
            is_fixed = process.name in fixed
            self.select_tag = "fixed_pt" if is_fixed else "floating_pt"
            recorded = PyLifResetFixedRecorded if is_fixed else PyLifResetRecorded
            self.exception_proc_model_map = {LIFReset: recorded} if records_v else {}
            return super().select(process, proc_models)

    return RunCfg()
