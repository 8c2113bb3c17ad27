"""`Trace`: what a backend saw when it ran a graph, in one layout for all backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Record = Literal["spikes", "v", "u", "readout"]
Layers = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Trace:
    """N samples through one graph, latency removed, so that any two backends' traces compare element by element.

    Attributes:
        backend: who computed it.
        output: the readout, [N, K].
        spikes: per neuron op, bool [N, T, *shape].
        v: per neuron op, the membrane potential after the reset, [N, T, *shape].
        u: per neuron op, the membrane potential that the threshold sees, [N, T, *shape].
        readout: the value that is read out, by its name, at every step [N, T, *shape]; `output` is the rule over it.
    """

    backend: str
    output: npt.NDArray[Any]
    spikes: Layers = field(default_factory=dict)
    v: Layers = field(default_factory=dict)
    u: Layers = field(default_factory=dict)
    readout: Layers = field(default_factory=dict)

    @property
    def n_samples(self) -> int:
        return int(self.output.shape[0])

    def predictions(self) -> npt.NDArray[np.int64]:
        """Class with the largest readout, [N]; the first of equals."""
        winner: npt.NDArray[np.int64] = np.argmax(self.output, axis=1)
        return winner


def concatenate(traces: Sequence[Trace]) -> Trace:
    """Join traces of one backend along the samples."""

    def join(field_name: Record) -> Layers:
        layers: list[Layers] = [getattr(t, field_name) for t in traces]
        return {name: np.concatenate([part[name] for part in layers]) for name in layers[0]}

    return Trace(
        backend=traces[0].backend,
        output=np.concatenate([t.output for t in traces]),
        spikes=join("spikes"),
        v=join("v"),
        u=join("u"),
        readout=join("readout"),
    )
