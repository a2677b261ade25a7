"""Expressions that must be known at compile time: conditions, what loops run over, shapes."""

from __future__ import annotations

from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.fixes import replacing
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import DeclaredShape, Environment
from implicit_dsl.resolve.values import Builtin, TokensValue, describe
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import Dim, affine

MOST = 2**31 - 1


def truth(context: Context, expression: s.Expression, environment: Environment) -> bool:
    """A condition, which must be known at compile time."""
    value = context.evaluate(expression, environment)
    if isinstance(value, bool):
        return value
    raise problem(
        "E0205",
        "a condition must be true or false at compile time",
        expression.span,
        describe(value),
        help="a network has no branches at run time" if isinstance(value, Wire) else "write a comparison",
    )


def taken(context: Context, statement: s.If, environment: Environment) -> tuple[s.Statement, ...]:
    """The statements of the branch that is taken, if one is."""
    for branch in statement.branches:
        if branch.condition is None or truth(context, branch.condition, environment):
            return branch.body
    return ()


def items(context: Context, expression: s.Expression, environment: Environment) -> tuple[Any, ...] | range:
    """What a loop runs over."""
    values = context.evaluate(expression, environment)
    if isinstance(values, (tuple, range)):
        return values
    counted = (
        isinstance(values, int)
        and not isinstance(values, bool)
        and isinstance(expression, s.Name | s.Literal)
    )
    help = f"write `1:{expression.span.text}`" if counted else ""
    place = expression.span._replace(end=expression.span.start)
    fixes = replacing(place, "1:", f"write `1:{expression.span.text}`") if counted else ()
    message = "a loop runs over a range or a list"
    raise problem("E0205", message, expression.span, describe(values), help=help, fixes=fixes)


def is_open(size: s.Expression) -> bool:
    """Whether a size is written `_`."""
    size = size.value if isinstance(size, s.Axis) else size
    return isinstance(size, s.Name) and size.name == "_"


def size(context: Context, expression: s.Expression, environment: Environment) -> Dim | None:
    """One size of a shape; None for `_`. What is free may be named as that of another value, `size(x, 1)`."""
    if is_open(expression):
        return None
    if isinstance(expression, s.Axis):
        expression = expression.value
    if isinstance(expression, s.Colon):
        raise problem("E0205", "a size is needed here", expression.span, help="a free size is written `_`")
    shared = _shared(context, expression, environment)
    if shared is not None:
        return shared
    value = context.evaluate(expression, environment)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        what = describe(value)
        raise problem("E0205", "a size must be a whole number known at compile time", expression.span, what)
    if not 1 <= value <= MOST:
        raise problem("E0205", f"a size must be between 1 and {MOST}", expression.span, f"this is {value}")
    return value


def _shared(context: Context, expression: s.Expression, environment: Environment) -> Dim | None:
    """The free size of another value, `size(x, 1)`, which is the same at each call."""
    if not isinstance(expression, s.Call) or len(expression.arguments) != 2 or expression.keywords:
        return None
    asked = (expression.function, *expression.arguments)
    function, given, axis = (context.evaluate(part, environment) for part in asked)
    if not isinstance(function, Builtin) or function.name != "size" or not isinstance(given, Wire):
        return None
    if not isinstance(axis, int) or not 1 <= axis <= len(given.shape):
        return None
    found = given.shape[axis - 1]
    return None if isinstance(found, int) else found


def vocabulary(context: Context, expression: s.Expression | None, environment: Environment) -> Dim:
    """How many tokens the set behind an input has; 0 if there is no set, so that it is of real numbers.

    `0:n` are the numbers of steps that a sequence of at most n may have; n may be free.
    """
    if expression is None:
        return 0
    if isinstance(expression, s.Range) and expression.step is None:
        return _numbers(context, expression, environment)
    value = context.evaluate(expression, environment)
    if not isinstance(value, TokensValue):
        raise problem(
            "E0207",
            "an input is from a set of tokens, or of real numbers",
            expression.span,
            describe(value),
            help="write `in Tokens(1000)`, or leave it out",
        )
    return value.count


def _numbers(context: Context, expression: s.Range, environment: Environment) -> Dim:
    start = context.evaluate(expression.start, environment)
    if start != 0 or isinstance(start, bool):
        raise problem(
            "E0205",
            "the numbers of an input start at 0",
            expression.start.span,
            describe(start),
            help="`in 0:n` is for how many steps a sequence has, and `in Tokens(n)` for other tokens",
        )
    most = size(context, expression.stop, environment)
    if most is None:
        raise problem("E0205", "a size is needed here", expression.stop.span)
    return affine(most, 1, 1, 1)


def sizes(context: Context, shape: DeclaredShape) -> tuple[Dim | None, ...]:
    """A declared shape; None where it is left open."""
    return tuple(size(context, expression, shape.environment) for expression in shape.sizes)
