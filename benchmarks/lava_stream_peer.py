"""What Lava's tutorials do: for every sample build the processes, run them, read the result and stop."""

from __future__ import annotations

import numpy as np

from rmp_deploy.converters.lava.synapse import dense_weight
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LoihiLIF, LoihiLinear


def one_build_per_sample(graph: SpikingGraph, x: np.ndarray) -> np.ndarray:
    """The spikes [N, T, K] of the last layer of a chain of LoihiLinear and LoihiLIF, for spikes `x` [N, T, K_in]."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import Dense
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source
    from lava.proc.lif.process import LIF

    spikes = []
    for sample in x:
        process = Source(data=sample.T.astype(np.int32))
        port, latency = process.s_out, 0
        for op in graph.ops:
            if isinstance(op, LoihiLinear):
                dense = Dense(weights=dense_weight(op.weight, (op.weight.shape[1],)), weight_exp=op.weight_exp)
                port.connect(dense.s_in)
                port, latency = dense.a_out, latency + 1
            elif isinstance(op, LoihiLIF):
                parameters = {name: int(value) for name, value in op.per_neuron.items()}
                lif = LIF(shape=port.shape, **parameters)
                port.connect(lif.a_in)
                port = lif.s_out
        n_steps = graph.T + latency
        sink = Sink(shape=port.shape, buffer=n_steps)
        port.connect(sink.a_in)
        sink.run(condition=RunSteps(num_steps=n_steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        found = sink.data.get()
        sink.stop()
        spikes.append(found[:, latency:].T)
    return np.stack(spikes)
