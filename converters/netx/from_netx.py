""".net file -> SpikingGraph of Loihi's integer ops, as lava-dl's `netx.hdf5.Network` reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.converters.netx import file
from rmp_deploy.converters.netx.weights import in_dense, to_synapse
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, Rule, SpikingGraph
from rmp_deploy.ir.ops import Flatten, LoihiConv2d, LoihiLIF, LoihiLinear, Op, Shape

BIAS_EXP = 6  # a bias is in units of a weight (lava-dl 0.6.0, lava/lib/dl/netx/hdf5.py, get_neuron_params)
INPUT_BITS = 12  # of the 13-bit bias_mant through which netx feeds an input layer, one is the sign
NEURON_TYPES = ("CUBA", "LOIHI")
REQUIRED = ("type", "iDecay", "vDecay", "vThMant")
OF_TRAINING = ("scaleRho", "tauRho", "theta")  # theta is 64 vThMant; the others shape the gradient
NEUTRAL = {"refDelay": 1, "wgtExp": 0, "gradedSpike": 0, "messageBits": 0}  # other values are not in netx either


@dataclass
class _Net:
    """The graph as far as it is read."""

    path: str | Path
    ops: list[Op] = field(default_factory=list)
    input: Input | None = None
    value: str = "x"
    shape: Shape = ()
    transform: str = ""
    at: str = ""

    def refused(self, what: str, allowed: str, todo: str) -> RmpDeployError:
        return RmpDeployError(f"file '{self.path}': layer {self.at}: {what}, allowed {allowed}. {todo}.")

    def add(self, op: Op) -> None:
        self.ops.append(op)
        self.value, self.shape = op.name, op.output_shape(self.shape)


def from_netx(path: str | Path, T: int | None = None, rule: Rule = "sum") -> SpikingGraph:
    """Read a .net file; its ops are named by their layer's number: `conv1`, `lif1`, `flatten2`, `fc3`, `lif3`.

    An input layer with neurons takes integers |x| < 4096 that stay for all T steps: netx gives them as biases, in units
    of a weight; the file's own affine map from data to them is in the provenance (`input`). Without one, spikes are
    the input. `T` is the file's tSample unless it is given; a dense layer without neurons integrates its current, so
    the readout is a sum over the steps.

    Raises:
        RmpDeployError: no readable .net file, a layer or neuron that is not carried, weights that 8 bits do not hold,
            or no T; one line, naming the layer.
    """
    return of_content(file.read(path), path, T, rule)


def of_content(content: file.Content, path: str | Path, T: int | None = None, rule: Rule = "sum") -> SpikingGraph:
    """The graph of a file's content; `path` is what errors and provenance call it."""
    layers, simulation = content.get("layer"), content.get("simulation", {})
    if not isinstance(layers, dict) or sorted(layers) != sorted(map(str, range(len(layers)))) or not layers:
        raise RmpDeployError(f"file '{path}': no layers 0, 1, ... in it. Export it again.")
    net = _Net(path)
    for i in range(len(layers)):
        layer = layers[str(i)]
        kind = layer.get("type") if isinstance(layer, dict) else None
        net.at = f"{i} ('{kind}')"
        if kind not in LAYERS:
            raise net.refused(f"type = {kind!r}", ", ".join(LAYERS), "Export a network of these")
        if net.ops and isinstance(net.ops[-1], LoihiLinear | LoihiConv2d):
            raise net.refused("the layer before it has no neurons", "that of the last layer only", "Give it neurons")
        try:
            LAYERS[kind](net, layer, str(i))
        except RmpDeployError as e:
            raise e if str(e).startswith("file ") else RmpDeployError(f"file '{path}': layer {net.at}: {e}") from e
    if T is None:
        steps = np.asarray(simulation.get("tSample", 0) if isinstance(simulation, dict) else 0)
        T = int(steps.item()) if steps.size == 1 and steps.dtype.kind in "iu" else 0
        if T < 1:
            raise RmpDeployError(f"file '{path}': simulation/tSample = none, allowed >= 1. Give T.")
    if net.input is None or not net.ops:
        raise RmpDeployError(f"file '{path}': layers with weights = 0, allowed >= 1. Export it again.")
    source = {"made from": Path(path).name, **({"input": net.transform} if net.transform else {})}
    name = "".join(c if c.isalnum() or c in "_.-" else "_" for c in Path(path).stem) or "netx"
    try:
        return SpikingGraph(name, net.input, tuple(net.ops), Readout(net.value, rule), T, None, source)
    except RmpDeployError as e:
        raise RmpDeployError(f"file '{path}': {e}") from e


