"""Products, quotients and powers of values of the network, entry by entry: `.*`, `./` and `.^`."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem, quoted
from implicit_dsl.resolve.values import MatrixExpression, ParameterValue, describe, is_matrix, outputs_hint
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.source import Span


def factors(context: Context, node: s.Binary, left: Any, right: Any) -> tuple[Any, Any]:
    """Both sides of `.*`, where matrices made of parameters, such as `W'`, count as their entries."""
    left, right = (
        _entries(context, side, part.span) if isinstance(side, MatrixExpression) else side
        for side, part in ((left, node.left), (right, node.right))
    )
    if isinstance(left, ParameterValue) and isinstance(right, ParameterValue):
        left = apply.offset(context, left, node.left.span)
    return left, right


def _entries(context: Context, matrix: Any, span: Span) -> Any:
    """The entries of a matrix as a value, or the matrix itself where these are no entries of parameters."""
    if isinstance(matrix, ParameterValue):
        return apply.offset(context, matrix, span)
    if not isinstance(matrix, MatrixExpression) or matrix.operation not in ("transpose", "scale", "sum"):
        return matrix
    parts = [_entries(context, part, span) for part in matrix.parts]
    if not all(isinstance(part, Wire) for part in parts):
        return matrix
    match matrix.operation:
        case "transpose":
            return apply.linear(context, "permute", {"axes": (1, 0)}, parts[0], span)
        case "scale":
            return apply.scale(context, matrix.number, parts[0], span)
        case _:
            return reduce(lambda total, part: apply.add(context, total, part, span), parts)


def product(context: Context, node: s.Binary, left: Any, right: Any) -> Wire:
    for value, part in ((left, node.left), (right, node.right)):
        if not isinstance(value, (Wire, ParameterValue)):
            raise problem(
                "E0207",
                "`.*` multiplies values of the network entry by entry",
                part.span,
                f"this is {describe(value)}",
                help=f"apply it to something: `{quoted(part.span)} * …`"
                if is_matrix(value)
                else outputs_hint(value),
            )
    if isinstance(left, Wire) and isinstance(right, Wire):
        return apply.multiply(context, left, right, node.span)
    parameter, wire = (left, right) if isinstance(right, Wire) else (right, left)
    return apply.weigh(context, parameter, wire, node.span)


def quotient(context: Context, node: s.Binary, left: Any, right: Any) -> Wire:
    """`a ./ b`, where at least one is a value of the network, and b is no number."""
    divisor = apply.as_value(context, right, node.right.span)
    if is_number(left):
        numerator = {"numerator": apply.finite(left, node.left.span)}
        return apply.by_kind(context, "reciprocal", (divisor,), node.span, numerator)
    value = apply.as_value(context, left, node.left.span)
    return apply.by_kind(context, "quotient", apply.repeated(context, value, divisor, node.span), node.span)


def power(context: Context, node: s.Binary, left: Any, right: Any) -> Wire:
    """`x .^ p` for a number p, and `b .^ x` = exp(log(b) x) for a positive number b."""
    if is_number(right) and isinstance(left, Wire):
        exponent = apply.finite(right, node.right.span)
        if exponent == 0:
            return apply.constant(context, 1.0, left.shape, node.span)
        if exponent == 1:
            return left
        return apply.by_kind(context, "power", (left,), node.span, {"exponent": exponent})
    base = apply.finite(left, node.left.span) if is_number(left) else 0.0
    if base > 0 and isinstance(right, Wire):
        scaled = apply.scale(context, math.log(base), right, node.span)
        return apply.by_kind(context, "exp", (scaled,), node.span)
    raise problem(
        "E0207",
        "`.^` takes a value of the network and a number, or a positive number and a value",
        node.operator_span,
        f"between {describe(left)} and {describe(right)}",
        help="`exp(b .* log(a))` is a to the power of b, for positive a",
    )
