"""What every op has: a name, inputs, finite parameters that cannot change, equality by value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import op_error

Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
Shape = tuple[int, ...]
Pair = tuple[int, int]
MAX_MESSAGE_BITS = 23  # of an integer's magnitude: the width of Loihi's states, and what float32 holds exactly


@dataclass(frozen=True, eq=False, kw_only=True)
class Op(ABC):
    """A node of the graph: reads the values named in `inputs`, produces the value `name`.

    Attributes:
        name: of the op and of its value; letters, digits, ``_``, ``-``, ``.``.
        inputs: names of the values that it reads.

    Raises:
        RmpDeployError: a parameter is not finite, or its shape breaks the op's invariant.
    """

    arity: ClassVar[tuple[int, int]] = (1, 1)  # least and most inputs

    name: str
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        self._check(bool(self.name), "name = ''", "a non-empty name", "Name the op")
        low, high = self.arity
        wanted = f"{low}" if low == high else f"{low} or more"
        self._check(low <= len(self.inputs) <= high, f"inputs = {len(self.inputs)}", wanted, "Correct its inputs")
        for field in fields(self):
            value = getattr(self, field.name)
            convert = next((f for kind, f in CONVERT.items() if str(field.type).startswith(kind)), None)
            if value is not None and convert is not None:
                value = convert(self, field.name, value)
                value.setflags(write=False)
                object.__setattr__(self, field.name, value)

    def _floats(self, name: str, given: npt.ArrayLike) -> Array:
        value = np.array(given, dtype=np.float32)  # a copy: the caller may go on with theirs
        self._check(value.size > 0, f"{name}.shape = {value.shape}", "sizes >= 1", "Give it values")
        bad = int(value.size - np.isfinite(value).sum())
        self._check(
            bad == 0,
            f"{name} holds {bad} NaN or infinite value{'s' * (bad != 1)}",
            "finite numbers",
            "Look at the training run: the loss may have diverged",
        )
        return value

    def _integers(self, name: str, given: npt.ArrayLike) -> IntArray:
        value = np.array(given)
        self._check(value.size > 0, f"{name}.shape = {value.shape}", "sizes >= 1", "Give it values")
        self._check(value.dtype.kind in "iu", f"{name}.dtype = {value.dtype}", "integers", "Round it on purpose")
        limits = np.iinfo(np.int32)
        self._check_span(name, value, limits.min, limits.max)
        return value.astype(np.int32)

    def _check_span(self, name: str, value: npt.NDArray[Any], low: int, high: int) -> None:
        fits = int(value.min()) >= low and int(value.max()) <= high
        self._check(fits, f"{name} = {value.min()}..{value.max()}", f"{low}..{high}", "Scale it to fit")

    def _check_broadcast(self, name: str, value: npt.NDArray[Any], shape: Shape) -> None:
        try:
            fits = np.broadcast_shapes(value.shape, shape) == shape
        except ValueError:
            fits = False
        self._check(fits, f"{name}.shape = {value.shape}", f"what broadcasts to {shape}", "Reshape it, as in torch")

    @property
    def kind(self) -> str:
        return type(self).__name__

    @abstractmethod
    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the value that this op makes of inputs of `shapes`.

        Raises:
            RmpDeployError: they do not fit the op's parameters or each other.
        """

    def _check(self, holds: bool, what: str, allowed: str, todo: str) -> None:
        if not holds:
            raise op_error(self.kind, self.name, what, allowed, todo)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]


CONVERT = {"Array": Op._floats, "IntArray": Op._integers}  # by the type that a field is declared with


def same(a: object, b: object) -> bool:
    """Equal in type and value; arrays bit for bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


def windows(size: int, reach: int, stride: int, padding: int) -> int:
    """Windows of `reach` that start every `stride` in a padded axis: ``(size + 2 padding - reach) // stride + 1``."""
    return (size + 2 * padding - reach) // stride + 1
