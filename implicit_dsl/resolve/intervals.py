"""The times of an `ode`: `a..b`, or a list of times that go up."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import describe
from implicit_dsl.source import Span

_HELP = "write `ode t in 0..1`, `0..Inf`, or a list of times: `ode t in [0, 0.5, 1]`"


def times(
    context: Context, expression: s.Expression, environment: Environment
) -> tuple[tuple[float, ...], bool]:
    """The times, the last of which may be infinite, and whether they are a list. Raises Problem."""
    if isinstance(expression, s.Interval):
        ends = (expression.start, expression.stop)
        start, stop = (_time(context.evaluate(end, environment), end.span) for end in ends)
        if math.isinf(start):
            raise problem("E0603", "an `ode` starts at a finite time", expression.start.span, help=_HELP)
        if not start < stop:
            text = f"from {start:g} to {stop:g}"
            help = "for a flow back in time, turn the sign of its derivatives" if stop < start else ""
            raise problem("E0603", "the time of an `ode` goes up", expression.span, text, help=help)
        return (start, stop), False
    values = context.evaluate(expression, environment)
    if not isinstance(values, (tuple, range)):
        raise problem(
            "E0603", "an `ode` runs over an interval", expression.span, describe(values), help=_HELP
        )
    context.step(expression.span, len(values))
    listed = tuple(_time(value, expression.span) for value in values)
    if len(listed) < 2 or any(math.isinf(value) for value in listed):
        raise problem("E0603", "an `ode` takes two finite times at least", expression.span, help=_HELP)
    down = next((pair for pair in pairwise(listed) if not pair[0] < pair[1]), None)
    if down is not None:
        text = f"{down[1]:g} behind {down[0]:g}"
        raise problem("E0603", "the times of an `ode` go up", expression.span, text)
    return listed, True


def _time(value: Any, span: Span) -> float:
    try:
        found = float(value) if is_number(value) else math.nan
    except OverflowError:
        found = math.nan
    if math.isnan(found):
        raise problem(
            "E0603",
            "a time is a number known at compile time",
            span,
            f"this is {describe(value)}",
            help=_HELP,
        )
    return found
