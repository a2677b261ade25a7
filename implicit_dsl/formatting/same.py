"""Whether two texts have the same syntax, wherever it stands."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from implicit_dsl.syntax import Program


def same(one: Program, other: Program) -> bool:
    """Compare all but the places in the source."""
    stack: list[tuple[object, object]] = [(one, other)]
    while stack:
        left, right = stack.pop()
        if type(left) is not type(right):
            return False
        if isinstance(left, tuple) and isinstance(right, tuple):
            if len(left) != len(right):
                return False
            stack.extend(zip(left, right))
        elif is_dataclass(left):
            stack += [(getattr(left, name), getattr(right, name)) for name in _compared(left.__class__)]
        elif left != right:
            return False
    return True


@cache
def _compared(kind: Any) -> tuple[str, ...]:
    places = ("span", "operator_span", "header", "source")
    return tuple(field.name for field in fields(kind) if field.name not in places)
