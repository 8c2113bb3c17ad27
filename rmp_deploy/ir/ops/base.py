"""What every op has: a name, inputs, finite parameters that cannot change, equality by value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import op_error

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class Op(ABC):
    """A node of the graph: reads the values named in `inputs`, produces the value `name`.

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
            if value is not None and str(field.type).startswith("Array"):
                value = np.array(value, dtype=np.float32)  # a copy: the caller may go on with theirs
                self._check(value.size > 0, f"{field.name}.shape = {value.shape}", "sizes >= 1", "Give it values")
                bad = int(value.size - np.isfinite(value).sum())
                self._check(
                    bad == 0,
                    f"{field.name} holds {bad} NaN or infinite value{'s' * (bad != 1)}",
                    "finite numbers",
                    "Look at the training run: the loss may have diverged",
                )
                value.setflags(write=False)
                object.__setattr__(self, field.name, value)

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


def same(a: object, b: object) -> bool:
    """Equal in type and value; arrays bit for bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


def windows(size: int, reach: int, stride: int, padding: int) -> int:
    """Windows of `reach` that start every `stride` in a padded axis: ``(size + 2 padding - reach) // stride + 1``."""
    return (size + 2 * padding - reach) // stride + 1
