"""Start values: `state x[4] = 0.5`."""

from __future__ import annotations

from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import DeclaredShape
from implicit_dsl.resolve.values import Definition, describe
from implicit_dsl.shapes import Shape, show


def start_numbers(
    context: Context, declared: DeclaredShape, definition: Definition, shape: Shape
) -> tuple[float, ...]:
    """`state x[4] = 0.5`: where a solver starts, one number or one for each entry of a vector."""
    expression = declared.start
    assert expression is not None
    value = context.evaluate(expression, declared.environment)
    span = expression.span
    if isinstance(value, Initialiser) and value.name in ("zeros", "ones", "constant"):
        value = value.numbers[0] if value.numbers else float(value.name == "ones")
    if is_number(value):
        return (apply.finite(value, span),)
    if isinstance(value, (tuple, range)) and len(shape) == 1 and all(map(is_number, value)):
        if len(value) != shape[0]:
            raise problem(
                "E0202", f"`{definition.shown}` is {show(shape)}, and this has {len(value)} numbers", span
            )
        return tuple(apply.finite(number, span) for number in value)
    raise problem(
        "E0207",
        f"`{definition.shown}` starts from numbers known at compile time",
        span,
        f"this is {describe(value)}",
        help=f"write `0`, or a list of as many numbers; its equation is `{definition.shown} ~ …`",
    )
