"""Arithmetic and comparisons at compile time, bounded in time and memory."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.values import describe
from implicit_dsl.source import Span

MOST_BITS = 4096  # of an integer


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
        if right < 0:
            return float(left) ** right
        if right * left.bit_length() > MOST_BITS:
            raise OverflowError
    result = left**right
    if isinstance(result, complex):
        raise ValueError
    return result


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": python.add,
    "-": python.sub,
    "*": python.mul,
    "/": python.truediv,
    "÷": python.floordiv,
    "%": python.mod,
    "^": _power,
}


def calculate(node: s.Binary, left: Any, right: Any) -> Any:
    """Arithmetic on two numbers."""
    operation = _ARITHMETIC.get(node.operator.removeprefix("."))
    if operation is None:
        raise problem("E0207", f"`{node.operator}` does not apply to two numbers", node.operator_span)
    try:
        result = operation(left, right)
        if isinstance(result, int) and result.bit_length() > MOST_BITS:
            raise OverflowError
    except ZeroDivisionError:
        raise problem("E0208", "division by zero", node.right.span, "this is 0") from None
    except (OverflowError, ValueError):
        raise problem("E0208", "this number is out of range", node.span) from None
    if node.operator == "/" and isinstance(left, int) and isinstance(right, int) and left % right == 0:
        return left // right
    return result


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": python.lt,
    "<=": python.le,
    ">": python.gt,
    ">=": python.ge,
}


def compare(context: Context, node: s.Comparison, number: int, left: Any, right: Any) -> bool:
    """The comparison `number` of a chain."""
    operator = node.operators[number]
    for value, place in zip((left, right), node.operands[number : number + 2]):
        if not isinstance(value, (bool, int, float, str, tuple, range)):
            message = "only what is known at compile time can be compared"
            raise problem("E0205", message, place.span, f"this is {describe(value)}")
    strings = isinstance(left, str) and isinstance(right, str)
    match operator:
        case "==" | "!=":
            return _equal(context, left, right, node.span) == (operator == "==")
        case "in" if isinstance(right, (tuple, range)):
            return _contains(context, left, right, node.span)
        case "in" if strings:
            return bool(left in right)
        case _ if operator in _COMPARE and (strings or (is_number(left) and is_number(right))):
            return _COMPARE[operator](left, right)
    found = f"{describe(left)} and {describe(right)}"
    raise problem("E0207", f"`{operator}` does not compare {found}", node.span)


def _equal(context: Context, left: Any, right: Any, span: Span) -> bool:
    """Equality of numbers, strings and lists; lists within lists are counted, as they may repeat."""
    if isinstance(left, range) and isinstance(right, range):
        return left == right
    if isinstance(left, (tuple, range)) and isinstance(right, (tuple, range)):
        context.step(span, len(left))
        return len(left) == len(right) and all(_equal(context, a, b, span) for a, b in zip(left, right))
    if is_number(left) and is_number(right):
        return bool(left == right)
    return type(left) is type(right) and bool(left == right)


def _contains(context: Context, item: Any, values: Any, span: Span) -> bool:
    if isinstance(values, range):
        # Python finds an integer in a range at once, and a float by walking along it
        whole = is_number(item) and math.isfinite(item) and item == int(item)
        return whole and int(item) in values
    context.step(span, len(values))
    return any(_equal(context, item, value, span) for value in values)
