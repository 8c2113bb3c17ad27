"""The ONNX functions of our domain, version 3; docs/file_format.md says what each version means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from rmp_deploy.ir.ops import Reset

DOMAIN = "rmp_deploy"
DOMAIN_VERSION = 3  # our opset: raise it with any change of what a file means, and migrate the older ones
ONNX_OPSET = 21
IR_VERSION = 10  # ONNX's own container version; readable by onnxruntime >= 1.18


def function(
    name: str, inputs: list[str], outputs: list[str], nodes: list[NodeProto], attributes: Sequence[str] = ()
) -> FunctionProto:
    """A function of our domain whose body is `nodes`."""
    opset = [helper.make_opsetid("", ONNX_OPSET)]
    return helper.make_function(DOMAIN, name, inputs, outputs, nodes, opset, list(attributes))


def attribute(out: str, name: str, kind: AttributeProto.AttributeType, value: str) -> NodeProto:
    """A Constant whose value is the function's attribute `name`."""
    node = helper.make_node("Constant", [], [out])
    node.attribute.append(AttributeProto(name=value, ref_attr_name=name, type=kind))
    return node


def constant(name: str, value: float, kind: npt.DTypeLike) -> NodeProto:
    """A Constant of one number."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, kind)))


def cast(x: str, to: TensorProto.DataType, out: str) -> NodeProto:
    return helper.make_node("Cast", [x], [out], to=to)


def _leak(decay: str, state: str, current: str, out: str) -> list[NodeProto]:
    """``out = decay * state + current``"""
    return [
        attribute(f"{decay}_", decay, AttributeProto.TENSOR, "value"),
        helper.make_node("Mul", [f"{decay}_", state], [f"{out}_leaked"]),
        helper.make_node("Add", [f"{out}_leaked", current], [out]),
    ]


def _fire_and_reset(reset: Reset) -> list[NodeProto]:
    """``spikes = u > v_threshold``, then ``v = v_reset where spikes else u`` or ``v = u - v_subtract * spikes``."""
    to = RESET_TO[reset]
    fire = [
        attribute("v_threshold_", "v_threshold", AttributeProto.TENSOR, "value"),
        attribute(f"{to}_", to, AttributeProto.TENSOR, "value"),
        helper.make_node("Greater", ["u", "v_threshold_"], ["fired"]),
        helper.make_node("CastLike", ["fired", "x"], ["spikes"]),
    ]
    if reset == "hard":
        return [*fire, helper.make_node("Where", ["fired", "v_reset_", "u"], ["v"])]
    return [
        *fire,
        helper.make_node("Mul", ["v_subtract_", "spikes"], ["taken"]),
        helper.make_node("Sub", ["u", "taken"], ["v"]),
    ]


RESET_TO: dict[Reset, str] = {"hard": "v_reset", "soft": "v_subtract"}
SUFFIX: dict[Reset, str] = {"hard": "", "soft": "SoftReset"}  # of the function's name: one function per reset


def _lif(reset: Reset) -> FunctionProto:
    """``u = decay * v_prev + x``, then fire and reset; see `rmp_deploy.ir.ops.LIF`."""
    nodes = [*_leak("decay", "v_prev", "x", "u"), *_fire_and_reset(reset)]
    attributes = ("decay", "v_threshold", RESET_TO[reset])
    return function(f"LIF{SUFFIX[reset]}", ["x", "v_prev"], ["spikes", "v", "u"], nodes, attributes)


def _cuba_lif(reset: Reset) -> FunctionProto:
    """``i = current_decay * i_prev + x``, then LIF on i."""
    leaks = [*_leak("current_decay", "i_prev", "x", "i"), *_leak("decay", "v_prev", "i", "u")]
    nodes, attributes = [*leaks, *_fire_and_reset(reset)], ("current_decay", "decay", "v_threshold", RESET_TO[reset])
    inputs, outputs = ["x", "v_prev", "i_prev"], ["spikes", "v", "i", "u"]
    return function(f"CubaLIF{SUFFIX[reset]}", inputs, outputs, nodes, attributes)


def _li() -> FunctionProto:
    """``v = decay * v_prev + x``; the value is v."""
    nodes = [*_leak("decay", "v_prev", "x", "v"), helper.make_node("Identity", ["v"], ["y"])]
    return function("LI", ["x", "v_prev"], ["y", "v"], nodes, ("decay",))


def _sum_pool2d() -> FunctionProto:
    """A convolution of every channel with ones: exact, where AveragePool times its size would round."""
    conv = helper.make_node("Conv", ["x", "ones"], ["y"])
    for name, kind in (("strides", AttributeProto.INTS), ("pads", AttributeProto.INTS), ("group", AttributeProto.INT)):
        conv.attribute.append(AttributeProto(name=name, ref_attr_name=name, type=kind))
    return function("SumPool2d", ["x", "ones"], ["y"], [conv], ("strides", "pads", "group"))


def _delay_read() -> FunctionProto:
    """The oldest of the values that wait: [B, steps, *shape] -> [B, *shape]."""
    nodes = [
        helper.make_node("Constant", [], ["first"], value_int=0),
        helper.make_node("Gather", ["waiting_prev", "first"], ["y"], axis=1),
    ]
    return function("DelayRead", ["waiting_prev"], ["y"], nodes)


def _delay_write() -> FunctionProto:
    """Drop the oldest, append x; a node of its own, since x may depend on what DelayRead gave."""
    nodes = [
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("Constant", [], ["end"], value_ints=[2**31 - 1]),
        helper.make_node("Slice", ["waiting_prev", "one", "end", "one"], ["rest"]),
        helper.make_node("Unsqueeze", ["x", "one"], ["newest"]),
        helper.make_node("Concat", ["rest", "newest"], ["waiting"], axis=1),
    ]
    return function("DelayWrite", ["x", "waiting_prev"], ["waiting"], nodes)


def _spike_count() -> FunctionProto:
    """``n = n_prev + sum of the step's spikes``, [B] int64: exact, where a float32 sum over T would round."""
    nodes = [
        helper.make_node("Flatten", ["spikes"], ["flat"], axis=1),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("ReduceSum", ["flat", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["count"], to=TensorProto.INT64),
        helper.make_node("Add", ["n_prev", "count"], ["n"]),
    ]
    return function("SpikeCount", ["spikes", "n_prev"], ["n"], nodes)


FUNCTIONS: dict[str, Callable[[], FunctionProto]] = {  # by op_type; a file holds those that it uses
    "LIF": partial(_lif, "hard"),
    "LIFSoftReset": partial(_lif, "soft"),
    "CubaLIF": partial(_cuba_lif, "hard"),
    "CubaLIFSoftReset": partial(_cuba_lif, "soft"),
    "LI": _li,
    "SumPool2d": _sum_pool2d,
    "DelayRead": _delay_read,
    "DelayWrite": _delay_write,
    "SpikeCount": _spike_count,
}
