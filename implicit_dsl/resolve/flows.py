"""`ode t in 0..Inf`: the equilibrium of a flow. `D(x) ~ g - x` has it where x ~ g."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from implicit_dsl import syntax as s
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.indexing import labels
from implicit_dsl.resolve.problem import Problem, problem, quoted
from implicit_dsl.resolve.scope import Environment, Key
from implicit_dsl.resolve.values import Definition, show_key

if TYPE_CHECKING:
    from implicit_dsl.resolve.context import Context


def steady(context: Context, definition: Definition) -> s.Expression:
    """The g of `D(x) ~ g - x`, also of a positive number times that. Raises Problem if there is none."""
    assert definition.expression is not None
    environment = definition.environment
    whole = _without_factor(context, definition.expression, environment)
    terms = _terms(whole)
    decay = [term for sign, term in terms if sign < 0 and _key(context, term, environment) == definition.key]
    if len(decay) != 1 or len(terms) < 2:
        raise _no_decay(definition)
    rest = [(sign, term) for sign, term in terms if term is not decay[0]]
    sign, first = rest[0]
    start = s.Unary("-", first, first.span) if sign < 0 else first
    return reduce(_added, rest[1:], start)


def endless(context: Context, definition: Definition) -> None:
    """The time of a flow to its limit is no number. Raises Problem."""
    raise problem(
        "E0605",
        f"a flow that depends on the time `{definition.shown}` has no equilibrium",
        definition.span,
        "goes to Inf",
        help="end at a finite time, as in `ode t in 0..10`",
    )


def _added(left: s.Expression, term: tuple[int, s.Expression]) -> s.Expression:
    sign, right = term
    return s.Binary("-" if sign < 0 else "+", left, right, right.span, right.span)


def _terms(expression: s.Expression, sign: int = 1) -> list[tuple[int, s.Expression]]:
    """The terms of a sum from left to right, each with its sign."""
    found: list[tuple[int, s.Expression]] = []
    waiting = [(sign, expression)]
    while waiting:
        sign, node = waiting.pop()
        match node:
            case s.Binary("+" | "-" as operator, left, right):
                waiting += [(sign, left), (-sign if operator == "-" else sign, right)]
            case s.Unary("-" | "+" as operator, operand):
                waiting.append((-sign if operator == "-" else sign, operand))
            case _:
                found.append((sign, node))
    return found[::-1]


def _without_factor(context: Context, expression: s.Expression, environment: Environment) -> s.Expression:
    """What is multiplied or divided by a positive number, which does not move where it is zero."""
    match expression:
        case s.Binary("*", left, right) if _is_positive(context, left, environment):
            return _without_factor(context, right, environment)
        case s.Binary("*" | "/", left, right) if _is_positive(context, right, environment):
            return _without_factor(context, left, environment)
    return expression


def _is_positive(context: Context, expression: s.Expression, environment: Environment) -> bool:
    if not isinstance(expression, s.Name | s.Literal):
        return False
    value = context.evaluate(expression, environment)
    return bool(is_number(value) and value > 0)


def _key(context: Context, expression: s.Expression, environment: Environment) -> Key:
    match expression:
        case s.Name(name):
            return (name,)
        case s.Index(s.Name(name), subscripts) if not any(isinstance(one, s.Colon) for one in subscripts):
            return (name, *labels(context, subscripts, environment))
    return ()


def _no_decay(definition: Definition) -> Problem:
    assert definition.expression is not None
    name = show_key(definition.key)
    return problem(
        "E0605",
        f"the equilibrium of this flow is not known by the form `D({name}) ~ g - {name}`",
        definition.expression.span,
        notes=(f"it is where the derivative is 0; for `D({name}) ~ g - {name}` that is `{name} ~ g`",),
        help=f"write `D({name}) ~ ({name} + {quoted(definition.expression.span, 40)}) - {name}`, if the loop "
        f"`{name} ~ {name} + …` is meant; or end at a finite time",
    )