def _input(net: _Net, layer: file.Content, i: str) -> None:
    _known(net, layer, {"type", "shape", "neuron", "weight", "bias"})
    if net.input is not None:
        raise net.refused("a second input", "one, first", "Export one network")
    shape = _shape(net, layer)
    net.shape = shape
    if "neuron" not in layer:
        net.input = Input("x", shape, "time_series", 0)
        return
    weight, bias = (
        int(_integers(net, layer, key, size=1).item()) if key in layer else d for key, d in DEFAULTS.items()
    )
    net.transform = f"{weight} * data + {bias}, integers"
    net.input = Input("x", shape, "direct", INPUT_BITS)
    # its current is the bias: nothing else arrives, so the decay of the current does not matter
    parameters = {**_neuron(net, layer["neuron"]), "du": 4095}
    net.add(LoihiLIF(name=f"lif{i}", inputs=(net.value,), **parameters))


DEFAULTS = {"weight": 64, "bias": 0}  # of the input's affine map: hdf5.py, create_input


def _dense(net: _Net, layer: file.Content, i: str) -> None:
    _known(net, layer, {"type", "shape", "neuron", "weight", "bias", "inFeatures", "outFeatures"})
    n = int(np.prod(_shape(net, layer)))
    weight = _integers(net, layer, "weight")
    if weight.ndim == 1 and weight.size % n == 0:
        weight = weight.reshape(n, -1)
    if weight.ndim != 2 or weight.shape[0] != n:
        raise net.refused(f"weight.shape = {weight.shape}", f"({n}, N_in)", "Export it again")
    if net.input is None:
        net.input, net.shape = Input("x", (weight.shape[1],), "time_series", 0), (weight.shape[1],)
    computed = in_dense(weight)
    if computed is None or (computed != weight).any():
        todo = "Use weights that lava-dl's quantizer gives"
        raise net.refused(f"weight = {weight.min()}..{weight.max()}", "what netx computes with unchanged", todo)
    _synapse(net, LoihiLinear, f"fc{i}", weight)
    _neurons(net, layer, i)


def _conv(net: _Net, layer: file.Content, i: str) -> None:
    geometry = {"stride", "padding", "dilation", "groups", "kernelSize", "inChannels", "outChannels"}
    _known(net, layer, {"type", "shape", "neuron", "weight", "bias", *geometry})
    if net.input is None:
        raise net.refused("no input layer before it", "one that states its shape", "Export it with its input")
    if "neuron" not in layer:
        raise net.refused("neuron = none", "CUBA neurons", "Give it neurons")
    weight = _integers(net, layer, "weight")
    if weight.ndim == 5 and weight.shape[4] == 1:  # lava-dl's kernels have a time axis
        weight = weight[..., 0]
    sizes = {what: _pair(net, layer, what) for what in ("stride", "padding", "dilation")}
    groups = int(_integers(net, layer, "groups", size=1).item())
    _synapse(net, LoihiConv2d, f"conv{i}", weight, groups=groups, **sizes)
    if net.shape != _shape(net, layer):
        raise net.refused(f"shape = {_shape(net, layer)}", f"{net.shape}, what its kernel gives", "Export it again")
    _neurons(net, layer, i)


def _flatten(net: _Net, layer: file.Content, i: str) -> None:
    if net.input is None:
        raise net.refused("no input layer before it", "one that states its shape", "Export it with its input")
    net.add(Flatten(name=f"flatten{i}", inputs=(net.value,)))


LAYERS: dict[str, Callable[[_Net, file.Content, str], None]] = {
    "input": _input,
    "dense": _dense,
    "conv": _conv,
    "flatten": _flatten,
}


