"""Loihi's integer ops as ONNX functions of standard ops, and their nodes in both directions.

Between ops an integer is a float32, which holds every value that a graph allows (below 2^23) exactly; the states of
the neurons are int32. The file keeps weights as the 8 bits that Loihi's synapses hold, with their scale beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.onnx_io.functions import DOMAIN, attribute, cast, constant, function
from rmp_deploy.ir.ops import LoihiConv2d, LoihiLIF, LoihiLinear, Op
from rmp_deploy.ir.ops.loihi import STATE_SHIFT, SignMode
from rmp_deploy.ir.reference_loihi import DECAY_SHIFT, STATE_LIMIT

FLOAT, DOUBLE, INT32, UINT8 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.UINT8
UNIT: dict[SignMode, int] = {"mixed": 2, "excitatory": 1, "inhibitory": -1}  # of the weight in the file
SYNAPSE_ATTRIBUTES = ("weight_exp", "num_weight_bits", "sign_mode")


def _decayed(state: str, decay: str, unity: str, out: str) -> list[NodeProto]:
    """``out = state * (unity - decay) / 4096``, truncated toward zero: the product is exact in float64."""
    return [
        attribute(f"{decay}_", decay, AttributeProto.TENSOR, "value"),
        cast(f"{decay}_", DOUBLE, f"{decay}_double"),
        helper.make_node("Sub", [unity, f"{decay}_double"], [f"{decay}_kept"]),
        helper.make_node("Div", [f"{decay}_kept", "decay_unity"], [f"{decay}_factor"]),
        cast(f"{state}_prev", DOUBLE, f"{state}_double"),
        helper.make_node("Mul", [f"{state}_double", f"{decay}_factor"], [f"{out}_double"]),
        cast(f"{out}_double", INT32, out),
    ]


def _lif() -> FunctionProto:
    """One step of `rmp_deploy.ir.ops.LoihiLIF`."""
    node = helper.make_node
    unity = 1 << DECAY_SHIFT
    nodes = [
        constant("decay_unity", unity, np.float64),
        constant("decay_unity_of_i", unity - 1, np.float64),  # du decays by one more than it says
        constant("align", 1 << STATE_SHIFT, np.int32),
        constant("wrap", 2 * STATE_LIMIT, np.int32),
        constant("highest_i", STATE_LIMIT, np.int32),
        constant("below_lowest_i", -STATE_LIMIT, np.int32),
        constant("lowest_u", 1 - STATE_LIMIT, np.int32),
        constant("highest_u", STATE_LIMIT - 1, np.int32),
        constant("zero", 0, np.int32),
        constant("two", 2, np.float64),
        *_decayed("i", "du", "decay_unity_of_i", "i_decayed"),
        cast("x", INT32, "x_int"),
        node("Mul", ["x_int", "align"], ["arriving"]),
        node("Add", ["i_decayed", "arriving"], ["i_sum"]),
        node("Greater", ["i_sum", "highest_i"], ["over"]),
        node("LessOrEqual", ["i_sum", "below_lowest_i"], ["under"]),
        node("Sub", ["i_sum", "wrap"], ["i_less"]),
        node("Add", ["i_sum", "wrap"], ["i_more"]),
        node("Where", ["under", "i_more", "i_sum"], ["i_raised"]),
        node("Where", ["over", "i_less", "i_raised"], ["i"]),
        *_decayed("v", "dv", "decay_unity", "v_decayed"),
        attribute("bias_mant_", "bias_mant", AttributeProto.TENSOR, "value"),
        attribute("bias_exp_", "bias_exp", AttributeProto.TENSOR, "value"),
        cast("bias_exp_", DOUBLE, "bias_exp_double"),
        node("Pow", ["two", "bias_exp_double"], ["bias_unit_double"]),
        cast("bias_unit_double", INT32, "bias_unit"),
        node("Mul", ["bias_mant_", "bias_unit"], ["bias"]),
        node("Add", ["i", "bias"], ["driven"]),
        node("Add", ["v_decayed", "driven"], ["u_sum"]),
        node("Clip", ["u_sum", "lowest_u", "highest_u"], ["u"]),
        attribute("vth_", "vth", AttributeProto.TENSOR, "value"),
        node("Mul", ["vth_", "align"], ["threshold"]),
        node("Greater", ["u", "threshold"], ["fired"]),
        node("CastLike", ["fired", "x"], ["spikes"]),
        node("Where", ["fired", "zero", "u"], ["v"]),
    ]
    parameters = ("du", "dv", "vth", "bias_mant", "bias_exp")
    return function("LoihiLIF", ["x", "v_prev", "i_prev"], ["spikes", "v", "i", "u"], nodes, parameters)


def _shifted(total: str) -> list[NodeProto]:
    """``y = floor(total * scale)``: the scale is a power of two, so the shift is exact."""
    return [
        attribute("scale_", "scale", AttributeProto.FLOAT, "value_float"),
        helper.make_node("Mul", [total, "scale_"], ["scaled"]),
        helper.make_node("Floor", ["scaled"], ["y"]),
    ]


def _linear() -> FunctionProto:
    """`LoihiLinear` on spikes, in 8-bit integers; weight (N_in, N_out)."""
    nodes = [
        cast("x", UINT8, "spikes"),
        helper.make_node("MatMulInteger", ["spikes", "weight"], ["total_int"]),
        cast("total_int", FLOAT, "total"),
        *_shifted("total"),
    ]
    return function("LoihiLinear", ["x", "weight"], ["y"], nodes, ("scale", *SYNAPSE_ATTRIBUTES))


def _linear_graded() -> FunctionProto:
    """`LoihiLinear` on other integers: products and sums are exact in float32, since every sum is below 2^23."""
    nodes = [
        cast("weight", FLOAT, "weight_float"),
        helper.make_node("MatMul", ["x", "weight_float"], ["total"]),
        *_shifted("total"),
    ]
    return function("LoihiLinearGraded", ["x", "weight"], ["y"], nodes, ("scale", *SYNAPSE_ATTRIBUTES))


def _conv2d() -> FunctionProto:
    """`LoihiConv2d`, exact in float32 as `LoihiLinearGraded`; ConvInteger lacks int8 kernels in ONNX Runtime."""
    conv = helper.make_node("Conv", ["x", "weight_float"], ["total"])
    for name, kind in GEOMETRY.items():
        conv.attribute.append(AttributeProto(name=name, ref_attr_name=name, type=kind))
    nodes = [cast("weight", FLOAT, "weight_float"), conv, *_shifted("total")]
    return function("LoihiConv2d", ["x", "weight"], ["y"], nodes, (*GEOMETRY, "scale", *SYNAPSE_ATTRIBUTES))


GEOMETRY = {
    "strides": AttributeProto.INTS,
    "pads": AttributeProto.INTS,
    "dilations": AttributeProto.INTS,
    "group": AttributeProto.INT,
}
FUNCTIONS: dict[str, Callable[[], FunctionProto]] = {
    "LoihiLIF": _lif,
    "LoihiLinear": _linear,
    "LoihiLinearGraded": _linear_graded,
    "LoihiConv2d": _conv2d,
}


def stored(op: LoihiLinear | LoihiConv2d) -> npt.NDArray[Any]:
    """The weight as 8 bits: in units of 2 as int8 with mixed signs, else its magnitude as uint8; (N_in, N_out)."""
    units = op.weight // UNIT[op.sign_mode]
    in_order = units.T if isinstance(op, LoihiLinear) else units
    return np.ascontiguousarray(in_order, dtype=np.int8 if op.sign_mode == "mixed" else np.uint8)


def _lif_node(_graph: SpikingGraph, op: LoihiLIF) -> NodeProto:
    n = op.name
    inputs, outputs = [*op.inputs, f"{n}/v_prev", f"{n}/i_prev"], [n, f"{n}/v", f"{n}/i", f"{n}/u"]
    parameters: dict[str, Any] = {k: numpy_helper.from_array(v, k) for k, v in op.per_neuron.items()}
    return helper.make_node("LoihiLIF", inputs, outputs, name=n, domain=DOMAIN, **parameters)


def _synapse_node(op: LoihiLinear | LoihiConv2d, kind: str, **geometry: Any) -> NodeProto:
    options = {name: getattr(op, name) for name in SYNAPSE_ATTRIBUTES}
    scale = float(UNIT[op.sign_mode] * 2.0**op.weight_exp)
    inputs = [*op.inputs, f"{op.name}/weight"]
    return helper.make_node(kind, inputs, [op.name], name=op.name, domain=DOMAIN, scale=scale, **options, **geometry)


def _linear_node(graph: SpikingGraph, op: LoihiLinear) -> NodeProto:
    return _synapse_node(op, "LoihiLinear" if graph.is_spikes(op.inputs[0]) else "LoihiLinearGraded")


def _conv2d_node(_graph: SpikingGraph, op: LoihiConv2d) -> NodeProto:
    pads = [*op.padding, *op.padding]
    return _synapse_node(op, "LoihiConv2d", strides=op.stride, pads=pads, dilations=op.dilation, group=op.groups)


WRITERS: dict[type[Op], Callable[[SpikingGraph, Any], NodeProto]] = {
    LoihiLIF: _lif_node,
    LoihiLinear: _linear_node,
    LoihiConv2d: _conv2d_node,
}
