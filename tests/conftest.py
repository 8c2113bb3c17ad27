"""Networks that the tests share. Random numbers come from seeds that the test states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LIF,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    Op,
)
from rmp_deploy.passes.fold_pool import fold_pool


def make_convnet(seed: int = 0, T: int = 4, norms: bool = False, pools: bool = True) -> SpikingGraph:
    """conv-(BN)-LIF-(pool) twice, then linear, with biases everywhere and firing rates well inside 0..1."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    ops, value, c, size = [], "x", 2, 8
    for i, c_out in enumerate((4, 6), start=1):
        ops.append(
            Conv2d(name=f"conv{i}", inputs=(value,), weight=2 * weight(c_out, c, 3, 3), bias=weight(c_out, 1)[:, 0] / 2,
                   padding=(1, 1))
        )  # fmt: skip
        value = f"conv{i}"
        if norms:
            gamma, var = (rng.uniform(0.5, 1.5, c_out).astype(np.float32) for _ in range(2))
            beta, mean = (rng.normal(0.2, 0.2, c_out).astype(np.float32) for _ in range(2))
            ops.append(BatchNorm(name=f"bn{i}", inputs=(value,), gamma=gamma, beta=beta, mean=mean, var=var, eps=1e-5))
            value = f"bn{i}"
        threshold = rng.uniform(0.2, 0.6, (c_out, 1, 1)).astype(np.float32)
        ops.append(LIF(name=f"lif{i}", inputs=(value,), decay=0.25, v_threshold=threshold, v_reset=0.0))
        value, c = f"lif{i}", c_out
        if pools:
            ops.append(AvgPool2d(name=f"pool{i}", inputs=(value,), kernel=(2, 2), stride=(2, 2)))
            value, size = f"pool{i}", size // 2
    ops.append(Flatten(name="flatten", inputs=(value,)))
    ops.append(Linear(name="fc", inputs=("flatten",), weight=weight(5, c * size * size), bias=weight(5, 1)[:, 0]))
    return SpikingGraph(
        name="convnet",
        input=Input("x", (2, 8, 8), "direct"),
        ops=tuple(ops),
        readout=Readout("fc", "mean"),
        T=T,
        provenance={"made by": f"seed {seed}"},
    )


@pytest.fixture
def convnet() -> Callable[..., SpikingGraph]:
    """`make_convnet`, as a fixture because test modules cannot import each other."""
    return make_convnet


@pytest.fixture
def images() -> Callable[..., np.ndarray]:
    """Real-valued samples [n, 2, 8, 8] in 0..1."""
    return lambda n=6, seed=1: np.random.default_rng(seed).random((n, 2, 8, 8), dtype=np.float32)


def make_quantized(graph: SpikingGraph) -> SpikingGraph:
    """A plain 8-bit form of `make_convnet`'s graph: conv1 and lif1 stay on the host, the rest is Loihi's."""
    ops: list[Op] = []
    scale = 0.0  # integers per real unit of the current
    for op in fold_pool(graph).ops:
        if op.name in ("conv1", "lif1") or isinstance(op, Flatten):
            ops.append(op)
        elif isinstance(op, Conv2d | Linear):
            scale = 254 / float(np.abs(op.weight).max())
            weight = 2 * np.rint(op.weight * scale / 2).astype(np.int32)
            geometry = {} if isinstance(op, Linear) else {"stride": op.stride, "padding": op.padding}
            kind = LoihiLinear if isinstance(op, Linear) else LoihiConv2d
            ops.append(kind(name=op.name, inputs=op.inputs, weight=weight, **geometry))
            bias = op.bias
        else:
            mantissa = (bias * scale).reshape(-1, *(1,) * (len(graph.shapes[op.name]) - 1))
            real = {"dv": 4096 * (1 - op.decay), "vth": op.v_threshold * scale - 0.5, "bias_mant": mantissa}
            integers = {what: np.rint(values).astype(np.int32) for what, values in real.items()}
            ops.append(LoihiLIF(name=op.name, inputs=op.inputs, du=4095, bias_exp=6, **integers))
    readout = ops[-1]
    ops.append(Dequantize(name="output_real", inputs=(readout.name,), scale=1 / scale, bias=bias))
    return replace(graph, name=f"{graph.name}-int", ops=tuple(ops), readout=Readout("output_real", graph.readout.rule))


@pytest.fixture
def quantized() -> Callable[[SpikingGraph], SpikingGraph]:
    """`make_quantized`"""
    return make_quantized
