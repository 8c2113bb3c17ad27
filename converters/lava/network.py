"""SpikingGraph -> one connected network of Lava processes, with recorders where a trace is wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.converters.lava.neuron import NEURONS
from rmp_deploy.converters.lava.readout import Readout, Recording, recorded_values
from rmp_deploy.converters.lava.refusals import check
from rmp_deploy.converters.lava.synapse import F64, SYNAPSES, bias
from rmp_deploy.converters.lava.wiring import lava_shape, links, summands
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.integers import SYNAPSES as LOIHI_SYNAPSES
from rmp_deploy.ir.ops import LI, CubaLIF, LoihiLIF, Op, Shape
from rmp_deploy.ir.reference import STATELESS
from rmp_deploy.ir.trace import Record
from rmp_deploy.passes.balance_latency import balance_latency
from rmp_deploy.passes.depths import depths
from rmp_deploy.passes.paths import host_values, parts


@dataclass(frozen=True)
class Network:
    """Lava processes, ready to compile: run `source` for `n_steps` time steps with `run_cfg`, then read what it has."""

    source: Any
    run_cfg: Any
    n_steps: int
    readout: Readout
    spikes: dict[str, Recording]
    v: dict[str, Recording]


def build(
    graph: SpikingGraph, x: npt.NDArray[Any], record: Collection[Record], files: ExitStack, fast: bool = False
) -> Network:
    """Make the processes that stream samples `x` ([N, *shape] or [N, T, *shape]) back to back through `graph`.

    Relays keep the values that join equally late (`balance_latency`); they are in no trace. `files` closes the
    recordings. `fast` takes the models of `converters.lava.fast` for the same processes.

    Raises:
        RmpDeployError: Lava cannot compute an op exactly (see `refusals`), or lava-nc is missing.
    """
    check(graph)
    recorded = [op.name for op in graph.spiking]
    making = _Making(balance_latency(graph), x, files)
    making.connect()
    spikes = {name: making.sink(name) for name in recorded if "spikes" in record}
    v = {name: making.membrane(name) for name in recorded if "v" in record}
    readout = making.readout(spikes)
    return Network(
        source=making.whole(),
        run_cfg=_run_cfg(making.fixed, fast=fast),
        n_steps=making.n_steps,
        readout=readout,
        spikes=spikes,
        v=v,
    )


class _Making:
    """The processes of one network: all are made before any is connected, since recurrent edges lead back."""

    def __init__(self, graph: SpikingGraph, x: npt.NDArray[Any], files: ExitStack) -> None:
        self.graph, self.x, self.files = graph, x, files
        self.depth = depths(graph)
        self.n_steps = len(x) * graph.T + max(self.depth.values())
        self.fixed = {op.name for op in graph.ops if isinstance(op, (*LOIHI_SYNAPSES, LoihiLIF))}
        self.host = host_values(graph)
        self.fixed |= self.host & graph.integers.keys()
        self.sources: dict[tuple[str, int], Any] = {}
        read = parts(graph)
        self.synapses = {op.name: links(graph, op, read[op.inputs[0]]) for op in graph.of_type(*SYNAPSES)}
        self.outputs: dict[str, list[Any]] = {name: [] for name in self.synapses}  # ports, one per link
        self.neurons = {op.name: self._neuron(op) for op in graph.ops if type(op) in NEURONS}

    def connect(self) -> None:
        """Make the synapses, and connect everything that is there."""
        for name, of_op in self.synapses.items():
            op = self.graph.by_name[name]
            for i, link in enumerate(of_op):
                process, s_in = SYNAPSES[type(op)](op, link, name if len(of_op) == 1 else f"{name}/{i}")
                if name in self.fixed:
                    self.fixed.add(process.name)
                if link.delay:
                    process.proc_params["window"] = (self.depth[name], self.graph.T, link.delay)
                for source in link.senders:
                    port = self._port(source, self.depth[name] - 1 + link.delay)
                    (port if port.shape == s_in.shape else port.reshape(s_in.shape)).connect(s_in)
                self.outputs[name].append(process.a_out)
        for name, process in self.neurons.items():
            for port in self._current(self.graph.by_name[name].inputs[0], process.a_in.shape, self.depth[name]):
                port.connect(process.a_in)

    def whole(self) -> Any:
        """A process that all others are connected with: Lava runs no others, and their recordings would stay 0."""
        from lava.magma.compiler.compiler_graphs import find_processes

        first, *others = self.neurons.values()
        found = set(find_processes(first))
        others += [port.process for ports in self.outputs.values() for port in ports]
        for process in others:
            if process not in found:
                what = f"Lava process '{process.name}': not connected with '{first.name}', allowed one network"
                raise RmpDeployError(f"{what}. Run the pieces as two networks.")
        return first

    def sink(self, name: str) -> Recording:
        """Record the spikes of a neuron op, or the current of a synapse op."""
        from rmp_deploy.converters.lava.recorder.processes import Sink

        is_neuron = name in self.neurons
        ports = [self.neurons[name].s_out] if is_neuron else self.outputs[name]
        recording = self._recording(name, np.bool_ if is_neuron else np.float64, ports[0].shape[::-1])
        sink = Sink(shape=ports[0].shape, rows=recording.rows, name=f"record {name}")
        for port in ports:
            port.connect(sink.a_in)
        return recording

    def membrane(self, name: str) -> Recording:
        """Record v of a neuron op, which its own model writes down."""
        dtype = np.int64 if name in self.fixed else np.float64
        recording = self._recording(name, dtype, self.neurons[name].a_in.shape[::-1])
        self.neurons[name].proc_params["membrane"] = recording.rows
        return recording

    def readout(self, spikes: dict[str, Recording]) -> Readout:
        """Record what the readout is made of, where it is not in `spikes` already."""
        recordings: dict[str, Recording] = {}
        biases: dict[str, F64] = {}
        for name in recorded_values(self.graph):
            op = self.graph.by_name[name]
            if isinstance(op, LI):
                recordings[name] = self.membrane(name)
            else:
                recordings[name] = spikes.get(name) or self.sink(name)
            if name in self.synapses:
                biases[name] = bias(op, self.graph.shapes[name])
        return Readout(self.graph, self.x, recordings, biases)

    def _recording(self, name: str, dtype: type, shape: Shape) -> Recording:
        from rmp_deploy.converters.lava.recorder.processes import Rows

        n, T = len(self.x), self.graph.T
        file = self.files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        rows = Rows(file, dtype, (n * T, *shape), self.depth[name])
        return Recording(rows, (n, T, *self.graph.shapes[name]))

    def _neuron(self, op: Op) -> Any:
        value = op.inputs[0]
        total = self._bias(value)
        shape = self.graph.shapes[value]
        process = NEURONS[type(op)](op, shape, total, self.graph.T, self.depth[op.name])
        if isinstance(op, CubaLIF) and total.any():
            from rmp_deploy.converters.lava.recorder.processes import Source

            constant = Source(frames=total.reshape(1, *lava_shape(shape)), repeat=self.n_steps, name=f"{op.name}/bias")
            constant.s_out.connect(process.a_in)
        return process

    def _bias(self, value: str) -> F64:
        """The biases of all synapses that a current sums, in the shape that it has in the graph."""
        shape = self.graph.shapes[value]
        of_synapses = [
            self.graph.by_name[name] for name in summands(self.graph, value, self.host) if name in self.synapses
        ]
        return sum((bias(op, self.graph.shapes[op.name]).reshape(shape) for op in of_synapses), start=np.zeros(shape))

    def _current(self, value: str, shape: tuple[int, ...], depth: int) -> list[Any]:
        """The ports that send the summands of a current, in Lava's `shape`."""
        found = []
        for name in summands(self.graph, value, self.host):
            ports = self.outputs[name] if name in self.outputs else [self._port(name, depth)]
            for port in ports:
                if port.shape == shape:
                    found.append(port)
                else:  # flat in our order: C, H, W
                    found.append(port.transpose(tuple(reversed(range(len(port.shape))))).reshape(shape))
        return found

    def _port(self, source: str, depth: int) -> Any:
        """The port of a neuron op, or of the host, which sends as late as it is wanted."""
        if source in self.neurons:
            return self.neurons[source].s_out
        if (source, depth) not in self.sources:
            from rmp_deploy.converters.lava.recorder.processes import Source

            direct = self.graph.input.encoding == "direct"
            name = f"{source}/{depth}" if depth else source
            if source in self.fixed:
                self.fixed.add(name)
            self.sources[source, depth] = Source(
                frames=self._frames(source), repeat=self.graph.T if direct else 1, latency=depth, name=name
            )
        return self.sources[source, depth].s_out

    def _frames(self, value: str) -> npt.NDArray[Any]:
        """What the host sends for `value`: the samples, one after another, quantized or flattened."""
        ops: list[Op] = []
        while value in self.graph.by_name:
            ops.append(self.graph.by_name[value])
            (value,) = ops[-1].inputs
        frames = self.x.reshape(-1, *self.graph.input.shape)
        for op in reversed(ops):
            frames = STATELESS[type(op)](op, frames)
        return frames.reshape(len(frames), *lava_shape(frames.shape[1:]))


def _run_cfg(fixed: Collection[str], fast: bool) -> Any:
    """Fixed-point models for the processes named in `fixed`, floating-point models for the others."""
    from lava.magma.core.run_configs import Loihi2SimCfg

    from rmp_deploy.converters.lava.recorder.models import recorded, windowed

    models: dict[bool, dict[Any, Any]] = {True: {}, False: {}}
    if fast:
        from rmp_deploy.converters.lava.fast.models import FIXED, FLOATING

        models = {True: FIXED, False: FLOATING}

    class RunCfg(Loihi2SimCfg):  # type: ignore[misc]
        def select(self, process: Any, proc_models: list[Any]) -> Any:
            is_fixed = process.name in fixed
            self.select_tag = "fixed_pt" if is_fixed else "floating_pt"
            self.exception_proc_model_map = models[is_fixed]
            model = super().select(process, proc_models)
            if process.proc_params.get("membrane") is not None:
                model = recorded(model)
            return windowed(model) if process.proc_params.get("window") else model

    return RunCfg()
