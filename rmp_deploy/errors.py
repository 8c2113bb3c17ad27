"""The errors that this package raises on purpose; every module may import this one, and it imports none."""

from __future__ import annotations

import reprlib


class RmpDeployError(Exception):
    """Bad input: one line that names the op or file, the value, what is allowed and what to do. Exit code 2."""


def op_error(kind: str, name: str, what: str, allowed: str, todo: str) -> RmpDeployError:
    """Build the one-line error of design section 7: ``<Op> '<name>': <what>, allowed <limit>. <what to do>.``"""
    return RmpDeployError(f"{kind} '{name}': {what}, allowed {allowed}. {todo.rstrip('.')}.")


def show(value: object) -> str:
    """The value as a message names it, far less than a line: a file may hold a text, a list or a number of any size."""
    try:
        return reprlib.repr(value)
    except ValueError:  # more digits than Python prints
        return "a huge integer"
