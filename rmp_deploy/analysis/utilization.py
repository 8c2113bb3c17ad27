"""How much of a chip a placed network takes: numbers for `rmp-deploy map` and `check`, no formatting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Shape
from rmp_deploy.passes.place import MEMORY_LIMIT, NEURON_LIMIT, PER_CORE, SYNAPSE_LIMIT, Excess, Layer, place

WHAT_TO_DO: dict[str, str] = {  # for a neuron that needs more than a core has
    "input_axons_per_core": "Use fewer channels, a smaller kernel, groups, or a smaller pool before it (a pool folds "
    "into the synapse behind it)",
    "output_axons_per_core": "Use fewer channels in the layers that read it, or groups",
    "synapse_memory_per_core": "Use fewer synapses per neuron or fewer bits per weight",
    "synapses_per_core": "Use fewer synapses per neuron",
}


@dataclass(frozen=True)
class Use:
    """What the fullest core of a layer holds of one limit; `share` of it [1], None where the limit is unknown."""

    largest: int
    limit: int | None
    share: float | None


@dataclass(frozen=True)
class LayerUse:
    """One row of the table; `use` by the name of the limit, `fill` [1] of each core by its tightest known limit."""

    layer: str
    op: str
    kind: str
    synapses: tuple[str, ...]
    shape: Shape
    block: Shape
    neurons: int
    cores: int
    n_synapses: int
    memory_bytes: int
    kernel_bytes: int
    use: Mapping[str, Use]
    fill: tuple[float, ...]


@dataclass(frozen=True)
class Utilization:
    """What a network takes of the chip that `profile` describes.

    Attributes:
        profile: its name.
        fits: no neuron needs more than a core has, of the limits that are known.
        layers: in order; their cores are numbered in this order, and no core holds two layers.
        host: ops that stay on the host.
        cores, cores_per_chip, chips: cores of all layers; chips is None where the profile does not know a chip's cores.
        neurons, relay_neurons: of all layers, and of those that `balance_latency` added.
        n_synapses, memory_bytes: synapses of all layers, each stored on its own, and the memory of their weights.
        kernel_bytes: that memory if every core stored the kernel of a convolution once.
        assumed_bits: of each weight, where the network is real-valued; None where its weights state their bits.
        excesses: what does not fit.
        unknown: limits that were not checked because the profile does not know them, and why it does not.
    """

    profile: str
    fits: bool
    layers: tuple[LayerUse, ...]
    host: tuple[str, ...]
    cores: int
    cores_per_chip: int | None
    chips: int | None
    neurons: int
    relay_neurons: int
    n_synapses: int
    memory_bytes: int
    kernel_bytes: int
    assumed_bits: int | None
    excesses: tuple[Excess, ...]
    unknown: Mapping[str, str]


def utilization(graph: SpikingGraph, profile: HardwareProfile) -> Utilization:
    """Place `graph` on the chip of `profile` (`passes.place`) and add up what it takes.

    Raises:
        RmpDeployError: as `passes.place`; the profile knows no limit of a core.
    """
    limits = {name: limit.value for name, limit in profile.limits.items()}
    if all(limits[name] is None for name in PER_CORE):
        what, allowed = "limits of a core = none", f"one or more of {', '.join(PER_CORE)}"
        raise RmpDeployError(f"profile '{profile.name}': {what}, allowed {allowed}. Use the profile of a chip.")
    placed = place(graph, limits)
    rows = tuple(_row(layer, limits) for layer in placed.layers)
    cores, per_chip = sum(row.cores for row in rows), limits["cores"]
    return Utilization(
        profile=profile.name,
        fits=not placed.excesses,
        layers=rows,
        host=placed.host,
        cores=cores,
        cores_per_chip=per_chip,
        chips=None if per_chip is None else -(-cores // per_chip),
        neurons=sum(row.neurons for row in rows),
        relay_neurons=sum(row.neurons for row in rows if row.kind == "relay"),
        n_synapses=sum(row.n_synapses for row in rows),
        memory_bytes=sum(row.memory_bytes for row in rows),
        kernel_bytes=sum(row.kernel_bytes for row in rows),
        assumed_bits=placed.assumed_bits,
        excesses=placed.excesses,
        unknown={name: profile.limits[name].why for name in ("cores", *PER_CORE) if limits[name] is None},
    )


def excess_errors(found: Utilization) -> list[tuple[str, RmpDeployError]]:
    """What does not fit, each with its layer: one line that names the op, the value and the limit."""
    return [
        (
            e.layer,
            op_error(
                e.op,
                e.layer,
                f"{e.limit.removesuffix('_per_core').replace('_', ' ')} of one neuron = {e.value}",
                f"{e.allowed} per core [{found.profile}]",
                WHAT_TO_DO.get(e.limit, "Use a chip with larger cores"),
            ),
        )
        for e in found.excesses
    ]


def _row(layer: Layer, limits: Mapping[str, int | None]) -> LayerUse:
    use, fill = {}, np.zeros(layer.cores)
    for name in PER_CORE:
        largest, limit = int(layer.used[name].max()), limits[name]
        use[name] = Use(largest, limit, None if limit is None else largest / limit)
        if limit is not None:
            fill = np.maximum(fill, layer.used[name] / limit)
    return LayerUse(
        layer=layer.name,
        op=layer.op,
        kind=layer.kind,
        synapses=layer.synapses,
        shape=layer.shape,
        block=layer.tile,
        neurons=int(layer.used[NEURON_LIMIT].sum()),
        cores=layer.cores,
        n_synapses=int(layer.used[SYNAPSE_LIMIT].sum()),
        memory_bytes=int(layer.used[MEMORY_LIMIT].sum()),
        kernel_bytes=layer.kernel_bytes,
        use=use,
        fill=tuple(round(float(share), 4) for share in fill),
    )
