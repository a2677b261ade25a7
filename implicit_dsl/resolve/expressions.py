"""The value of an expression: arithmetic at compile time, wires for the network."""

from __future__ import annotations

import math
import operator as arithmetic
from collections.abc import Callable, Iterator
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.operators.base import LinearRule
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.arguments import Arguments
from implicit_dsl.resolve.calls import call_value, evaluate_call
from implicit_dsl.resolve.constants import items, truth
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.indexing import evaluate_field, evaluate_index
from implicit_dsl.resolve.lookup import evaluate_name
from implicit_dsl.resolve.problem import later, problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import (
    Function,
    Instance,
    Layer,
    MatrixExpression,
    PairValue,
    ParameterValue,
    describe,
)
from implicit_dsl.resolve.wires import Wire

MOST_BITS = 4096  # of an integer


def evaluate(context: Context, expression: s.Expression, environment: Environment) -> Any:
    """The value of an expression. Raises Problem, or Poisoned if the cause was reported."""
    match expression:
        case s.Name():
            return evaluate_name(context, expression, environment)
        case s.Literal():
            return expression.value
        case s.Call():
            return evaluate_call(context, expression, environment)
        case s.Binary():
            return _binary_chain(context, expression, environment)
        case s.Pipe():
            return _pipe_chain(context, expression, environment)
        case s.Index():
            return evaluate_index(context, expression, environment)
        case s.Unary():
            return _unary(context, expression, environment)
        case s.Sequence():
            return tuple(evaluate(context, item, environment) for item in expression.items)
        case s.Pair():
            left = evaluate(context, expression.left, environment)
            return PairValue(left, evaluate(context, expression.right, environment))
        case s.Range():
            return _range(context, expression, environment)
        case s.Comparison():
            return _comparison(context, expression, environment)
        case s.Comprehension():
            return tuple(comprehend(context, expression, environment))
        case s.Field():
            return evaluate_field(context, expression, environment)
        case s.Transpose():
            return _transpose(context, expression, environment)
        case s.Lambda():
            name = expression.parameter.name
            return Function("->", (name,), expression.body, environment, expression.span)
        case s.Interval():
            raise later("the interval `a..b`", expression.span, "it is the time span of an `ode`")
        case s.Colon() | s.Axis():
            raise problem("E0309", "this belongs into the brackets of a shape or an index", expression.span)


def _binary_chain(context: Context, expression: s.Binary, environment: Environment) -> Any:
    """A chain of operators leans to the left and may be long, so it is not walked by recursion."""
    spine: list[s.Binary] = []
    left: s.Expression = expression
    while isinstance(left, s.Binary) and left.operator not in ("&&", "||"):
        spine.append(left)
        left = left.left
    if not spine:
        return _logical(context, expression, environment)
    value = evaluate(context, left, environment)
    for node in reversed(spine):
        value = binary(context, node, value, evaluate(context, node.right, environment))
    return value


def _logical(context: Context, expression: s.Binary, environment: Environment) -> bool:
    left = truth(context, expression.left, environment)
    if left == (expression.operator == "||"):
        return left
    return truth(context, expression.right, environment)


def _pipe_chain(context: Context, expression: s.Pipe, environment: Environment) -> Any:
    stages: list[s.Pipe] = []
    first: s.Expression = expression
    while isinstance(first, s.Pipe):
        stages.append(first)
        first = first.value
    value = evaluate(context, first, environment)
    for stage in reversed(stages):
        function = evaluate(context, stage.function, environment)
        piped = Arguments([value], [stage.value.span], {})
        value = call_value(context, function, piped, stage.function.span, environment)
    return value


# --------------------------------------------------------------------------- operators


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _matrix(value: Any) -> bool:
    return isinstance(value, (Layer, MatrixExpression)) or (
        isinstance(value, ParameterValue) and len(value.tensor.shape) == 2
    )


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
    "+": arithmetic.add,
    "-": arithmetic.sub,
    "*": arithmetic.mul,
    "/": arithmetic.truediv,
    "÷": arithmetic.floordiv,
    "%": arithmetic.mod,
    "^": _power,
}


def _calculate(node: s.Binary, left: Any, right: Any) -> Any:
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
    if isinstance(result, float) and result.is_integer() and node.operator == "/" and _exact(left, right):
        return int(result)
    return result


