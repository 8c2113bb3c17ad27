"""The text form of whole graphs against files that people have read: tests/data/text/*.txt.

Written by `to_text` and looked over; where a change of the form is meant, write the file again and look at its diff.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rmp_deploy.ir.graph import Input, Readout, SpikingGraph, to_text
from rmp_deploy.ir.ops import LI, LIF, Add, Concat, Conv1d, Conv2d, CubaLIF, Delay, Flatten, Linear, MaxPool2d

GOLDEN = Path(__file__).parent.parent / "data" / "text"


def conv(name, source, c_in, c_out, kernel=3, **changes):
    given = {"padding": (kernel // 2,) * 2, **changes}
    return Conv2d(name=name, inputs=(source,), weight=np.zeros((c_out, c_in, kernel, kernel)), **given)


def lif(name, source, **changes):
    return LIF(**{"name": name, "inputs": (source,), "decay": 0.25, "v_threshold": 0.5, **changes})


def linear(name, source, n_in, n_out, bias=True):
    return Linear(name=name, inputs=(source,), weight=np.zeros((n_out, n_in)), bias=np.zeros(n_out) if bias else None)


def residual():
    """A stem and a block whose shortcut is a strided convolution."""
    ops = (
        conv("stem", "x", 3, 8, bias=np.zeros(8)),
        lif("lif0", "stem"),
        conv("block.conv1", "lif0", 8, 16, stride=(2, 2)),
        lif("block.lif1", "block.conv1", v_threshold=np.linspace(0.5, 1, 16).reshape(16, 1, 1)),
        conv("block.conv2", "block.lif1", 16, 16),
        conv("block.shortcut", "lif0", 8, 16, kernel=1, stride=(2, 2)),
        Add(name="block.add", inputs=("block.conv2", "block.shortcut")),
        lif("block.lif2", "block.add", reset="soft"),
        MaxPool2d(name="pool", inputs=("block.lif2",), kernel=(2, 2), stride=(2, 2)),
        Flatten(name="flatten", inputs=("pool",)),
        linear("fc", "flatten", 16 * 4 * 4, 10),
    )
    return SpikingGraph("residual", Input("x", (3, 16, 16), "direct"), ops, Readout("fc", "mean"), T=4)


def recurrent():
    """A layer that hears itself one step later, its spikes also three steps later, and a readout that integrates."""
    ops = (
        linear("w", "x", 20, 8),
        Delay(name="before", inputs=("hidden",), steps=1, shape=(8,)),
        linear("own", "before", 8, 8, bias=False),
        Add(name="current", inputs=("w", "own")),
        CubaLIF(name="hidden", inputs=("current",), current_decay=0.75, decay=0.875, v_threshold=1.0, v_reset=-0.5),
        Delay(name="late", inputs=("hidden",), steps=3, shape=(8,)),
        Concat(name="both", inputs=("hidden", "late")),
        linear("out", "both", 16, 4),
        LI(name="v", inputs=("out",), decay=np.array([0.5, 0.625, 0.75, 0.875])),
    )
    return SpikingGraph("recurrent", Input("x", (20,), "time_series"), ops, Readout("v", "last"), T=100, dt=1e-3)


def grouped():
    """Depthwise and pointwise along one axis, dilated."""
    ops = (
        Conv1d(name="depthwise", inputs=("x",), weight=np.zeros((6, 1, 5)), groups=6, padding=(4,), dilation=(2,)),
        lif("lif1", "depthwise", decay=1.0, v_threshold=1.0, reset="soft", v_subtract=0.75),
        Conv1d(name="pointwise", inputs=("lif1",), weight=np.zeros((4, 3, 1)), bias=np.zeros(4), groups=2, stride=(2,)),
        lif("lif2", "pointwise"),
    )
    return SpikingGraph("grouped", Input("x", (6, 64), "time_series"), ops, Readout("lif2", "sum"), T=16, dt=5e-4)


@pytest.mark.parametrize("make", [residual, recurrent, grouped])
def test_the_text_form_is_the_golden_one(make):
    assert to_text(make()) == (GOLDEN / f"{make.__name__}.txt").read_text("utf-8")
