"""Real Lava runs against the NumPy reference, element by element; nothing of Lava is replaced by a stand-in."""

import importlib.metadata
import importlib.util
import logging
import multiprocessing
import subprocess
import sys
import sysconfig
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy.backends import lava, lava_runtime
from rmp_deploy.converters.lava import compat
from rmp_deploy.converters.lava.synapse import conv_weight
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")
RESET_TO_0 = np.zeros(())


@pytest.fixture(scope="module", autouse=True)
def _lava_imported():
    compat.import_lava()  # tests that look into Lava import it by name


def neurons(name, source, decay=0.25, v_threshold=0.5, **kwargs):
    kwargs = {"v_reset": RESET_TO_0, **kwargs}
    return LIF(name=name, inputs=(source,), decay=np.asarray(decay), v_threshold=np.asarray(v_threshold), **kwargs)


def network(ops, shape, T=4, encoding="direct", readout=None, rule="mean"):
    return SpikingGraph("net", Input("x", shape, encoding), tuple(ops), Readout(readout or ops[-1].name, rule), T)


def conv_net(rng, T):
    """Two biased convolutions of random geometry on a map that is not square, flatten, neurons, linear readout."""

    def convolution(name, source, shape, c_out, groups):
        kernel = rng.integers(1, 4, 2)
        return Conv2d(
            name=name,
            inputs=(source,),
            weight=rng.normal(size=(c_out, shape[0] // groups, *kernel)) * 0.6,
            bias=rng.normal(size=c_out) * 0.3,
            stride=tuple(map(int, rng.integers(1, 3, 2))),
            padding=tuple(map(int, rng.integers(0, 3, 2))),
            dilation=tuple(map(int, rng.integers(1, 3, 2))),
            groups=groups,
        )

    shape = (2, 9, 7)
    conv1 = convolution("conv1", "x", shape, 4, 1)
    map1 = conv1.output_shape(shape)
    conv2 = convolution("conv2", "lif1", map1, 6, 2)
    map2 = conv2.output_shape(map1)
    n = int(np.prod(map2))
    return network(
        [
            conv1,
            neurons("lif1", "conv1", decay=rng.random((4, 1, 1)), v_threshold=rng.random(map1)),
            conv2,
            neurons("lif2", "conv2", decay=rng.random(map2), v_threshold=rng.random((6, 1, 1))),
            Flatten(name="flat", inputs=("lif2",)),
            Linear(name="fc1", inputs=("flat",), weight=rng.normal(size=(5, n)) * 0.3, bias=rng.normal(size=5) * 0.3),
            neurons("lif3", "fc1", decay=1.0, v_threshold=rng.random(5)),
            Linear(name="out", inputs=("lif3",), weight=rng.normal(size=(3, 5)), bias=rng.normal(size=3)),
        ],
        shape,
        T,
    )


def assert_same(ours, theirs, neuron_ops):
    """Every spike equal, every membrane potential within float rounding."""
    assert list(ours.spikes) == list(ours.v) == list(theirs.spikes) == [op.name for op in neuron_ops]
    for name in theirs.spikes:
        assert ours.spikes[name].dtype == np.bool_
        np.testing.assert_array_equal(ours.spikes[name], theirs.spikes[name], err_msg=name)
        np.testing.assert_allclose(ours.v[name], theirs.v[name], rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(ours.output, theirs.output, rtol=0, atol=1e-12)


def compare(graph, x):
    ours = lava.run(graph, x, ("spikes", "v"))
    theirs = reference.run(graph, x, ("spikes", "v"))
    assert_same(ours, theirs, graph.of_type(LIF))
    return ours


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_random_conv_net_equals_reference(seed, T):
    rng = np.random.default_rng(seed)
    graph = conv_net(rng, T)
    trace = compare(graph, rng.random((5, 2, 9, 7), dtype=np.float32))
    rates = [spikes.mean() for spikes in trace.spikes.values()]
    assert all(0.05 < rate < 0.95 for rate in rates), "a silent or saturated layer proves nothing"
    assert trace.output.shape == (5, 3)
    assert trace.spikes["lif1"].shape == (5, T, *graph.shapes["lif1"])


def test_samples_do_not_see_each_other():
    rng = np.random.default_rng(7)
    graph = conv_net(rng, T=3)
    x = rng.normal(size=(4, 2, 9, 7))
    together = lava.run(graph, x, ("spikes", "v"))
    for i in range(len(x)):
        alone = lava.run(graph, x[i : i + 1], ("spikes", "v"))
        for name in together.v:
            np.testing.assert_array_equal(together.spikes[name][i], alone.spikes[name][0])
            np.testing.assert_array_equal(together.v[name][i], alone.v[name][0])
        np.testing.assert_array_equal(together.output[i], alone.output[0])


@pytest.mark.parametrize("rule", ["mean", "sum", "last"])
def test_time_series_of_spikes_with_spiking_readout(rule):
    rng = np.random.default_rng(1)
    ops = [
        Linear(name="fc1", inputs=("x",), weight=rng.normal(size=(8, 6)), bias=rng.normal(size=8) * 0.2),
        neurons("lif1", "fc1", decay=rng.random(8)),
        Linear(name="fc2", inputs=("lif1",), weight=rng.normal(size=(4, 8))),
        neurons("lif2", "fc2", decay=0.9, v_threshold=0.8),
    ]
    graph = network(ops, (6,), T=5, encoding="time_series", rule=rule)
    compare(graph, rng.integers(0, 2, (7, 5, 6), dtype=np.uint8))


def test_real_valued_input_arrives_unchanged():
    """Lava's default of 0 message bits would make 1 of 3.25 and of -1."""
    x = np.array([[3.25, -1.0], [1e-7, 0.0], [300.0, -0.125]])
    ops = [Linear(name="identity", inputs=("x",), weight=np.eye(2)), neurons("lif", "identity")]
    np.testing.assert_array_equal(lava.run(network(ops, (2,), readout="identity", rule="last"), x).output, x)
    ops = [Conv2d(name="identity", inputs=("x",), weight=np.ones((1, 1, 1, 1))), neurons("lif", "identity")]
    x = x.reshape(1, 1, 3, 2)
    graph = network(ops, (1, 3, 2), T=2, readout="identity", rule="sum")
    np.testing.assert_array_equal(lava.run(graph, x).output, 2 * x.reshape(1, -1))


def test_branches_dead_ends_and_flat_neurons():
    """One value with several readers; neurons behind a Flatten; a synapse and neurons that nobody reads."""
    rng = np.random.default_rng(3)
    ops = [
        Conv2d(name="conv", inputs=("x",), weight=rng.normal(size=(3, 1, 2, 2)), bias=rng.normal(size=3) * 0.3),
        Flatten(name="flat", inputs=("conv",)),
        neurons("flat_lif", "flat", decay=rng.random(24), v_threshold=rng.random(24)),
        neurons("map_lif", "conv", decay=0.5),
        Flatten(name="twice", inputs=("map_lif",)),
        Linear(name="a", inputs=("twice",), weight=rng.normal(size=(4, 24)) * 0.4, bias=rng.normal(size=4)),
        Linear(name="b", inputs=("twice",), weight=rng.normal(size=(2, 24)) * 0.4),
        Linear(name="c", inputs=("flat_lif",), weight=rng.normal(size=(5, 24)) * 0.4),
        neurons("a_lif", "a"),
        neurons("c_lif", "c"),
        Linear(name="d", inputs=("a_lif",), weight=rng.normal(size=(2, 4)), bias=np.array([1.0, -1.0])),
    ]
    for readout in ("d", "b", "flat", "flat_lif", "x"):
        graph = network(ops, (1, 5, 3), readout=readout, rule="sum")
        compare(graph, rng.normal(size=(3, 1, 5, 3)))


def test_average_pool_is_folded_first():
    rng = np.random.default_rng(4)
    ops = [
        Conv2d(name="conv", inputs=("x",), weight=rng.normal(size=(3, 1, 3, 3)), padding=(1, 1)),
        neurons("lif1", "conv"),
        AvgPool2d(name="pool", inputs=("lif1",), kernel=(2, 2), stride=(2, 2)),
        Flatten(name="flat", inputs=("pool",)),
        Linear(name="fc", inputs=("flat",), weight=rng.normal(size=(4, 18)), bias=rng.normal(size=4)),
        neurons("lif2", "fc"),
    ]
    compare(network(ops, (1, 6, 4)), rng.normal(size=(2, 1, 6, 4)))


def test_sizes_and_groups_from_128_on():
    """Unpatched, Lava keeps the geometry in int8: silent zeros from 128 groups on, OverflowError with NumPy 2."""
    rng = np.random.default_rng(5)
    ops = [
        Conv2d(
            name="conv",
            inputs=("x",),
            weight=rng.normal(size=(130, 1, 1, 140)) * 0.2,
            padding=(0, 135),
            stride=(1, 129),
            groups=130,
        ),
        neurons("lif", "conv"),
    ]
    trace = compare(network(ops, (130, 1, 3), T=2), rng.random((1, 130, 1, 3)))
    assert trace.spikes["lif"].any()


def a_linear(name, source, n_out, n_in):
    return Linear(name=name, inputs=(source,), weight=np.ones((n_out, n_in)))


REFUSED = {
    "soft reset": (
        [a_linear("fc", "x", 2, 3), neurons("n", "fc", reset="soft")],
        "LIF 'n': reset = 'soft', allowed 'hard' [lava]. ",
    ),
    "reset to another value": (
        [a_linear("fc", "x", 2, 3), neurons("n", "fc", v_reset=np.array([0, -0.5]))],
        "LIF 'n': v_reset = -0.5, allowed 0 [lava]. ",
    ),
    "synapse after synapse": (
        [a_linear("fc", "x", 2, 3), a_linear("fc2", "fc", 2, 2), neurons("n", "fc2")],
        "Linear 'fc2': input = Linear 'fc', allowed spikes or the input [lava]. ",
    ),
    "batch norm": (
        [
            a_linear("fc", "x", 2, 3),
            BatchNorm(
                name="bn", inputs=("fc",), gamma=np.ones(2), beta=np.ones(2), mean=np.ones(2), var=np.ones(2), eps=1e-5
            ),
            neurons("n", "bn"),
        ],
        "BatchNorm 'bn': op = BatchNorm, allowed Conv1d, Conv2d, Linear, LoihiConv2d, LoihiLinear, LIF, CubaLIF, LI, "
        "LoihiLIF, Add, Concat, Delay, Flatten, MaxPool2d, Quantize, Dequantize [lava]. Apply passes.fold_batchnorm",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_before_anything_is_built(case):
    ops, message = REFUSED[case]
    with pytest.raises(RmpDeployError) as error:
        lava.run(network(ops, (3,)), np.ones((1, 3)))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_refuses_u_and_samples_that_do_not_fit():
    graph = network([a_linear("fc", "x", 2, 3), neurons("n", "fc")], (3,))
    with pytest.raises(RmpDeployError, match=r"backend 'lava': record = 'u', allowed spikes, v, readout\. .*reference"):
        lava.run(graph, np.ones((1, 3)), ("spikes", "u"))
    with pytest.raises(RmpDeployError, match=r"shape = \(1, 4\), allowed \(N, 3\)"):
        lava.run(graph, np.ones((1, 4)))


@pytest.fixture
def small():
    graph = network([a_linear("fc", "x", 2, 3), neurons("n", "fc"), a_linear("out", "n", 2, 2)], (3,))
    return graph, np.random.default_rng(6).random((2, 3))


def test_a_run_leaves_nothing_behind(small):
    from lava.magma.core.process.process import ProcessServer
    from lava.magma.core.process.variable import VarServer

    def state():
        kept = len(ProcessServer().processes), len(VarServer().vars)
        return kept, list(logging.getLogger().handlers), threading.active_count(), multiprocessing.active_children()

    lava.run(*small)
    before = state()
    assert before[-1] == []
    lava.run(*small, record=("spikes", "v"))
    assert state() == before


def test_a_killed_process_is_an_error_not_a_hang(small, monkeypatch):
    wait = lava_runtime._wait

    def kill_and_wait(runtime, progress, patience):
        runtime._messaging_infrastructure.actors[progress.names.index("n")].kill()
        wait(runtime, progress, patience)

    graph, x = small
    with monkeypatch.context() as patch:
        patch.setattr(lava_runtime, "_wait", kill_and_wait)
        with pytest.raises(RmpDeployError, match=r"^Lava process 'n': exit code -9, allowed a run to its last step\. "):
            lava.run(graph, np.repeat(x, 500, axis=0))
    assert multiprocessing.active_children() == []
    compare(graph, x)


def test_an_exception_in_a_process_is_an_error_not_a_hang(small, monkeypatch):
    from lava.proc.dense.models import PyDenseModelFloat

    from rmp_deploy.converters.lava.recorder.processes import PySink

    def divide(self):
        return 1 / 0

    for model, names in ((PyDenseModelFloat, "fc|out"), (PySink, "record out")):  # in the middle and at the end
        with monkeypatch.context() as patch:
            patch.setattr(model, "run_spk", divide)  # the forked children inherit it
            with pytest.raises(
                RmpDeployError, match=rf"^Lava process '({names})': ZeroDivisionError: division by zero, "
            ):
                lava.run(*small)
            patch.setattr(model, "__init__", divide)
            with pytest.raises(RmpDeployError, match=rf"^Lava process '({names})': TypeError: "):
                lava.run(*small)
    assert multiprocessing.active_children() == []


def test_an_interrupt_ends_every_process(small, monkeypatch):
    def interrupted(runtime, progress, patience):
        assert len(multiprocessing.active_children()) > 1
        raise KeyboardInterrupt

    monkeypatch.setattr(lava_runtime, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lava.run(*small)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "lava-nc: not installed, allowed 0.10.0. Run: pip install"),
        ("0.9.0", "lava-nc: version = 0.9.0, allowed"),
    ],
)
def test_compat_names_the_install_command(monkeypatch, found, message):
    def version(_name):
        if found is None:
            raise importlib.metadata.PackageNotFoundError
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(compat, "_is_imported", False)
    with pytest.raises(RmpDeployError) as error:
        compat.import_lava()
    assert str(error.value).startswith(message)
    assert ("--no-deps --ignore-requires-python lava-nc==0.10.0" in str(error.value)) == (sys.version_info >= (3, 11))


def test_compat_leaves_the_start_method_alone():
    """`spawn` is set already (as PyTorch users do), and the script has no __main__ guard: Lava must fork."""
    script = """
import multiprocessing
multiprocessing.set_start_method("spawn")
import numpy as np
from rmp_deploy.backends import lava
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Linear
fc = Linear(name="fc", inputs=("x",), weight=np.eye(2))
n = LIF(name="n", inputs=("fc",), decay=np.array(1.0), v_threshold=np.array(1.0), v_reset=np.array(0.0))
graph = SpikingGraph("net", Input("x", (2,), "direct"), (fc, n), Readout("n", "sum"), 5)
print(lava.run(graph, np.array([[0.5, 1.5]])).output.tolist(), multiprocessing.get_start_method())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    # 0.5 1.0 1.5! 0.5 1.0 -> one spike (strict threshold); 1.5 fires at every step
    assert (done.stdout, done.stderr) == ("[[1.0, 5.0]] spawn\n", "")


def recorded_cases():
    """Ten convolutions with their results as torch computed them, recorded by Lava's authors, in the wheel's tests."""
    folder = Path(sysconfig.get_path("purelib")) / "tests/lava/proc/conv/ground_truth"
    return sorted(folder.glob("gt_conv_*.npz"))


@pytest.mark.skipif(not recorded_cases(), reason="this lava-nc has no recorded convolutions")
def test_conv_layout_against_lavas_own_recordings():
    for path in recorded_cases():
        case = np.load(path)
        weight = case["weights"][:, ::-1, ::-1].transpose(0, 3, 2, 1)  # to torch's, as lava/proc/conv/utils.py does
        geometry = {what: tuple(map(int, case[what][::-1])) for what in ("stride", "padding", "dilation")}
        conv = Conv2d(name="conv", inputs=("x",), weight=weight, groups=int(case["groups"]), **geometry)
        np.testing.assert_array_equal(conv_weight(conv), case["weights"])
        x, expected = case["input"].T[None], case["out_gt"].T[None]
        graph = network([conv, neurons("lif", "conv")], x.shape[1:], T=1, readout="conv")
        in_lava = lava.run(graph, x).output.reshape(expected.shape)
        for ours in (in_lava, reference.conv2d(conv, x)):  # recorded in float32, from weights up to 128
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=0.02, err_msg=path.name)


def test_a_graph_may_be_run_again_with_another_number_of_steps(small):
    graph, x = small
    for T in (2, 9):
        compare(replace(graph, T=T), x)