def _exact(left: Any, right: Any) -> bool:
    return isinstance(left, int) and isinstance(right, int)


def binary(context: Context, node: s.Binary, left: Any, right: Any) -> Any:
    """`left operator right` for two values."""
    if _number(left) and _number(right):
        return _calculate(node, left, right)
    if not isinstance(left, Wire) and not isinstance(right, Wire):
        return _matrix_binary(context, node, left, right)
    match node.operator:
        case "+" | ".+" | "-" | ".-":
            return _sum(context, node, left, right)
        case "*" | ".*":
            return _product(context, node, left, right)
        case "/" | "./" if isinstance(left, Wire) and _number(right):
            if right == 0:
                raise problem("E0208", "division by zero", node.right.span, "this is 0")
            return apply.scale(context, 1 / right, left, node.span)
        case "/" | "./":
            raise problem(
                "E0207",
                "a value of the network can be divided by a number only",
                node.operator_span,
                describe(right),
            )
        case _:
            raise problem(
                "E0207",
                f"`{node.operator}` does not apply to values of the network",
                node.operator_span,
                f"between {describe(left)} and {describe(right)}",
            )


def _sum(context: Context, node: s.Binary, left: Any, right: Any) -> Wire:
    sides: list[Wire] = []
    shape = left.shape if isinstance(left, Wire) else right.shape
    for value, part in ((left, node.left), (right, node.right)):
        if isinstance(value, Wire):
            sides.append(value)
        elif _number(value):
            sides.append(apply.constant(context, float(value), shape, part.span))
        elif isinstance(value, ParameterValue):
            sides.append(apply.offset(context, value, part.span))
        else:
            raise problem(
                "E0207",
                f"{describe(value)} cannot be added to a value of the network",
                part.span,
                help=f"apply it to something: `{part.span.text} * …`" if _matrix(value) else "",
            )
    if node.operator in ("-", ".-"):
        sides[1] = apply.scale(context, -1.0, sides[1], node.right.span)
    return apply.add(context, sides[0], sides[1], node.span)


def _product(context: Context, node: s.Binary, left: Any, right: Any) -> Any:
    if _number(left):
        return apply.scale(context, float(left), right, node.span)
    if _number(right):
        return apply.scale(context, float(right), left, node.span)
    if node.operator == ".*":
        raise later("the product `.*` of two values of the network", node.operator_span)
    if isinstance(left, Wire) and isinstance(right, Wire):
        raise problem(
            "E0306",
            "`*` between two values of the network",
            node.operator_span,
            labels=(),
            notes=("`*` applies a linear operator to a value, or scales it by a number",),
            help=f"write `{node.left.span.text} .* {node.right.span.text}` for the elementwise product",
        )
    if isinstance(right, Wire):
        if isinstance(left, Instance) or not (_matrix(left) or isinstance(left, ParameterValue)):
            raise problem(
                "E0307",
                f"`*` applies a linear operator, and this is {describe(left)}",
                node.left.span,
                help=f"write `{node.right.span.text} |> {node.left.span.text}`",
            )
        return apply.apply_matrix(context, left, right, node.span)
    raise problem(
        "E0306",
        "the operator stands to the left of the value that it is applied to",
        node.span,
        help=f"write `{node.right.span.text} * {node.left.span.text}`" if _matrix(right) else "",
    )


def _matrix_binary(context: Context, node: s.Binary, left: Any, right: Any) -> Any:
    """Matrices made of matrices."""
    match node.operator:
        case "*" | "∘" if _matrix(left) and _matrix(right):
            for side, part in ((left, node.left), (right, node.right)):
                if isinstance(side, Layer) and not isinstance(side.rule, LinearRule):
                    raise problem(
                        "E0307", f"`{node.operator}` composes linear operators", part.span, "is not linear"
                    )
            return MatrixExpression("product", (left, right), 0.0, node.span)
        case "*" if _number(left) and _matrix(right):
            return MatrixExpression("scale", (right,), float(left), node.span)
        case "*" | "/" if _matrix(left) and _number(right) and right != 0:
            factor = float(right) if node.operator == "*" else 1 / right
            return MatrixExpression("scale", (left,), factor, node.span)
        case "+" if _matrix(left) and _matrix(right):
            return MatrixExpression("sum", (left, right), 0.0, node.span)
        case "-" if _matrix(left) and _matrix(right):
            negative = MatrixExpression("scale", (right,), -1.0, node.right.span)
            return MatrixExpression("sum", (left, negative), 0.0, node.span)
        case "+" if isinstance(left, (str, tuple)) and type(left) is type(right):
            context.step(node.span, len(left) + len(right))
            return left + right  # type: ignore[operator]
        case _:
            raise problem(
                "E0207",
                f"`{node.operator}` does not apply to {describe(left)} and {describe(right)}",
                node.operator_span,
            )


