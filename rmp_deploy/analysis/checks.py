"""What is wrong with a file, or doubtful, found without running it: findings, no formatting.

An error is what loading the file raises, word for word, or what a chip cannot do (`chip_checks`). A warning is a
network that is valid and perhaps not meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rmp_deploy.analysis.bounds import largest_u
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Delay, LoihiLIF, Op
from rmp_deploy.passes.balance_latency import balance_latency, relays
from rmp_deploy.passes.depths import depths
from rmp_deploy.passes.fold_pool import fold_pool


@dataclass(frozen=True)
class Finding:
    """What one check says about one op (None: about the file), in one line."""

    check: str
    severity: Literal["error", "warning"]
    op: str | None
    message: str


Check = Callable[[SpikingGraph], Iterator[Finding]]


def check_file(path: str | Path, checks: Sequence[Check]) -> tuple[SpikingGraph | None, list[Finding]]:
    """Load a file and apply `checks` to its graph; the one finding about a file that cannot be loaded is that error.

    Raises:
        RmpDeployError: there is no file to read.
    """
    try:
        graph = onnx_io.load(path)
        onnx_io.load_golden(path)
    except RmpDeployError as e:
        if isinstance(e.__cause__, OSError):
            raise
        return None, [Finding("load", "error", None, str(e))]
    return graph, [finding for check in checks for finding in check(graph)]


def warning(check: str, op: Op, error: RmpDeployError) -> Finding:
    """A warning in the words of the error that using the op would raise."""
    return Finding(check, "warning", op.name, str(error))


def error(check: str, op: Op | None, refusal: RmpDeployError) -> Finding:
    """An error in the words of what is raised where it is done."""
    return Finding(check, "error", None if op is None else op.name, str(refusal))


def silent_neurons(graph: SpikingGraph) -> Iterator[Finding]:
    """Neurons that no sample makes fire: the bound of their u is not above v_threshold."""
    bounds = largest_u(graph)
    for op in graph.spiking:
        if op.name not in bounds:
            continue
        u = bounds[op.name]
        threshold = np.broadcast_to(op.threshold, u.shape)
        silent = u <= threshold
        if silent.any():
            n, first = int(silent.sum()), tuple(int(i) for i in np.argwhere(silent)[0])
            what = f"{n} of {u.size} neurons never fire; largest possible u of neuron {first} = {u[first]:g}"
            name = "vth << 6" if isinstance(op, LoihiLIF) else "v_threshold"
            todo = "Look at its weights and its threshold, or remove them"
            yield warning("silent", op, op_error(op.kind, op.name, what, f"> {name} = {threshold[first]:g}", todo))


def dead_ends(graph: SpikingGraph) -> Iterator[Finding]:
    """Ops that cost something and that the readout does not depend on."""
    needed = {graph.readout.value}
    waiting = [graph.readout.value]
    while waiting:
        op = graph.by_name.get(waiting.pop())
        if op is not None:
            waiting += [i for i in op.inputs if i not in needed]
            needed |= set(op.inputs)
    readers: dict[str, list[str]] = {op.name: [] for op in graph.ops}
    for op in graph.ops:
        for value in set(op.inputs) & readers.keys():
            readers[value].append(op.name)
    for op in graph.ops:
        if op.name not in needed:
            what, allowed = f"readers = {readers[op.name]}", f"what leads to the readout '{graph.readout.value}'"
            yield warning("dead-end", op, op_error(op.kind, op.name, what, allowed, "Remove it"))


def unequal_depths(graph: SpikingGraph) -> Iterator[Finding]:
    """Spikes that wait for what they join: it has more synapses behind it, each of which takes a step."""
    try:
        waits = relays(fold_pool(graph))
    except RmpDeployError:  # what the `lava` check says
        return
    for name, steps in waits.items():
        kind = graph.by_name[name].kind if name in graph.by_name else "LIF"  # of a pool that was folded
        what, allowed = f"steps that its spikes wait = {steps}", "0 where each synapse takes a step"
        todo = "There, relays hold them (passes.balance_latency)"
        yield Finding("depth", "warning", name, str(op_error(kind, name, what, f"{allowed} [lava]", todo)))


def lava_depth(graph: SpikingGraph) -> int | None:
    """Steps of latency on Lava, relays and pools included; None for what is refused there (`synaptic_depths`)."""
    try:
        return max(depths(balance_latency(fold_pool(graph))).values(), default=0)
    except RmpDeployError:
        return None


def synaptic_depths(graph: SpikingGraph) -> dict[str, int]:
    """Synapses on the longest way from the input to each value, less a Delay's steps.

    What only a recurrent edge leads to has none: there the synapse's own step is part of the Delay.
    """
    depth = {graph.input.name: 0}
    for op in graph.ops:
        before = [depth[i] for i in op.inputs if i in depth]
        if before:
            depth[op.name] = max(before) + hasattr(op, "weight") - (op.steps if isinstance(op, Delay) else 0)
    return depth


CHECKS: tuple[Check, ...] = (silent_neurons, dead_ends, unequal_depths)
