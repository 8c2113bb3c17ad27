"""Walk any torch module by torch.fx: its layers become ops named by module path, what cannot be carried is refused.

torch.fx keeps a layer that has a converter whole, with its path and parameters. torch.export flattens it into aten
calls, a neuron into T unrolled steps of arithmetic, from which it would have to be guessed again.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from rmp_deploy.converters.torch_attributes import attributes, differ, random_numbers, restored
from rmp_deploy.converters.torch_functions import FUNCTIONS, INPUT, METHODS, Call, Handler, Value
from rmp_deploy.converters.torch_layers import LAYERS, SIZED, Converters, refused
from rmp_deploy.converters.torch_states import (
    PassedState,
    State,
    check_returned,
    check_states,
    optional_and_required,
    the_value,
)
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Rule
from rmp_deploy.ir.ops import LI, LIF, Delay, Flatten, Op, Shape

ROOT = "root"  # where the traced module stands in `_Root`


@dataclass(frozen=True)
class Dialect:
    """What a library's layers mean, in a module that computes one time step [B, ...] or whole sequences [T, B, ...].

    Args:
        converters: layer -> ops, at the number of leading axes that the module is traced with.
        per_step: containers that apply a layer to every step of a sequence -> that layer.
        step: what may stand in them; None is torch's own layers.
        encoders: layers that repeat a sample over time -> how many times.
        sized: layers that depend on the size of their input -> the layer that does the same at one sample's shape.
        leaves: layers that are never traced through: converted, or refused by name.
        stateful: layers that take and return states -> what they return, given their value and module path.
        keep_state: whether such a layer goes on from its own state where it is given none, or begins anew.
        memories: where a layer holds its states by name, if not in buffers; a forward of one step leaves them alone.
    """

    converters: Converters
    per_step: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = field(default_factory=dict)
    step: Dialect | None = None
    encoders: Mapping[type[nn.Module], Callable[[Any], int]] = field(default_factory=dict)
    sized: Mapping[type[nn.Module], Callable[[Any, str, Shape], nn.Module]] = field(default_factory=lambda: SIZED)
    leaves: tuple[type[nn.Module], ...] = ()
    stateful: Mapping[type[nn.Module], Callable[[Any, Any, str], Any]] = field(default_factory=dict)
    keep_state: bool = True
    memories: Callable[[nn.Module], dict[str, Any]] = lambda layer: {}

    @property
    def in_step(self) -> Dialect:
        """The dialect inside a per-step container."""
        return self.step or Dialect(LAYERS)

    @property
    def known(self) -> set[type[nn.Module]]:
        """The layers that become ops."""
        return {*self.converters, *self.sized}


@dataclass(frozen=True)
class Traced:
    """Ops in topological order and the name of the returned value; rule and T where the module reads out or encodes."""

    ops: tuple[Op, ...]
    value: str
    rule: Rule | None
    T: int | None


def trace(model: nn.Module, input_shape: Shape, dialect: Dialect, leading: int = 1) -> Traced:
    """Trace `model` in eval mode; module paths become op names, functions are named by the module they stand in.

    Args:
        model: any module with one tensor in and one out.
        input_shape: one sample's, without time and batch.
        dialect: what its layers mean.
        leading: axes before a sample: 1 if the module computes one time step on [B, ...], 2 if sequences [T, B, ...].

    Raises:
        RmpDeployError: a layer, an option of a layer or a function that the IR cannot carry, named by its path.
    """
    if not isinstance(input_shape, tuple | list) or not all(type(n) is int for n in input_shape):
        what = f"{type(model).__name__}: input_shape = {input_shape!r}, allowed a tuple of whole numbers"
        raise RmpDeployError(f"{what}. Give one sample's shape.")
    for path, layer in model.named_modules():
        if any(is_lazy(parameter) for parameter in layer.parameters(recurse=False)):
            raise refused(layer, path, "has no weights yet", "weights", "Run the model once on a batch first")
        if layer._forward_hooks or layer._forward_pre_hooks:
            todo = "Remove it first (torch.nn.utils.remove_weight_norm, handle.remove())"
            raise refused(layer, path, "has a forward hook, whose effect is unknown", "no hooks", todo)
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.dtype != torch.float32:
                raise refused(layer, path, f"{name}.dtype = {parameter.dtype}", "torch.float32", "Call model.float()")
            if parameter.is_meta:
                raise refused(layer, path, f"{name} is on device 'meta'", "numbers", "Load the weights first")
    with restored(model):
        model.eval()
        walk = _Walk(type(model).__name__, dialect, Value(INPUT, leading, tuple(input_shape)))
        value = walk.into(model, "", dialect, walk.input)
    return Traced(tuple(walk.ops), value.name, value.rule, walk.T)


def check_steps(kind: str, T: object) -> None:
    """Raise RmpDeployError if time steps are given for a model of type `kind` that are no whole number."""
    if T is not None and type(T) is not int:
        raise RmpDeployError(f"{kind}: T = {T!r}, allowed a whole number. Set the number of time steps.")


class _Root(nn.Module):
    """The module to trace as a child: so it may be a layer itself, and is given its arguments by name."""

    def __init__(self, module: nn.Module, arguments: list[PassedState]) -> None:
        super().__init__()
        self.add_module(ROOT, module)
        self.arguments = arguments
        self.returned: object = None

    def forward(self, x: Any) -> Any:
        module = getattr(self, ROOT)
        self.returned = module(x, **{argument.name: argument for argument in self.arguments})
        return the_value(module, self.returned)


class _Proxy(fx.Proxy):
    """``a += b`` stays what it is: fx would record ``a + b``, and miss that others see `a` change."""

    def __iadd__(self, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    """A layer that somebody converts or refuses by name is one node; everything else is traced through."""

    def __init__(self, known: set[type[nn.Module]], dialect: Dialect, path: str, step: int) -> None:
        super().__init__()
        self.known, self.dialect, self.path, self.step = known, dialect, path, step

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = type(m) in self.known or isinstance(m, self.dialect.leaves)
        return ours or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = _joined(self.path, _inner(self.path_of_module(m)))
        if type(m) not in self.dialect.stateful:
            if isinstance(m, self.dialect.leaves):  # refused by name, whatever it is called with
                args = tuple(x for x in args if not isinstance(x, State))
            elif any(isinstance(x, State) for x in args) and self.is_leaf_module(m, path):
                raise refused(m, path, "called with a state", "spikes or currents", "Use a layer that takes none")
            return super().call_module(m, forward, args, kwargs)
        (_, x), *states = inspect.signature(m.forward).bind(*args, **kwargs).arguments.items()
        check_states(m, path, dict(states), self.step, self.dialect.keep_state)
        returned = self.dialect.stateful[type(m)](m, super().call_module(m, forward, (x,), {}), path)
        for new in tree_leaves(returned):
            if isinstance(new, State):
                new.step = self.step
        return returned

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


_Step = tuple[_Root, fx.Graph, _Tracer]


class _Walk:
    """What was found so far, in the model and in its per-step containers."""

    def __init__(self, kind: str, dialect: Dialect, x: Value) -> None:
        self.kind, self.dialect, self.input = kind, dialect, x
        self.ops: list[Op] = []
        self.shapes: dict[str, Shape] = {x.name: x.shape}
        self.T: int | None = None
        self.paths: set[str] = set()  # of modules: no function's op takes such a name
        self.names: set[str] = set()
        self.neurons: set[nn.Module] = set()  # whose one state is taken
        self.memories: set[int] = set()  # storages of values that may be a neuron's own state

    def into(self, module: nn.Module, path: str, dialect: Dialect, x: Value) -> Value:
        """Trace `module`, which stands at `path`, and walk its nodes from the value `x`."""
        self.paths |= {_joined(path, name) for name, _ in module.named_modules()}
        before = random_numbers()
        try:
            steps = self._one_step if x.leading == 1 else self._sequence
            root, graph, tracer = steps(module, path, dialect)
        except RmpDeployError:
            raise
        except Exception as e:  # of a stranger's forward
            reason = (str(e).splitlines() or [type(e).__name__])[0].rstrip(".")
            what = f"{self.kind}: cannot be traced ({reason})"
            raise RmpDeployError(f"{what}. Use no data-dependent control flow.") from e
        if random_numbers() != before:
            what = f"{self.kind}: its forward draws random numbers, allowed the same in every step"
            raise RmpDeployError(f"{what}. Switch it off in eval mode.")
        value = _Nodes(self, root, path, dialect, x, graph, tracer.node_name_to_scope).run(x)
        if not isinstance(value, Value) or value.unsqueezed:
            what = f"{self.kind}: returns {type(value).__name__}, allowed one value of the network"
            raise RmpDeployError(f"{what}. Return that alone.")
        return value

    def _trace(self, module: nn.Module, path: str, dialect: Dialect, names: list[str], step: int) -> _Step:
        """One call of `module`, with a state for each of `names`."""
        known = {*self.dialect.known, *dialect.known, *dialect.per_step, *dialect.encoders}
        tracer = _Tracer(known, dialect, path, step)
        root = _Root(module, [PassedState(name) for name in names])
        graph = tracer.trace(root)
        if any(used.graph is not graph for node in graph.nodes for used in node.all_input_nodes):
            what = f"{self.kind}: uses a value that an earlier call has kept, allowed those of this one"
            raise RmpDeployError(f"{what}. Keep memory in neurons.")
        return root, graph, tracer

    def _sequence(self, module: nn.Module, path: str, dialect: Dialect) -> _Step:
        """The one call for a sequence, from no state on."""
        return self._trace(module, path, dialect, optional_and_required(module)[1] if dialect.stateful else [], 0)

    def _one_step(self, module: nn.Module, path: str, dialect: Dialect) -> _Step:
        """The call that stands for all steps: the first, with states where they must be, and two more are the same."""
        optional, required = optional_and_required(module) if dialect.stateful else ([], [])
        stand_ins = [(m, name, dialect.memories(m)) for m in module.modules() for name in dialect.memories(m)]
        held = {(m, name): (memories[name], State(name)) for m, name, memories in stand_ins}
        for m, name, memories in stand_ins:
            memories[name] = held[m, name][1]
        try:
            first = self._trace(module, path, dialect, required, 0)
            second = self._trace(module, path, dialect, [*required, *optional], 1)
            before = attributes(module)
            # an option that is no state keeps its default
            names = [a.name for a in second[0].arguments if a.taken or a.name in required]
            root, graph, tracer = self._trace(module, path, dialect, names, 2)
            after = attributes(module)
            moved = [(m, name) for m, name, memories in stand_ins if memories.get(name) is not held[m, name][1]]
        finally:
            for m, name, memories in stand_ins:
                memories[name] = held[m, name][0]
        layers = dict(module.named_modules())
        paths = {layer: name for name, layer in layers.items()}
        changed = [(paths[m], name) for m, name in moved]
        changed += [key for key in after if key not in before or differ(before[key], after[key])]
        for name, attribute in changed:
            todo = "Keep states in neurons, and reset them outside of forward, before the first step"
            found = f"'{attribute}' changed by the forward of every step"
            raise refused(layers[name], _joined(path, name), found, "nothing but states", todo)
        if str(first[1]) != str(graph):
            what = f"{self.kind}: the forward of a later step differs from that of the first, allowed the same in all"
            raise RmpDeployError(f"{what}. Use no control flow that depends on steps or states.")
        check_returned(module, root.returned, root.arguments, step=2)
        return root, graph, tracer

    def emit(self, ops: list[Op], like: Value) -> Value:
        """Append ops; the value of the last one, or `like` itself if there are none."""
        if not ops:
            return like
        for op in ops:
            self.shapes[op.name] = op.output_shape(*(self.shapes[i] for i in op.inputs if i in self.shapes))
        self.ops += ops
        view = all(isinstance(op, Flatten) for op in ops)  # in torch it may share its input's memory
        return Value(ops[-1].name, like.leading, self.shapes[ops[-1].name], like.storage if view else len(self.ops))

    def new_name(self, path: str, of_module: bool = False) -> str:
        """`path`, or ``path-2`` where that is taken."""
        name, n = path, 1
        while name in self.names or (name in self.paths and not (of_module and name == path)):
            n += 1
            name = f"{path}-{n}"
        self.names.add(name)
        return name


class _Nodes(fx.Interpreter):
    """Runs the traced nodes of one module on `Value`s in place of tensors."""

    def __init__(
        self,
        walk: _Walk,
        root: _Root,
        path: str,
        dialect: Dialect,
        x: Value,
        graph: fx.Graph,
        scopes: Mapping[str, tuple[str, Any]],
    ) -> None:
        super().__init__(root, graph=graph)
        self.extra_traceback = False  # our errors are one line
        self.walk, self.path, self.dialect, self.x, self.scopes = walk, path, dialect, x, scopes

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
        layer, path = self.fetch_attr(str(target)), self._path(str(target))
        for own in vars(layer):
            if inspect.isfunction(getattr(type(layer), own, None)):
                raise refused(layer, path, f"has a {own} of its own", "that of its type", "Make it a type of its own")
        if kwargs or not args or not all(isinstance(x, Value) and not x.unsqueezed for x in args):
            raise refused(
                layer, path, "called with named arguments or other than tensors", "tensors", "Pass them alone"
            )
        return self._layer(layer, path, args)

    def _layer(
        self,
        layer: nn.Module,
        path: str,
        inputs: tuple[Value, ...],
        of_module: bool = True,
        neuron: nn.Module | None = None,
    ) -> Value:
        dialect, kind, source = self.dialect, type(layer), inputs[0]
        if any(x.rule is not None for x in inputs):
            raise refused(layer, path, "a layer after the readout", "the readout last", "Remove it")
        if kind in dialect.encoders:
            if source != self.walk.input or self.walk.ops or self.walk.T is not None:
                raise refused(layer, path, "not the first layer", "directly on the input", "Move it to the front")
            return self._encode(dialect.encoders[kind](layer))
        if kind in dialect.per_step:
            inner = self.walk.into(dialect.per_step[kind](layer), path, dialect.in_step, replace(source, leading=1))
            return replace(inner, leading=source.leading)
        if kind in dialect.sized:
            at_shape = dialect.sized[kind](layer, path, source.shape)
            return self._layer(at_shape, path, inputs, of_module, neuron=layer)
        if kind not in dialect.converters:
            raise self._unknown(layer, path)
        name = self.walk.new_name(path, of_module)
        made = dialect.converters[kind](layer, name, tuple(x.name for x in inputs))
        if any(isinstance(op, LIF | LI | Delay) for op in made):
            if (neuron or layer) in self.walk.neurons:
                todo = "Use one neuron layer per place, and keep a loop over time outside of the model"
                raise refused(neuron or layer, path, "called twice", "once: it has one state", todo)
            self.walk.neurons.add(neuron or layer)
        value = self.walk.emit(made, source)
        if source.leading == 1 and any(isinstance(op, LIF | LI | Delay) for op in made):
            self.walk.memories.add(value.storage)
        return value

    def _encode(self, T: int) -> Value:
        self.walk.T = T
        return self.walk.input

    def _unknown(self, layer: nn.Module, path: str) -> RmpDeployError:
        names = (kind.__name__ for kind in self.dialect.known)
        known = ", ".join(sorted(name for name in names if not name.startswith("_")))
        if type(layer) in self.walk.dialect.known:
            return refused(layer, path, "inside a container that applies it step by step", known, "Put it outside")
        if type(layer) in self.walk.dialect.in_step.known:
            return refused(layer, path, "outside of a container that applies it step by step", known, "Put it in one")
        return refused(layer, path, "no such op in the IR", known, "Replace the layer")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._call(FUNCTIONS.get(target), args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._call(METHODS.get(str(target)), args, kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._call(None, (), {})

    def _call(self, handler: Handler | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        is_parameter = self.node.op == "get_attr"
        function = str(self.node.target).rpartition(".")[2] if is_parameter else re.sub(r"_\d+$", "", self.node.name)
        scope, owner = self.scopes[self.node.name]
        path = self._path(scope)
        call = Call(
            function=function,
            where=f"{owner.__name__} '{path}'" if path else owner.__name__,
            new_name=lambda name: self.walk.new_name(_joined(path, name)),
            emit=self.walk.emit,
            apply=lambda layer, x: self._layer(layer, _joined(path, function), (x,), of_module=False),
            encode=self._encode,
            read_later=self._read_later,
        )
        if handler is None:
            raise call.refused("has no op in the IR", "layers, +, cat, flatten and readouts over time", "Use a layer")
        try:
            bound = inspect.signature(handler).bind(call, *args, **kwargs)
        except TypeError as e:
            raise call.refused(f"has other arguments ({e})", "its common ones", "Use a layer") from e
        return handler(*bound.args, **bound.kwargs)

    def _read_later(self, x: Value) -> bool:
        """True if a later node, a neuron in its next step, or whoever passed it in, reads the memory of `x`."""
        if x.storage in self.walk.memories:
            return True
        done = self.user_to_last_uses.get(self.node, [])
        waiting = [v for node, v in self.env.items() if node.users and node not in done]
        return any(isinstance(v, Value) and v.storage == x.storage for v in (self.x, *waiting))

    def _path(self, target: str) -> str:
        """The path in the whole model of what stands at `target` in this root."""
        return _joined(self.path, _inner(target))


def _inner(target: str) -> str:
    """The path in the traced module of what stands at `target` in its `_Root`."""
    return target.removeprefix(ROOT).removeprefix(".")


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