def _unary(context: Context, node: s.Unary, environment: Environment) -> Any:
    if node.operator == "!":
        return not truth(context, node.operand, environment)
    value = evaluate(context, node.operand, environment)
    negative = node.operator.endswith("-")
    if _number(value):
        return -value if negative else value
    if isinstance(value, Wire):
        return apply.scale(context, -1.0, value, node.span) if negative else value
    if _matrix(value):
        return MatrixExpression("scale", (value,), -1.0, node.span) if negative else value
    if isinstance(value, ParameterValue):
        wire = apply.offset(context, value, node.span)
        return apply.scale(context, -1.0, wire, node.span) if negative else wire
    raise problem("E0207", f"`{node.operator}` does not apply to {describe(value)}", node.span)


def _transpose(context: Context, node: s.Transpose, environment: Environment) -> Any:
    value = evaluate(context, node.value, environment)
    if isinstance(value, Wire):
        raise problem(
            "E0207",
            "`'` is the transpose of a matrix, and this is a value of the network",
            node.span,
            describe(value),
            help="the derivative in an `ode` is written `D(x)`, the step before in a `recurrent` `prev(x)`",
        )
    if not _matrix(value):
        raise problem("E0207", f"{describe(value)} has no transpose", node.span)
    return MatrixExpression("transpose", (value,), 0.0, node.span)


# --------------------------------------------------------------------------- ranges and comparisons


def _range(context: Context, node: s.Range, environment: Environment) -> range:
    bounds: list[int] = []
    for part in (node.start, node.step, node.stop):
        if part is None:
            bounds.append(1)
            continue
        value = evaluate(context, part, environment)
        if isinstance(value, float) and value.is_integer() and math.isfinite(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise problem("E0205", "the bounds of a range must be whole numbers", part.span, describe(value))
        bounds.append(value)
    start, step, stop = bounds
    if step == 0:
        raise problem("E0208", "a range cannot have step 0", node.span)
    return range(start, stop + (1 if step > 0 else -1), step)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": arithmetic.lt,
    "<=": arithmetic.le,
    ">": arithmetic.gt,
    ">=": arithmetic.ge,
    "==": arithmetic.eq,
    "!=": arithmetic.ne,
    "in": lambda a, b: a in b,
}


def _comparison(context: Context, node: s.Comparison, environment: Environment) -> bool:
    values = [evaluate(context, operand, environment) for operand in node.operands]
    for value, operand in zip(values, node.operands):
        if isinstance(value, Wire):
            raise problem(
                "E0205",
                "values of the network cannot be compared at compile time",
                operand.span,
                describe(value),
            )
    try:
        return all(_COMPARE[o](a, b) for o, a, b in zip(node.operators, values, values[1:]))
    except TypeError:
        found = " and ".join(describe(value) for value in values[:2])
        raise problem("E0207", f"{found} cannot be compared", node.span) from None


def comprehend(context: Context, node: s.Comprehension, environment: Environment) -> Iterator[Any]:
    """The values of a comprehension, innermost binding fastest."""

    def run(bindings: tuple[s.Binding, ...], scope: Environment) -> Iterator[Any]:
        if not bindings:
            if node.condition is None or truth(context, node.condition, scope):
                yield evaluate(context, node.value, scope)
            return
        first, *rest = bindings
        for number, value in enumerate(items(context, first.values, scope)):
            context.step(first.span)
            inner = scope.inner({first.name.name: value}, first.span.start, number)
            yield from run(tuple(rest), inner)

    return run(node.bindings, environment)
