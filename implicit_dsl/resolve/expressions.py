"""The value of an expression: arithmetic at compile time, wires for the network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.errors import Label
from implicit_dsl.fixes import replacing
from implicit_dsl.operators.base import LinearRule
from implicit_dsl.resolve import apply, entrywise, moments
from implicit_dsl.resolve.arguments import Arguments
from implicit_dsl.resolve.arithmetic import calculate, compare, is_number
from implicit_dsl.resolve.calls import call_value, check_elementwise, evaluate_call
from implicit_dsl.resolve.constants import items, truth
from implicit_dsl.resolve.context import WIRE, Context
from implicit_dsl.resolve.declarations import check_variable, formals
from implicit_dsl.resolve.indexing import evaluate_field, evaluate_index
from implicit_dsl.resolve.lookup import evaluate_name
from implicit_dsl.resolve.matrices import apply_matrix, of_matrices
from implicit_dsl.resolve.moments import is_factor
from implicit_dsl.resolve.problem import later, problem, quoted
from implicit_dsl.resolve.refusals import not_linear
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.slips import as_call, turned
from implicit_dsl.resolve.values import (
    Activation,
    Builtin,
    ChainValue,
    Function,
    Instance,
    Layer,
    MatrixExpression,
    PairValue,
    ParameterValue,
    TemplateValue,
    TimeValue,
    describe,
    is_matrix,
    outputs_hint,
)
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import show

MOST_IN_RANGE = 2**61  # so that Python can count the items


def evaluate(context: Context, expression: s.Expression, environment: Environment) -> Any:
    """The value of an expression. Raises Problem, or Poisoned if the cause was reported."""
    budget = context.budget
    budget.left -= 1
    if budget.left < 0:
        raise budget.exhausted(expression.span)
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
            names = formals(expression.parameters)
            return Function("->", names, expression.body, environment, expression.span)
        case s.Interval():
            raise later("the interval `a..b`", expression.span, "it is the time span of an `ode`")
        case s.Colon() | s.Axis():
            raise problem("E0309", "this belongs into the brackets of a shape or an index", expression.span)


def _binary_chain(context: Context, expression: s.Binary, environment: Environment) -> Any:
    """A chain of operators leans to the left and may be long, so it is not walked by recursion."""
    spine: list[s.Binary] = []
    left: s.Expression = expression
    if expression.operator in ("&&", "||"):
        return _logical_chain(context, expression, environment)
    while isinstance(left, s.Binary) and left.operator not in ("&&", "||"):
        spine.append(left)
        left = left.left
    value = evaluate(context, left, environment)
    for node in reversed(spine):
        value = binary(context, node, value, evaluate(context, node.right, environment))
    return value


def _logical_chain(context: Context, expression: s.Binary, environment: Environment) -> bool:
    """`a && b && …`: what stands behind the deciding operand is not evaluated."""
    operands = [expression.right]
    left = expression.left
    while isinstance(left, s.Binary) and left.operator == expression.operator:
        operands.append(left.right)
        left = left.left
    decides = expression.operator == "||"
    return (
        any(truth(context, operand, environment) == decides for operand in [left, *reversed(operands)])
        == decides
    )


def _pipe_chain(context: Context, expression: s.Pipe, environment: Environment) -> Any:
    stages: list[s.Pipe] = []
    first: s.Expression = expression
    while isinstance(first, s.Pipe):
        stages.append(first)
        first = first.value
    value = evaluate(context, first, environment)
    for stage in reversed(stages):
        function = evaluate(context, stage.function, environment)
        if stage.elementwise:
            check_elementwise(function, stage.function.span)
        piped = Arguments([value], [stage.value.span], {})
        value = call_value(context, function, piped, stage.function.span, environment)
    return value


# --------------------------------------------------------------------------- operators


def binary(context: Context, node: s.Binary, left: Any, right: Any) -> Any:
    """`left operator right` for two values."""
    if is_number(left) and is_number(right):
        return calculate(node, left, right)
    if is_factor(left) and is_factor(right):
        return moments.calculate(node, left, right)
    if node.operator in ("./", ".^"):  # entry by entry, a parameter is a value
        if isinstance(left, ParameterValue):
            left = apply.offset(context, left, node.left.span)
        if isinstance(right, ParameterValue):
            right = apply.offset(context, right, node.right.span)
    elif node.operator == ".*" and not (is_factor(left) or is_factor(right)):
        left, right = entrywise.factors(context, node, left, right)
    elif _is_offset(left) and (_is_offset(right) or is_factor(right)):
        left = apply.offset(context, left, node.left.span)
    elif is_factor(left) and _is_offset(right):
        right = apply.offset(context, right, node.right.span)
    if not isinstance(left, Wire) and not isinstance(right, Wire):
        return of_matrices(context, node, left, right)
    match node.operator:
        case "+" | ".+" | "-" | ".-":
            return _sum(context, node, left, right)
        case "*" | ".*":
            return _product(context, node, left, right)
        case "/" | "./" if isinstance(left, Wire) and is_factor(right):
            return apply.scale(context, moments.inverse(right, node.right.span), left, node.span)
        case "./":
            return entrywise.quotient(context, node, left, right)
        case ".^":
            return entrywise.power(context, node, left, right)
        case "/" | "^":
            meaning = "divided by" if node.operator == "/" else "to the power of"
            raise problem(
                "E0207",
                f"`{node.operator}` does not apply to values of the network entry by entry",
                node.operator_span,
                f"{describe(left)}, {meaning} {describe(right)}",
                help=f"write `{quoted(node.left.span)} .{node.operator} {quoted(node.right.span)}`",
                fixes=replacing(node.operator_span, f".{node.operator}"),
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
        elif is_factor(value):
            sides.append(apply.constant(context, moments.finite(value, part.span), shape, part.span))
        elif isinstance(value, ParameterValue):
            sides.append(apply.offset(context, value, part.span))
        else:
            raise problem(
                "E0207",
                f"{describe(value)} cannot be added to a value of the network",
                part.span,
                help=f"apply it to something: `{quoted(part.span)} * …`"
                if is_matrix(value)
                else outputs_hint(value),
            )
    if node.operator in ("-", ".-"):
        sides[1] = apply.scale(context, -1.0, sides[1], node.right.span)
    return apply.add(context, sides[0], sides[1], node.span)


def _product(context: Context, node: s.Binary, left: Any, right: Any) -> Any:
    if is_factor(left):
        return apply.scale(context, moments.finite(left, node.left.span), right, node.span)
    if is_factor(right):
        return apply.scale(context, moments.finite(right, node.right.span), left, node.span)
    numbers = (_is_scalar(left) or _is_scalar(right)) and not is_matrix(left) and not is_matrix(right)
    if node.operator == ".*" or (numbers and _is_value(left) and _is_value(right)):
        return entrywise.product(context, node, left, right)
    if isinstance(left, Wire) and isinstance(right, Wire):
        raise problem(
            "E0306",
            "`*` between two values of the network",
            node.operator_span,
            labels=(
                Label(node.left.span, f"a value of shape {show(left.shape)}"),
                Label(node.right.span, f"a value of shape {show(right.shape)}"),
            ),
            notes=("`*` applies a linear operator to a value, or scales it by a number",),
            help=f"an elementwise product is written `{_operand(node.left)} .* {_operand(node.right)}`",
            fixes=replacing(node.operator_span, ".*"),
        )
    if isinstance(right, Wire):
        if isinstance(left, Instance) or not (is_matrix(left) or isinstance(left, ParameterValue)):
            raise problem(
                "E0307",
                f"`*` applies a linear operator, and this is {describe(left)}",
                node.left.span,
                help=f"write `{quoted(node.right.span)} |> {quoted(node.left.span)}`"
                if _callable(left)
                else "",
                fixes=as_call(node) if _callable(left) and not isinstance(left, TemplateValue) else (),
            )
        if isinstance(left, Layer) and not isinstance(left.rule, LinearRule):
            raise not_linear(left, as_call(node))
        return apply_matrix(context, left, right, node.span)
    raise problem(
        "E0306",
        "the operator stands to the left of the value that it is applied to",
        node.span,
        help=f"write `{quoted(node.right.span)} * {quoted(node.left.span)}`" if is_matrix(right) else "",
        fixes=turned(node) if is_matrix(right) else (),
    )


def _is_offset(value: Any) -> bool:
    """Whether a value is a `param` that is added, and no matrix."""
    return isinstance(value, ParameterValue) and not is_matrix(value)


def _is_value(value: Any) -> bool:
    return isinstance(value, Wire) or _is_offset(value)


def _is_scalar(value: Any) -> bool:
    """Whether a value of the network or a `param` is one number, by which `*` multiplies."""
    shape = value.shape if isinstance(value, Wire) else value.tensor.shape if _is_offset(value) else (1,)
    return not shape


def _operand(part: s.Expression) -> str:
    """The text of an operand of a product, in brackets if it needs them."""
    loose = isinstance(part, s.Binary) and part.operator in ("+", "-", ".+", ".-")
    return f"({quoted(part.span)})" if loose else quoted(part.span)


def _callable(value: Any) -> bool:
    return isinstance(value, (Instance, Function, Builtin, Activation, ChainValue, TemplateValue))


def _unary(context: Context, node: s.Unary, environment: Environment) -> Any:
    if node.operator == "!":
        return not truth(context, node.operand, environment)
    value = evaluate(context, node.operand, environment)
    negative = node.operator.endswith("-")
    if is_number(value):
        return -value if negative else value
    if isinstance(value, TimeValue):
        return moments.function("*", value, node.span, -1.0) if negative else value
    if isinstance(value, Wire):
        return apply.scale(context, -1.0, value, node.span) if negative else value
    if is_matrix(value):
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
    if not is_matrix(value):
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
    if max(map(abs, bounds)) > MOST_IN_RANGE:
        raise problem("E0208", "the bounds of this range are out of range", node.span)
    return range(start, stop + (1 if step > 0 else -1), step)


def _comparison(context: Context, node: s.Comparison, environment: Environment) -> bool:
    values = [evaluate(context, operand, environment) for operand in node.operands]
    pairs = enumerate(pairwise(values))
    results = [compare(context, node, number, *pair) for number, pair in pairs]
    return all(results)  # each was compared, so that all are checked


def comprehend(context: Context, node: s.Comprehension, environment: Environment) -> Iterator[Any]:
    """The values of a comprehension, innermost binding fastest."""
    for scope in scopes(context, node, environment):
        yield evaluate(context, node.value, scope)


def scopes(context: Context, node: s.Comprehension, environment: Environment) -> Iterator[Environment]:
    """The scopes in which the value of a comprehension stands, innermost binding fastest."""
    for binding in node.bindings:
        check_variable(binding.name)

    def run(bindings: tuple[s.Binding, ...], scope: Environment) -> Iterator[Environment]:
        if not bindings:
            if node.condition is None or truth(context, node.condition, scope):
                yield scope
            return
        first, *rest = bindings
        for number, value in enumerate(items(context, first.values, scope)):
            context.step(first.span, WIRE + len(scope.tag) // 2)
            inner = scope.inner({first.name.name: value}, first.span.start, number)
            yield from run(tuple(rest), inner)

    return run(node.bindings, environment)
