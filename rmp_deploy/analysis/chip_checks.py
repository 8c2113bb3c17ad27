"""What would go wrong on a chip, found without running it: the traps of Loihi's arithmetic and sizes, by profile.

Each check reads one profile's limits and a graph, real-valued or integer. An error cannot run or does not fit; a
warning runs, and other than meant. Of a real-valued network the findings say what `passes.quantize` will have to do. A
limit that the profile does not know is not checked (`unknown_limits`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from rmp_deploy.analysis.bounds import Reach, reaches
from rmp_deploy.analysis.checks import Check, Finding, error, warning
from rmp_deploy.analysis.utilization import excess_errors, utilization
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.ir.graph import AnyOp, SpikingGraph
from rmp_deploy.ir.ops import (
    LIF,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    Op,
    Quantize,
    SpikingNeuron,
)
from rmp_deploy.ir.ops.loihi import STATE_SHIFT, WEIGHT_SPAN
from rmp_deploy.ir.reference_loihi import DECAY_SHIFT
from rmp_deploy.passes.as_synapses import as_synapses
from rmp_deploy.passes.chip_layers import LOIHIS, host_ops
from rmp_deploy.passes.depths import depths, reads_of
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.passes.fold_pool import fold_pool
from rmp_deploy.passes.identity_synapses import identity_synapses
from rmp_deploy.passes.place import PER_CORE
from rmp_deploy.passes.quantize.layers import layers_of, on_host

WIDEST_GROUPS = 127  # what an int8 holds
LOST_WEIGHTS = 0.1  # share of weights that round to 0, from where one outlier spoils a layer
FINEST_GRID = 8  # a weight that is a multiple of 2^-8 was meant as one


def checks(profile: HardwareProfile) -> tuple[Check, ...]:
    """The checks of `profile`; none where it knows no limit and so is no chip."""
    if all(limit.value is None for limit in profile.limits.values()):
        return ()
    return tuple(partial(check, profile) for check in CHIP_CHECKS)


def unknown_limits(profile: HardwareProfile) -> list[str]:
    """Names of the limits that were not checked because nobody has published them."""
    return [name for name, limit in profile.limits.items() if limit.value is None]


def quantizable(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """What `passes.quantize` refuses of a real-valued network: soft reset, v_reset, thresholds of 0, ops of no chip."""
    if graph.of_type(*LOIHIS):
        return
    try:
        folded = fold_pool(fold_batchnorm(graph))
        host = on_host(folded, "host")
        layers_of(identity_synapses(folded, host), host)
    except RmpDeployError as e:
        yield error("quantize", _named(graph, e), e)


def real_input(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """Who computes what reads real values; integers that a spike cannot carry."""
    name, bits = profile.name, profile.limits["graded_spike_bits"].value
    if graph.input.message_bits is None and not graph.of_type(*LOIHIS):
        for op in graph.consumers(graph.input.name):
            graded = "" if bits == 0 else ", or sends the samples as integers (input_coding = 'graded')"
            todo = f"quantize leaves it and its neurons on the host{graded}"
            yield warning("input", op, op_error(op.kind, op.name, "input = real values", f"spikes [{name}]", todo))
    if bits is None:
        return
    sent = {graph.input.name: graph.input.message_bits or 0}
    sent |= {op.name: op.message_bits for op in graph.of_type(Quantize)}
    for op in _loihi_synapses(graph):
        between = [s for s in graph.sources(op.inputs[0]) if not isinstance(s, SpikingNeuron)]
        for value in sorted({op.inputs[0], *(i for s in between for i in (s.name, *s.inputs))} & sent.keys()):
            if sent[value] > bits:
                what, todo = f"input '{value}' of {sent[value]} message_bits", "Keep the first layer on the host"
                yield error("graded", op, op_error(op.kind, op.name, what, f"{bits} [{name}]", todo))


def weights(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """Weights of more bits than a synapse has; real-valued ones of which one outlier rounds many to 0."""
    bits = profile.limits["weight_bits"].value
    if bits is None:
        return
    for op in _loihi_synapses(graph):
        if op.num_weight_bits > bits:
            what, todo = f"num_weight_bits = {op.num_weight_bits}", "Quantize it with fewer weight_bits"
            yield error("weights", op, op_error(op.kind, op.name, what, f"1..{bits} [{profile.name}]", todo))
    host = host_ops(graph)
    for synapse in graph.ops:
        if synapse.name in host or not isinstance(synapse, Linear | Conv1d | Conv2d):
            continue
        size, used = np.abs(synapse.weight), min(bits, 8)
        smallest = size.max() / max(2, 2**used - 2)  # half a step; of one bit, half the only weight
        lost = int(np.count_nonzero((size > 0) & (size < smallest)))
        if lost > LOST_WEIGHTS * size.size:
            what = f"{lost} of {size.size} weights round to 0 in {used} bits beside the largest, {size.max():g}"
            todo = "quantize clips where that helps; look at the outlier"
            allowed = f"at most {LOST_WEIGHTS:.0%} [{profile.name}]"
            yield warning("weights", synapse, op_error(synapse.kind, synapse.name, what, allowed, todo))


def decays(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """Real-valued decays that are no multiple of the chip's unit."""
    bits = profile.limits["decay_bits"].value
    if bits is None:
        return
    unit = 1 << bits
    for op in _on_chip(graph, LIF):
        given = {"decay": op.decay} | ({"current_decay": op.current_decay} if isinstance(op, CubaLIF) else {})
        for what, values in given.items():
            scaled = np.ldexp(values.astype(np.float64), bits)
            lost = np.abs(scaled - np.rint(scaled)).ravel()
            if lost.any():
                value = float(values.flat[int(lost.argmax())])
                nearest = round(value * unit)
                todo = f"quantize takes {nearest}/{unit} = {nearest / unit:.6g}"
                allowed = f"k/{unit} [{profile.name}]"
                yield warning("decay", op, op_error(op.kind, op.name, f"{what} = {value:.6g}", allowed, todo))


