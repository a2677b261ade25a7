"""Numbers that depend on the time of an `ode`: arithmetic on them, and on them and other numbers."""

from __future__ import annotations

from typing import Any

from implicit_dsl import clock
from implicit_dsl import syntax as s
from implicit_dsl.clock import Timed
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.values import TimeValue
from implicit_dsl.source import Span


def is_factor(value: Any) -> bool:
    """Whether a value is a number, of the time or not."""
    return is_number(value) or isinstance(value, TimeValue)


def finite(value: Any, span: Span) -> float | TimeValue:
    """A number that may stand in the network. Raises Problem for Inf, NaN and what no float can hold."""
    return value if isinstance(value, TimeValue) else apply.finite(value, span)


def inverse(value: Any, span: Span) -> float | TimeValue:
    """1 ÷ value. Raises Problem if there is no such number."""
    if isinstance(value, TimeValue):
        return _made("/", value, (1.0, value.number), span)
    return apply.inverse(value, span)


def calculate(node: s.Binary, left: Any, right: Any) -> TimeValue:
    """Arithmetic on two numbers of which one at least depends on the time."""
    name = node.operator.removeprefix(".")
    if name not in ("+", "-", "*", "/", "^"):
        raise problem(
            "E0207", f"`{node.operator}` does not apply to the time of an `ode`", node.operator_span
        )
    of_time = left if isinstance(left, TimeValue) else right
    parts = tuple(
        value.number if isinstance(value, TimeValue) else apply.finite(value, part.span)
        for value, part in ((left, node.left), (right, node.right))
    )
    return _made(name, of_time, parts, node.span)


def function(name: str, value: TimeValue, span: Span, *before: float) -> TimeValue:
    """A function of such a number, or an operation with numbers before it."""
    return _made(name, value, (*before, value.number), span)


def _made(name: str, like: TimeValue, parts: tuple[Timed, ...], span: Span) -> TimeValue:
    try:
        return TimeValue(clock.combined(name, *parts), like.clock)
    except ZeroDivisionError:
        raise problem("E0208", "division by zero", span) from None
    except (ArithmeticError, ValueError):
        raise _out_of_range(span) from None


def _out_of_range(span: Span) -> Problem:
    return problem("E0208", "this number is out of range", span)


def total(items: list[Any], span: Span) -> TimeValue:
    """The sum of numbers of which one at least depends on the time."""
    like = next(item for item in items if isinstance(item, TimeValue))
    made = TimeValue(0.0, like.clock)
    for item in items:
        number = item.number if isinstance(item, TimeValue) else apply.finite(item, span)
        made = _made("+", like, (made.number, number), span)
    return made
