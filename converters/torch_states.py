"""States that a traced module passes around by hand: ``spikes, mem = lif(x, mem)``.

In the IR a neuron keeps its own state. So a state is only followed: it must go from the neuron that made it back to
that neuron in the next step, through the caller, an attribute or the neuron itself. A module is therefore traced for
several steps; arithmetic on a state cannot be traced.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rmp_deploy.converters.torch_layers import refused
from rmp_deploy.errors import RmpDeployError


class State:
    """The state `part` of the neuron `owner` after `step`; all of it without a part. Nothing else is known of it."""

    __slots__ = ("owner", "part", "step")  # so that no attribute of a tensor can be read or set

    def __init__(self, owner: str | None = None, part: str = "") -> None:
        self.owner, self.part, self.step = owner, part, -1

    def __bool__(self) -> bool:
        raise TypeError("what to do depends on the value of a state")

    __iter__ = None  # of how many parts, nobody knows


class PassedState(State):
    """A state that was passed in as `name`, or a collection of such: that of the neuron that takes it first."""

    __slots__ = ("changed", "items", "name")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.items: dict[object, PassedState] = {}
        self.changed: dict[object, State] = {}

    def __getitem__(self, index: object) -> State:
        if index in self.changed:
            return self.changed[index]
        return self.items.setdefault(index, PassedState(f"{self.name}[{index!r}]"))

    def __setitem__(self, index: object, state: object) -> None:
        if not isinstance(state, State):
            raise TypeError(f"{state!r} is put among the states")
        self.changed[index] = state

    @property
    def taken(self) -> bool:
        """Whether a neuron has taken it, or something in it."""
        return self.owner is not None or any(item.taken for item in self.items.values())

    def comes_back_in(self, now: object, step: int) -> bool:
        """Whether `now`, returned in its place, is the new state of the neuron that took it."""
        if self.owner is not None:
            return _is_state_of(now, self.owner, self.part, step)
        parts = self.changed if now is self else now
        try:
            return all(item.comes_back_in(parts[i], step) for i, item in self.items.items() if item.taken)  # type: ignore[index]
        except (TypeError, LookupError):
            return False


def _is_state_of(state: object, owner: str, part: str, step: int) -> bool:
    if not isinstance(state, State) or isinstance(state, PassedState):
        return False
    return (state.owner, state.step) == (owner, step) and state.part in ("", part)


def check_states(neuron: nn.Module, path: str, given: Mapping[str, object], step: int, keeps_state: bool) -> None:
    """Check the states that `neuron` is `given` by argument name: its own, of the step before.

    Args:
        neuron: the layer, which stands at `path`.
        path: its module path.
        given: its arguments but the first.
        step: in step 0, zeros or none are its state too.
        keeps_state: where it is given none, it goes on from its own; otherwise it would begin anew in every step.

    Raises:
        RmpDeployError: it is given anything else.
    """
    states = {name: state for name, state in given.items() if state is not None}
    if step > 0 and not states and not keeps_state:
        todo = "Pass it the state that it returned in the step before"
        raise refused(neuron, path, "called without a state: it begins anew in every step", "its own state", todo)
    for name, state in states.items():
        if step == 0 and isinstance(state, Tensor) and not state.any():
            continue
        if _is_state_of(state, path, name, step - 1):
            continue
        if isinstance(state, PassedState) and not state.taken:
            state.owner, state.part = path, name
            continue
        found = f"a new {type(state).__name__}"
        if isinstance(state, PassedState):
            found = f"'{state.name}', which another takes too"
        elif isinstance(state, State):
            found = f"'{state.part}' of {state.owner}"
        todo = "Begin with zeros, and keep each state for its neuron from step to step"
        raise refused(neuron, path, f"{name} = {found}", "its own, of the step before", todo)


def optional_and_required(module: nn.Module) -> tuple[list[str], list[str]]:
    """The arguments of a forward after its first that may be states: those that are None by default, and the others."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [p.name for p in named if p.default is None], [p.name for p in named if p.default is p.empty]


def check_returned(module: nn.Module, returned: object, arguments: Sequence[PassedState], step: int) -> None:
    """Check that what is `returned` besides the value are the new states, in the order of the `arguments`.

    Raises:
        RmpDeployError: a neuron would not get its own state back in the next step.
    """
    several = returned if isinstance(returned, tuple) else (returned,)
    rest = [x for x in several if x is None or isinstance(x, State) or not _values(x)]
    for argument in arguments:
        if not argument.taken:
            what = (
                f"{type(module).__name__}: argument '{argument.name}' goes to no neuron, allowed its input and states"
            )
            raise RmpDeployError(f"{what}. Give it the default None.")
    if arguments and len(rest) != len(arguments):
        what = f"{type(module).__name__}: takes {len(arguments)} states and returns {len(rest)}, allowed as many"
        raise RmpDeployError(f"{what}. Return the new states in the order of the arguments.")
    for argument, now in zip(arguments, rest, strict=False):
        if not argument.comes_back_in(now, step):
            what = f"{type(module).__name__}: returns something else in place of '{argument.name}'"
            raise RmpDeployError(f"{what}, allowed the new state of the neuron that took it. Return it there.")


def the_value(module: nn.Module, returned: object) -> object:
    """The one tensor that a module returns, among states."""
    if not isinstance(returned, tuple | State):
        return returned
    values = _values(returned)
    if not values:
        kind = type(module).__name__
        raise RmpDeployError(f"{kind}: returns a state, allowed spikes or currents. Return the neuron's spikes.")
    return values[0] if len(values) == 1 else returned


def _values(returned: object) -> list[object]:
    return [leaf for leaf in tree_leaves(returned) if leaf is not None and not isinstance(leaf, State)]
