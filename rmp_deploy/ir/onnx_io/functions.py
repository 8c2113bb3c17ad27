"""The ONNX functions of our domain, version 1; docs/file_format.md says what each version means."""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

DOMAIN = "rmp_deploy"
DOMAIN_VERSION = 1  # our opset: raise it with any change of what a file means, and migrate the older ones
ONNX_OPSET = 21
IR_VERSION = 10  # ONNX's own container version; readable by onnxruntime >= 1.18


def _attribute(out: str, name: str, kind: AttributeProto.AttributeType, value: str) -> NodeProto:
    """A Constant whose value is the function's attribute `name`."""
    node = helper.make_node("Constant", [], [out])
    node.attribute.append(AttributeProto(name=value, ref_attr_name=name, type=kind))
    return node


def lif_function() -> FunctionProto:
    """``u = decay * v_prev + x; spikes = u > v_threshold; v = reset(u)``, see `rmp_deploy.ir.ops.LIF`."""
    tensor, string = AttributeProto.TENSOR, AttributeProto.STRING
    nodes = [
        _attribute("decay_", "decay", tensor, "value"),
        _attribute("v_threshold_", "v_threshold", tensor, "value"),
        _attribute("v_reset_", "v_reset", tensor, "value"),
        _attribute("reset_", "reset", string, "value_string"),
        helper.make_node("Constant", [], ["soft"], value_string="soft"),
        helper.make_node("Mul", ["decay_", "v_prev"], ["leaked"]),
        helper.make_node("Add", ["leaked", "x"], ["u"]),
        helper.make_node("Greater", ["u", "v_threshold_"], ["fired"]),
        helper.make_node("CastLike", ["fired", "x"], ["spikes"]),
        helper.make_node("Sub", ["u", "v_threshold_"], ["v_soft"]),
        helper.make_node("Equal", ["reset_", "soft"], ["is_soft"]),
        helper.make_node("Where", ["is_soft", "v_soft", "v_reset_"], ["v_fired"]),
        helper.make_node("Where", ["fired", "v_fired", "u"], ["v"]),
    ]
    attributes = ["decay", "v_threshold", "v_reset", "reset"]
    opset = [helper.make_opsetid("", ONNX_OPSET)]
    return helper.make_function(DOMAIN, "LIF", ["x", "v_prev"], ["spikes", "v", "u"], nodes, opset, attributes)


def spike_count_function() -> FunctionProto:
    """``n = n_prev + sum of the step's spikes``, [B] int64: exact, where a float32 sum over T would round."""
    nodes = [
        helper.make_node("Flatten", ["spikes"], ["flat"], axis=1),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("ReduceSum", ["flat", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["count"], to=TensorProto.INT64),
        helper.make_node("Add", ["n_prev", "count"], ["n"]),
    ]
    opset = [helper.make_opsetid("", ONNX_OPSET)]
    return helper.make_function(DOMAIN, "SpikeCount", ["spikes", "n_prev"], ["n"], nodes, opset)
