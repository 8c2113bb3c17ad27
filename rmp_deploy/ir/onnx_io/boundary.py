"""`Quantize` and `Dequantize` as ONNX functions of standard ops, and their nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.onnx_io.functions import DOMAIN, attribute, cast, constant, function
from rmp_deploy.ir.ops import Dequantize, Op, Quantize


def _quantize() -> FunctionProto:
    """In double, where the product is exact; ONNX's Round gives a half to its even neighbour."""
    node = helper.make_node
    nodes = [
        attribute("scale_", "scale", AttributeProto.TENSOR, "value"),
        cast("scale_", TensorProto.DOUBLE, "scale_double"),
        cast("x", TensorProto.DOUBLE, "x_double"),
        node("Mul", ["x_double", "scale_double"], ["scaled"]),
        node("Round", ["scaled"], ["rounded"]),
        constant("one", 1, np.float64),
        constant("two", 2, np.float64),
        attribute("message_bits_", "message_bits", AttributeProto.INT, "value_int"),
        cast("message_bits_", TensorProto.DOUBLE, "message_bits_double"),
        node("Pow", ["two", "message_bits_double"], ["beyond"]),
        node("Sub", ["beyond", "one"], ["highest"]),
        node("Neg", ["highest"], ["lowest"]),
        node("Clip", ["rounded", "lowest", "highest"], ["clipped"]),
        cast("clipped", TensorProto.FLOAT, "y"),
    ]
    return function("Quantize", ["x"], ["y"], nodes, ("scale", "message_bits"))


def _dequantize() -> FunctionProto:
    """``y = scale * x + bias``"""
    nodes = [
        attribute("scale_", "scale", AttributeProto.TENSOR, "value"),
        helper.make_node("Mul", ["x", "scale_"], ["scaled"]),
        attribute("bias_", "bias", AttributeProto.TENSOR, "value"),
        helper.make_node("Add", ["scaled", "bias_"], ["y"]),
    ]
    return function("Dequantize", ["x"], ["y"], nodes, ("scale", "bias"))


FUNCTIONS: dict[str, Callable[[], FunctionProto]] = {"Quantize": _quantize, "Dequantize": _dequantize}


def _quantize_node(_graph: SpikingGraph, op: Quantize) -> NodeProto:
    return _node(op, scale=numpy_helper.from_array(op.scale, "scale"), message_bits=op.message_bits)


def _dequantize_node(_graph: SpikingGraph, op: Dequantize) -> NodeProto:
    return _node(op, **{key: numpy_helper.from_array(getattr(op, key), key) for key in ("scale", "bias")})


def _node(op: Op, **attributes: Any) -> NodeProto:
    return helper.make_node(op.kind, [*op.inputs], [op.name], name=op.name, domain=DOMAIN, **attributes)


WRITERS: dict[type[Op], Callable[[SpikingGraph, Any], NodeProto]] = {
    Quantize: _quantize_node,
    Dequantize: _dequantize_node,
}
