"""The digest of a graph stays when it is saved again, and changes with anything that a spike depends on."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.digest import digest

DATA = Path(__file__).parent.parent / "data"


def test_it_is_the_same_in_every_file_of_the_graph(tmp_path, convnet, quantized, images):
    found = set()
    for graph in (convnet(norms=True), quantized(convnet())):
        path = onnx_io.save(graph, tmp_path / "a.onnx")
        again = onnx_io.save(onnx_io.load(path), tmp_path / "b.onnx", golden=images(2))
        known = {digest(g) for g in (graph, onnx_io.load(path), onnx_io.load(again))}
        assert len(known) == 1
        found |= known
    assert len(found) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in found)


def test_it_is_the_same_for_files_of_an_older_version(tmp_path):
    old = onnx_io.load(DATA / "digits-domain1.onnx")
    assert digest(onnx_io.load(onnx_io.save(old, tmp_path / "new.onnx"))) == digest(old)


def test_names_of_the_graph_and_what_its_steps_last_change_no_spike(convnet):
    graph = convnet()
    assert digest(replace(graph, name="other", dt=1e-3, provenance={"by": "another"})) == digest(graph)


def test_every_parameter_of_every_op_counts(convnet, quantized):
    for graph in (convnet(norms=True), quantized(convnet())):
        for op in graph.ops:
            for field in fields(op):
                value = getattr(op, field.name)
                if isinstance(value, np.ndarray):
                    flipped = value.reshape(-1).copy()
                    flipped.view(np.int32)[0] ^= 2  # the last bit that a weight of 8 bits and mixed signs has
                    changed = replace(op, **{field.name: flipped.reshape(value.shape)})
                    ops = tuple(changed if other is op else other for other in graph.ops)
                    assert digest(replace(graph, ops=ops)) != digest(graph), (op.name, field.name)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: replace(g, T=g.T + 1),
        lambda g: replace(g, input=replace(g.input, encoding="time_series")),
        lambda g: replace(g, input=replace(g.input, message_bits=0)),
        lambda g: replace(g, readout=replace(g.readout, rule="sum")),
        lambda g: replace(g, readout=replace(g.readout, value="lif2")),
        lambda g: replace(
            g, ops=tuple(replace(o, dilation=(2, 2), padding=(2, 2)) if o.name == "conv2" else o for o in g.ops)
        ),
    ],
)
def test_input_readout_steps_and_geometry_count(convnet, change):
    assert digest(change(convnet())) != digest(convnet())
