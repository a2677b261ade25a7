"""Functions of one number as lists of instructions, and the arithmetics that run them.

Instruction k makes value k + 1 of those before; value 0 is the argument. They are plain tuples:
("constant", c), ("scale", c, i), ("sum", i, …), ("product", i, j), ("maximum", i, j), ("minimum", i, j),
("phi", kind, settings, i) for an elementwise activation.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeVar

from implicit_dsl.operators.base import Operator

Instruction: TypeAlias = tuple[Any, ...]
Body: TypeAlias = tuple[Instruction, ...]
V = TypeVar("V")


class Arithmetic(Protocol[V]):
    """What instructions do to values of one type."""

    def constant(self, number: float) -> V: ...

    def scale(self, number: float, value: V) -> V: ...

    def add(self, a: V, b: V) -> V: ...

    def multiply(self, a: V, b: V) -> V: ...

    def maximum(self, a: V, b: V) -> V: ...

    def phi(self, operator: Operator, value: V) -> V: ...


def run(body: Body, arithmetic: Arithmetic[V], x: V) -> V:
    """The last value."""
    values = [x]
    for name, *rest in body:
        match name, rest:
            case "constant", [number]:
                made = arithmetic.constant(number)
            case "scale", [number, i]:
                made = arithmetic.scale(number, values[i])
            case "sum", [first, *others]:
                made = values[first]
                for other in others:
                    made = arithmetic.add(made, values[other])
            case "product", [i, j]:
                made = arithmetic.multiply(values[i], values[j])
            case "maximum", [i, j]:
                made = arithmetic.maximum(values[i], values[j])
            case "minimum", [i, j]:
                turned = (arithmetic.scale(-1.0, values[k]) for k in (i, j))
                made = arithmetic.scale(-1.0, arithmetic.maximum(*turned))
            case _:
                kind, settings, i = rest
                made = arithmetic.phi(Operator(kind, (), (), settings), values[i])
        values.append(made)
    return values[-1]