def _synapse(net: _Net, kind: Callable[..., Op], name: str, weight: npt.NDArray[np.int64], **geometry: Any) -> None:
    parameters = to_synapse(weight)
    if parameters is None:
        allowed = "-128..127, or even in -256..254, or all of one sign in 0..255 [8-bit synapses]"
        raise net.refused(f"weight = {weight.min()}..{weight.max()}", allowed, "Quantize it to 8 bits")
    net.add(kind(name=name, inputs=(net.value,), **parameters, **geometry))


def _neurons(net: _Net, layer: file.Content, i: str) -> None:
    """The layer's neurons with its bias."""
    if "neuron" not in layer:
        if "bias" in layer:
            raise net.refused("a bias without neurons", "neurons", "Give it neurons")
        return
    parameters = _neuron(net, layer["neuron"])
    if "bias" in layer:
        bias = _integers(net, layer, "bias")
        if len(net.shape) == 3 and bias.ndim == 1 and bias.size > 1:
            bias = bias[:, None, None]  # per channel
        elif len(net.shape) == 3 and bias.ndim == 3:
            bias = bias.transpose(2, 1, 0)  # per neuron, W,H,C in the file
        parameters |= {"bias_mant": bias, "bias_exp": BIAS_EXP}
    net.add(LoihiLIF(name=f"lif{i}", inputs=(net.value,), **parameters))


def _neuron(net: _Net, neuron: Any) -> dict[str, Any]:
    if not isinstance(neuron, dict) or neuron.get("type") not in NEURON_TYPES:
        kind = neuron.get("type") if isinstance(neuron, dict) else neuron
        raise net.refused(f"neuron type = {kind!r}", " or ".join(NEURON_TYPES), "Use CUBA neurons")
    unknown = [key for key in neuron if key not in (*REQUIRED, *OF_TRAINING, *NEUTRAL)]
    if unknown:
        raise net.refused(f"neuron/{unknown[0]}", ", ".join((*REQUIRED, *NEUTRAL)), "Remove it")
    for key, neutral in NEUTRAL.items():
        if key in neuron and np.any(np.asarray(neuron[key]) != neutral):
            raise net.refused(f"neuron/{key} = {np.asarray(neuron[key]).flat[0]}", f"{neutral}", "Train without it")
    found = {key: int(_integers(net, neuron, key, size=1).item()) for key in REQUIRED[1:]}
    return {"du": found["iDecay"] - 1, "dv": found["vDecay"], "vth": found["vThMant"]}


def _known(net: _Net, layer: file.Content, known: set[str]) -> None:
    unknown = sorted(set(layer) - known)
    if unknown:
        raise net.refused(f"'{unknown[0]}'", ", ".join(sorted(known)), "Train without it")


def _shape(net: _Net, layer: file.Content) -> Shape:
    shape = tuple(int(n) for n in _integers(net, layer, "shape").reshape(-1))
    if min(shape) < 1:
        raise net.refused(f"shape = {shape}", "sizes >= 1", "Export it again")
    return shape


def _pair(net: _Net, layer: file.Content, key: str) -> tuple[int, int]:
    value = _integers(net, layer, key).reshape(-1)
    if value.size not in (1, 2):
        raise net.refused(f"{key} = {value.tolist()}", "1 or 2 numbers", "Export it again")
    return int(value[0]), int(value[-1])


def _integers(net: _Net, group: file.Content, key: str, size: int | None = None) -> npt.NDArray[np.int64]:
    """A field's numbers, which lava-dl keeps as floats and truncates to integers when it reads them."""
    value = group.get(key)
    if not isinstance(value, np.ndarray | np.generic):
        raise net.refused(f"{key} = none", "numbers", "Export it again")
    array = np.asarray(value)
    fits = array.size >= 1 and bool((np.abs(array.astype(np.float64)) < 2**31).all())
    if not fits or (size is not None and array.size != size) or (array != np.rint(array)).any():
        shown = array.flat[0] if array.size == 1 else f"{array.dtype} {array.shape}"
        raise net.refused(
            f"{key} = {shown}", "integers" if size is None else "one integer", "Quantize the network first"
        )
    return array.astype(np.int64)