def registers(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """Thresholds, biases and decays of integer neurons that their registers cannot hold."""
    threshold, bias, decay = (profile.limits[f"{name}_bits"].value for name in ("threshold", "bias", "decay"))
    coarse = 1 << max(0, DECAY_SHIFT - (DECAY_SHIFT if decay is None else decay))  # of 1/4096
    for op in graph.of_type(LoihiLIF):
        for name, register in (("dv", op.dv), ("du + 1", op.du + 1)):
            if (register % coarse).any():
                what = f"{name} = {register.flat[int(np.argmax(register % coarse != 0))]}"
                allowed, todo = f"multiples of {coarse} [{profile.name}]", "Train with a decay that it can hold"
                yield error("registers", op, op_error(op.kind, op.name, what, allowed, todo))
        spans = {} if threshold is None else {"vth": (op.vth, 0, 2**threshold - 1)}
        if bias is not None:
            spans["bias_mant"] = (op.bias_mant, -(2 ** (bias - 1)), 2 ** (bias - 1) - 1)
        for name, (values, low, high) in spans.items():
            if int(values.min()) < low or int(values.max()) > high:
                what, todo = f"{name} = {values.min()}..{values.max()}", "Quantize it with a smaller scale"
                yield error("registers", op, op_error(op.kind, op.name, what, f"{low}..{high} [{profile.name}]", todo))


def thresholds(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """More different thresholds in one layer than a core holds."""
    most = profile.limits["thresholds_per_core"].value
    if most is None:
        return
    for op in graph.of_type(LoihiLIF):
        n = len(np.unique(op.vth))
        if n > most:
            todo = "Lava takes one per neuron and a core of the chip does not: fold them into the weights"
            what, allowed = f"{n} different vth", f"{most} per core [{profile.name}]"
            yield warning("thresholds", op, op_error(op.kind, op.name, what, allowed, todo))


def states(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """What depends on how far currents and potentials can go, for any input that the graph allows: one walk for all."""
    host = host_ops(graph)
    for op, reach in reaches(graph):
        if op.name not in host:
            for check in (_wrap, _saturation, _decay_register, _equality):
                yield from check(profile, graph, op, reach)


def _wrap(profile: HardwareProfile, graph: SpikingGraph, op: Op, reach: Reach) -> Iterator[Finding]:
    """Currents that turn to the other sign."""
    bits = profile.limits["state_bits"].value
    if bits is None:
        return
    limit, current = 1 << (bits - 1), float(np.abs(reach.current).max())
    if isinstance(op, LoihiLIF) and current > limit:
        what, todo = f"largest possible current = {current:.0f}", "Use a smaller scale, or see what verify finds"
        allowed = f"{limit}, from where it wraps to the other sign [{profile.name}]"
        yield warning("wrap", op, op_error(op.kind, op.name, what, allowed, todo))
    elif isinstance(op, LIF) and (largest := _largest_weight(graph, op)) > 0:
        steps = max(current, -float(reach.u[0].min())) / largest * WEIGHT_SPAN["mixed"][1]
        if steps > limit >> STATE_SHIFT:
            what = f"largest possible current or negative potential = {steps:.0f} in units of 8-bit weights"
            todo = "Where its samples come that far, quantize takes a smaller scale: the weights use fewer of 8 bits"
            allowed = f"{limit >> STATE_SHIFT} [{profile.name}]"
            yield warning("wrap", op, op_error(op.kind, op.name, what, allowed, todo))


def _saturation(profile: HardwareProfile, graph: SpikingGraph, op: Op, reach: Reach) -> Iterator[Finding]:
    """Potentials that stop at the lowest; at the largest they stop above every threshold, and no spike is another."""
    bits = profile.limits["state_bits"].value
    lowest = float(reach.u[0].min())
    if bits is not None and isinstance(op, LoihiLIF) and lowest < 1 - (1 << (bits - 1)):
        what, todo = f"lowest possible potential = {lowest:.0f}", "Use a smaller scale, or see what verify finds"
        allowed = f"{1 - (1 << (bits - 1))}, where it saturates [{profile.name}]"
        yield warning("saturation", op, op_error(op.kind, op.name, what, allowed, todo))


def _decay_register(profile: HardwareProfile, graph: SpikingGraph, op: Op, reach: Reach) -> Iterator[Finding]:
    """Decays that Lava's models take and no register holds: dv = 4096 forgets all, du = -1 keeps all."""
    if profile.limits["decay_bits"].value is None or not isinstance(op, LoihiLIF):
        return
    unit = 1 << DECAY_SHIFT
    forgets = op.dv.max() == unit and np.abs(reach.u).max() >= unit  # below that, dv = 4095 forgets all too
    for what, used in ((f"dv = {unit}", forgets), ("du = -1", op.du.min() < 0)):
        if used:
            todo = f"The chip has no such register, Lava's CPU models do: there a part in {unit} is left, or lost"
            yield warning("decay", op, op_error(op.kind, op.name, what, f"0..{unit - 1} [{profile.name}]", todo))


def _equality(profile: HardwareProfile, graph: SpikingGraph, op: Op, reach: Reach) -> Iterator[Finding]:
    """Thresholds that a potential can meet exactly, where neurons that fire at >= and above it differ."""
    if not isinstance(op, LIF):
        return
    given, th = op.v_threshold.ravel()[0], op.v_threshold.astype(np.float64)
    above, grid = float(np.nextafter(given, np.float32(np.inf))), _grid(graph, op)
    if _is_short(above) and not _is_short(float(given)):
        what = f"v_threshold = {given:.9g}, the float below {above:g}: it fires at >= {above:g}"
        todo = "Integers have no float below: see what verify finds at this layer once it is quantized"
        yield warning("equality", op, op_error(op.kind, op.name, what, f"u > vth [{profile.name}]", todo))
    elif grid is not None and (met := (th % grid == 0) & (reach.u[1] >= th)).any():
        first = np.broadcast_to(th, met.shape)[met][0]
        what = f"v_threshold = {first:g} is a sum of its weights, multiples of {grid:g}"
        allowed = f"one that no sum meets: u = v_threshold does not fire [{profile.name}]"
        todo = "Take a lower threshold if it was meant to fire there"
        yield warning("equality", op, op_error(op.kind, op.name, what, allowed, todo))


def delays(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """Delayed spikes that wait for longer than the chip's synapses can; the step that each takes is not waited."""
    most = profile.limits["delay_steps"].value
    if most is None or not graph.of_type(Delay):
        return
    try:
        written = as_synapses(fold_pool(fold_batchnorm(graph)))
        depth = depths(written)
    except RmpDeployError:  # what the `lava` check says
        return
    longest: dict[str, int] = {}
    for read in reads_of(written, {name: name for name in depth}):
        if read.source is not None and read.step < 1:
            wait = depth[read.reader] - read.step - depth[read.source]
            for op in written.sources(read.op.inputs[0]):
                if isinstance(op, Delay):  # what is left of it: others beside it may be longer
                    longest[op.name] = max(min(wait, op.steps), longest.get(op.name, 0))
    for op in graph.of_type(Delay):
        if longest.get(op.name, 0) > most:
            what, todo = f"steps that its spikes wait = {longest[op.name]}", "Use a shorter one"
            yield error("delay", op, op_error(op.kind, op.name, what, f"0..{most} [{profile.name}]", todo))


def groups(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """Convolutions of which stock Lava computes zeros, without a word."""
    for op in graph.ops:
        if isinstance(op, Conv2d | LoihiConv2d) and op.groups > WIDEST_GROUPS:
            todo = "This project's import of Lava patches it (converters/lava/compat.py)"
            allowed = f"1..{WIDEST_GROUPS}, beyond which Conv of lava-nc 0.10.0 gives zeros"
            yield warning("groups", op, op_error(op.kind, op.name, f"groups = {op.groups}", allowed, todo))


def fit(profile: HardwareProfile, graph: SpikingGraph) -> Iterator[Finding]:
    """What `rmp-deploy map` says: neurons that no core has room for, more than one chip, relays.

    Nothing where no limit of a core is known: that is not checked (`unknown_limits`).
    """
    if all(profile.limits[name].value is None for name in PER_CORE):
        return
    try:
        found = utilization(graph, profile)
    except RmpDeployError as e:
        if not any(quantizable(profile, graph)):  # which has said why
            yield error("fit", _named(graph, e), e)
        return
    for layer, refusal in excess_errors(found):
        yield Finding("fit", "error", layer, str(refusal))
    if found.chips is not None and found.chips > 1:
        what = f"cores = {found.cores} on {found.chips} chips"
        allowed = f"{found.cores_per_chip} on one [{profile.name}]"
        todo = "See rmp-deploy map for each layer's"
        yield Finding("chips", "warning", None, str(op_error("SpikingGraph", graph.name, what, allowed, todo)))
    if found.relay_neurons:
        what = f"relays = {found.relay_neurons} of {found.neurons} neurons"
        todo = "They hand spikes on a step later, at the cost of cores and energy; shorter branches need fewer"
        allowed = f"0 where all branches are equally deep [{profile.name}]"
        yield Finding("relays", "warning", None, str(op_error("SpikingGraph", graph.name, what, allowed, todo)))


CHIP_CHECKS: tuple[Callable[[HardwareProfile, SpikingGraph], Iterator[Finding]], ...] = (
    quantizable,
    real_input,
    weights,
    decays,
    registers,
    thresholds,
    states,
    delays,
    groups,
    fit,
)


def _named(graph: SpikingGraph, e: RmpDeployError) -> Op | None:
    """The op that an error begins with."""
    return next((op for op in graph.ops if str(e).startswith(f"{op.kind} '{op.name}'")), None)


def _on_chip(graph: SpikingGraph, kind: type[AnyOp]) -> tuple[AnyOp, ...]:
    host = host_ops(graph)
    return tuple(op for op in graph.of_type(kind) if op.name not in host)


def _loihi_synapses(graph: SpikingGraph) -> list[LoihiLinear | LoihiConv2d]:
    return [op for op in graph.ops if isinstance(op, LoihiLinear | LoihiConv2d)]


def _synapses(graph: SpikingGraph, neurons: Op) -> list[Linear | Conv1d | Conv2d]:
    return [op for op in graph.sources(neurons.inputs[0]) if isinstance(op, Linear | Conv1d | Conv2d)]


def _largest_weight(graph: SpikingGraph, neurons: Op) -> float:
    return max((float(np.abs(op.weight).max()) for op in _synapses(graph, neurons)), default=0.0)


def _grid(graph: SpikingGraph, op: LIF) -> float | None:
    """The largest power of 2, not below 2^-8, of which all weights and biases that reach `op` are multiples, if its
    membrane stays on them: it keeps all of it or nothing.
    """
    parameters = [p for s in _synapses(graph, op) for p in (s.weight, s.bias) if p is not None]
    if not parameters or not np.isin(op.decay, (0, 1)).all() or isinstance(op, CubaLIF):
        return None
    for power in range(FINEST_GRID, -1, -1):
        if all((p * 2.0**power == np.rint(p * 2.0**power)).all() for p in parameters):
            continue
        return 2.0 ** -(power + 1) if power < FINEST_GRID else None
    return 1.0


def _is_short(value: float) -> bool:
    """A number that somebody wrote: few digits in base 2 or 10."""
    return value == float(np.float32(f"{value:.4g}")) or value * 256 == round(value * 256)
