"""SpikingGraph -> NIR graph, only where reading it back gives the same graph bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import nir
import numpy as np

from rmp_deploy.converters.nir import file, rules
from rmp_deploy.converters.nir.from_nir import from_nir
from rmp_deploy.converters.nir.metadata import Record
from rmp_deploy.converters.nir.rules import F64, Rule
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir import ops
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Array, Op, Shape
from rmp_deploy.ir.ops.base import same

OUTPUT = "output"  # no op may have this name


def to_nir(graph: SpikingGraph, path: str | Path, dt: float | None = None, rule: str = "euler") -> Path:
    """Write `graph` to a .nir file; see `to_nir_graph`.

    Raises:
        RmpDeployError: what `to_nir_graph` refuses, or the folder cannot be written.
    """
    return file.write(to_nir_graph(graph, dt, rule), path)


def to_nir_graph(graph: SpikingGraph, dt: float | None = None, rule: str = "euler") -> nir.NIRGraph:
    """The NIR graph whose discretisation by `rule` in steps of `dt` [s; the graph's own if not given] is `graph`.

    A decay becomes ``tau`` in float64 and ``r = 1 / (1 - decay)``, so that weights stay as they are. A sum becomes
    several edges, a recurrent Delay of one step a bare cycle. The result is converted back before it is returned: the
    ops must be equal, bit for bit.

    Raises:
        RmpDeployError: an op, by its name, that NIR cannot hold: soft reset, Concat, MaxPool2d, a BatchNorm with
            statistics, a neuron without a finite time constant; or dt is unknown.
    """
    step, law = rules.check(graph.dt if dt is None else dt, rule)
    failed = ""
    for bare in (True, False):  # cycles as other tools write them, or else an explicit node for every Delay
        network = _Exporter(graph, step, law, bare).network()
        try:
            failed = _first_difference(graph, from_nir(network, step, rule))
        except RmpDeployError as e:
            failed = f"NIR graph: does not read back ({e})"
        if not failed:
            return network
    raise RmpDeployError(failed)


def _first_difference(graph: SpikingGraph, again: SpikingGraph) -> str:
    """'' or what the first op that did not come back is, as an error."""
    for what in ("input", "readout", "T"):
        own, found = getattr(graph, what), getattr(again, what)
        if own != found:
            return f"NIR graph: {own} would come back as {found}, allowed what NIR holds exactly. Keep the .onnx file."
    for op, twin in zip(graph.ops, again.ops, strict=False):
        if op != twin:
            kept = type(op) is type(twin)
            lost = [f.name for f in fields(op) if kept and not same(getattr(op, f.name), getattr(twin, f.name))]
            what = f"{', '.join(lost) or 'the op'} would come back from NIR as another"
            return str(op_error(op.kind, op.name, what, "what NIR holds exactly", "Keep the .onnx file"))
    return "" if len(graph.ops) == len(again.ops) else "NIR graph: ops are lost. Keep the .onnx file."


@dataclass(frozen=True)
class _Site:
    """Where an op stands: the shapes of what it reads and makes, a constant current into it, and how steps are made."""

    read: Shape
    made: Shape
    current: Array | None
    dt: float
    rule: Rule


class _Exporter:
    """One export. `bare`: recurrent Delays become cycles without a node."""

    def __init__(self, graph: SpikingGraph, dt: float, rule: Rule, bare: bool) -> None:
        self.graph, self.dt, self.rule = graph, dt, rule
        self.readers = Counter([graph.readout.value, *(i for op in graph.ops for i in op.inputs)])
        self.names: dict[str, str] = {}  # as `from_nir` will call what has no node -> its name
        self.edges_of: dict[str, tuple[str, ...]] = {}  # a value without a node -> the values that it is the sum of
        for at, op in enumerate(graph.ops):
            for i in op.inputs:
                source = graph.by_name.get(i)
                if isinstance(source, ops.Add) and self._is_edges(source, op):
                    self._dissolve(source, f"{op.name}.sum")
            if bare and isinstance(op, ops.Delay) and self._is_recurrent(op, at):
                self._dissolve(op, f"{op.inputs[0]}.delay")

    def network(self) -> nir.NIRGraph:
        graph = self.graph
        nodes = {graph.input.name: nir.Input(np.array(graph.input.shape))}
        edges: list[tuple[str, str]] = []
        for op in graph.ops:
            if op.name not in self.edges_of:
                nodes[op.name] = self._node(op)
                edges += [(source, op.name) for i in op.inputs for source in self._sources(i)]
        nodes[OUTPUT] = nir.Output(np.array(graph.shapes[graph.readout.value]))
        edges += [(source, OUTPUT) for source in self._sources(graph.readout.value)]
        record = Record(
            name=graph.name,
            T=graph.T,
            encoding=graph.input.encoding,
            readout=graph.readout.rule,
            provenance=graph.provenance,
            order=[op.name for op in graph.ops],
            names=self.names,
            shapes={op.name: _shapes(op) for op in graph.ops if _shapes(op)},
        )
        return nir.NIRGraph(nodes=nodes, edges=edges, metadata=record.to_metadata(), type_check=False)

    def _is_edges(self, add: ops.Add, reader: Op) -> bool:
        """One op alone reads this sum, and has a node whose several edges can say so."""
        alone = self.readers[add.name] == 1 and len(reader.inputs) == 1
        return alone and not isinstance(reader, ops.Add | ops.BatchNorm) and len(set(add.inputs)) == len(add.inputs)

    def _is_recurrent(self, delay: ops.Delay, at: int) -> bool:
        """One step of the spikes of a neuron that stands later, and the only such delay of them."""
        spikes = any(isinstance(op, ops.LIF) and op.name == delay.inputs[0] for op in self.graph.ops[at:])
        twins = [d for d in self.graph.of_type(ops.Delay) if (d.steps, d.inputs) == (1, delay.inputs)]
        return delay.steps == 1 and spikes and len(twins) == 1 and self.graph.readout.value != delay.name

    def _dissolve(self, op: Op, generated: str) -> None:
        self.edges_of[op.name] = op.inputs
        if op.name != generated:
            self.names[generated] = op.name

    def _sources(self, value: str) -> list[str]:
        """The nodes whose sum is `value`."""
        if value not in self.edges_of:
            return [value]
        return [source for i in self.edges_of[value] for source in self._sources(i)]

    def _node(self, op: Op) -> nir.NIRNode:
        if type(op) not in EXPORTERS:
            known = ", ".join(sorted(kind.__name__ for kind in EXPORTERS))
            raise op_error(op.kind, op.name, "NIR has no such node", known, "Keep the .onnx file")
        shapes = self.graph.shapes
        current = None
        before = self.graph.by_name.get(op.inputs[0])
        if isinstance(before, ops.BatchNorm) and type(op) in _LEAKY and before.beta.any():
            current = before.beta
        if isinstance(op, ops.BatchNorm) and op.beta.any():
            readers = self.graph.consumers(op.name)
            if self.readers[op.name] != 1 or not readers or type(readers[0]) not in _LEAKY:
                raise op_error("BatchNorm", op.name, "beta is not 0", "0 unless one LIF or LI alone reads it", _FOLD)
        return EXPORTERS[type(op)](op, _Site(shapes[op.inputs[0]], shapes[op.name], current, self.dt, self.rule))


_LEAKY = (ops.LIF, ops.LI)  # v_leak is a constant current into them
_FOLD = "Fold it into the synapse before it (passes.fold_batchnorm)"


def _linear(op: ops.Linear, site: _Site) -> nir.NIRNode:
    return nir.Linear(op.weight) if op.bias is None else nir.Affine(op.weight, op.bias)


def _conv1d(op: ops.Conv1d, site: _Site) -> nir.NIRNode:
    (stride,), (padding,), (dilation,) = op.stride, op.padding, op.dilation
    return nir.Conv1d(site.read[1], op.weight, stride, padding, dilation, op.groups, _bias(op))


def _conv2d(op: ops.Conv2d, site: _Site) -> nir.NIRNode:
    return nir.Conv2d(site.read[1:], op.weight, op.stride, op.padding, op.dilation, op.groups, _bias(op))


def _pool(op: ops.AvgPool2d | ops.SumPool2d, site: _Site) -> nir.NIRNode:
    kind = nir.AvgPool2d if isinstance(op, ops.AvgPool2d) else nir.SumPool2d
    return kind(*(np.array(pair) for pair in (op.kernel, op.stride, op.padding)))


def _flatten(op: ops.Flatten, site: _Site) -> nir.NIRNode:
    return nir.Flatten({"input": np.array(site.read)}, start_dim=0, end_dim=-1)


def _delay(op: ops.Delay, site: _Site) -> nir.NIRNode:
    return nir.Delay(np.full(site.made, op.steps * site.dt))


def _add(op: ops.Add, site: _Site) -> nir.NIRNode:
    """A sum that is more than the edges into one node: several edges into a gain of one."""
    if len(set(op.inputs)) < len(op.inputs):
        raise op_error("Add", op.name, f"inputs = {op.inputs}", "each once: NIR has no double edges", "Double a weight")
    return nir.Scale(np.ones(site.made))


def _batch_norm(op: ops.BatchNorm, site: _Site) -> nir.NIRNode:
    """A gain per channel; its beta is the constant current of the neurons behind it."""
    if op.mean.any() or (op.var != 1).any() or op.eps != 0:
        raise op_error("BatchNorm", op.name, "has statistics", "mean 0, var 1, eps 0", _FOLD)
    return nir.Scale(_each(op.gamma.reshape(-1, *(1,) * (len(site.made) - 1)), site))


def _lif(op: ops.LIF, site: _Site) -> nir.NIRNode:
    if op.reset != "hard":
        raise op_error(op.kind, op.name, "reset = 'soft'", "'hard': NIR resets to v_reset", "Train with hard reset")
    fire = {"v_threshold": _each(op.v_threshold, site), "v_reset": _each(op.v_reset, site)}
    if isinstance(op, ops.CubaLIF):
        tau_mem, r, v_leak = _membrane(op, op.decay, "decay", site)
        tau_syn, w_in, _ = _membrane(op, op.current_decay, "current_decay", site)
        return nir.CubaLIF(tau_syn=tau_syn, tau_mem=tau_mem, r=r, v_leak=v_leak, w_in=w_in, **fire)
    if (op.decay == 1).all() and site.current is None:
        return nir.IF(r=_each(np.array(1 / site.dt), site), **fire)
    if not op.decay.any() and not op.v_reset.any() and site.current is None:
        return nir.Threshold(fire["v_threshold"])
    tau, r, v_leak = _membrane(op, op.decay, "decay", site)
    return nir.LIF(tau=tau, r=r, v_leak=v_leak, **fire)


def _li(op: ops.LI, site: _Site) -> nir.NIRNode:
    if (op.decay == 1).all() and site.current is None:
        return nir.I(r=_each(np.array(1 / site.dt), site))
    tau, r, v_leak = _membrane(op, op.decay, "decay", site)
    return nir.LI(tau=tau, r=r, v_leak=v_leak)


def _membrane(op: Op, decay: Array, what: str, site: _Site) -> tuple[F64, F64, F64]:
    """tau, the r that makes the gain 1, and the v_leak that makes the constant current."""
    each = _each(decay, site)
    with np.errstate(divide="ignore"):
        tau = site.rule.tau(each, site.dt)
    if not (np.isfinite(tau) & (tau > 0)).all():
        found = f"{what} = {decay.min():g}..{decay.max():g} has no finite time constant"
        todo = "Use 'euler' for 0; NIR has neurons without a leak only where no decay is below 1"
        raise op_error(op.kind, op.name, found, "above 0 (exponential), below 1", todo)
    leak = site.rule.leak(tau, site.dt)
    current = np.zeros(1) if site.current is None else site.current.astype(np.float64)
    v_leak = current.reshape(-1, *(1,) * (len(site.made) - 1)) / leak
    return tau, 1 / leak, v_leak


EXPORTERS: dict[type[Op], Callable[[Any, _Site], nir.NIRNode]] = {
    ops.Add: _add,
    ops.AvgPool2d: _pool,
    ops.BatchNorm: _batch_norm,
    ops.Conv1d: _conv1d,
    ops.Conv2d: _conv2d,
    ops.CubaLIF: _lif,
    ops.Delay: _delay,
    ops.Flatten: _flatten,
    ops.LI: _li,
    ops.LIF: _lif,
    ops.Linear: _linear,
    ops.SumPool2d: _pool,
}


def _each(values: Array, site: _Site) -> F64:
    """One value per neuron: NIR's parameters have the shape of the neurons."""
    return np.broadcast_to(values, site.made).astype(np.float64)


def _bias(op: ops.Conv1d | ops.Conv2d) -> Array:
    return np.zeros(len(op.weight), np.float32) if op.bias is None else op.bias


def _shapes(op: Op) -> dict[str, list[int]]:
    """The shapes that NIR does not keep: of neurons' parameters, and of a bias, which every convolution has."""
    if isinstance(op, ops.LIF | ops.LI):
        return {what: list(values.shape) for what, values in op.per_neuron.items()}
    return {"bias": list(op.bias.shape)} if isinstance(op, ops.Conv1d | ops.Conv2d) and op.bias is not None else {}
