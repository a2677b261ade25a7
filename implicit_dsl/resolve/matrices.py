"""Matrices applied to values: parameters, sums, products and transposes, and those of layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.errors import Label
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import LinearRule, Operator, ShapeError
from implicit_dsl.resolve.apply import add, apply_layer, finite, inverse, scale, tied
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import CALL, Context
from implicit_dsl.resolve.problem import later, problem, quoted
from implicit_dsl.resolve.refusals import not_linear, origin_label, shape_problem
from implicit_dsl.resolve.values import (
    Layer,
    MatrixExpression,
    ParameterValue,
    TimeValue,
    describe,
    is_matrix,
    short,
)
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import show
from implicit_dsl.source import Span

MOST_FACTORS = 64  # of the power of a matrix: each is an operator of its own


def of_matrices(context: Context, node: s.Binary, left: Any, right: Any) -> Any:
    """Matrices made of matrices."""
    match node.operator:
        case "*" | "∘" if is_matrix(left) and is_matrix(right):
            for side, part in ((left, node.left), (right, node.right)):
                if isinstance(side, Layer) and not isinstance(side.rule, LinearRule):
                    raise problem(
                        "E0307", f"`{node.operator}` composes linear operators", part.span, "is not linear"
                    )
            return MatrixExpression("product", (left, right), 0.0, node.span)
        case "^" if is_matrix(left) and isinstance(right, int) and not isinstance(right, bool):
            return _power(context, node, left, right)
        case "*" if is_number(left) and is_matrix(right):
            return MatrixExpression("scale", (right,), finite(left, node.left.span), node.span)
        case "*" | "/" if is_matrix(left) and is_number(right):
            place = node.right.span
            factor = finite(right, place) if node.operator == "*" else inverse(right, place)
            return MatrixExpression("scale", (left,), factor, node.span)
        case "+" if is_matrix(left) and is_matrix(right):
            return MatrixExpression("sum", (left, right), 0.0, node.span)
        case "-" if is_matrix(left) and is_matrix(right):
            negative = MatrixExpression("scale", (right,), -1.0, node.right.span)
            return MatrixExpression("sum", (left, negative), 0.0, node.span)
        case "+" if isinstance(left, (str, tuple)) and type(left) is type(right):
            context.step(node.span, len(left) + len(right))
            return left + right  # type: ignore[operator]
        case _:
            scalar = isinstance(left, ParameterValue) and not left.tensor.shape and is_matrix(right)
            raise problem(
                "E0207",
                f"`{node.operator}` does not apply to {describe(left)} and {describe(right)}",
                node.operator_span,
                help=f"multiply what it gives: `{quoted(node.left.span)} * ({quoted(node.right.span)} * …)`"
                if (scalar or (isinstance(left, TimeValue) and is_matrix(right))) and node.operator == "*"
                else "",
            )


def _power(context: Context, node: s.Binary, matrix: Any, exponent: int) -> MatrixExpression:
    """A^2 is A*A; each factor is applied as it stands."""
    if not 1 <= exponent <= MOST_FACTORS:
        place, message = node.right.span, f"the power of a matrix is at least 1 and at most {MOST_FACTORS}"
        raise problem("E0205", message, place, f"this is {short(exponent)}")
    if isinstance(matrix, Layer) and not isinstance(matrix.rule, LinearRule):
        raise problem("E0307", "`^` composes linear operators", node.left.span, "is not linear")
    return MatrixExpression("product", (matrix,) * exponent, 0.0, node.span)


def apply_matrix(context: Context, matrix: Any, wire: Wire, span: Span) -> Wire:
    """A matrix expression on a wire: sums and products become sums and chains of operators."""
    context.step(span, CALL)
    match matrix:
        case Layer():
            if not isinstance(matrix.rule, LinearRule):
                raise not_linear(matrix)
            return apply_layer(context, matrix, wire, span)
        case ParameterValue():
            return _apply_parameter(context, matrix, False, wire, span)
        case MatrixExpression("transpose", (inner,)):
            return _apply_transposed(context, inner, wire, span, matrix.span)
        case MatrixExpression("sum"):
            first, *others = spine(matrix)
            total = apply_matrix(context, first, wire, span)
            for part in others:
                total = add(context, total, apply_matrix(context, part, wire, span), span)
            return total
        case MatrixExpression("product"):
            for part in reversed(spine(matrix)):
                wire = apply_matrix(context, part, wire, span)
            return wire
        case MatrixExpression("scale", (inner,)):
            return scale(context, matrix.number, apply_matrix(context, inner, wire, span), span)
        case MatrixExpression("identity"):
            if wire.shape[-1:] != (matrix.number,):
                raise problem(
                    "E0201",
                    f"I({matrix.number}) takes size {matrix.number}, but its input is {show(wire.shape)}",
                    span,
                    labels=origin_label(wire, span),
                )
            return wire
        case _:
            raise problem("E0207", f"{describe(matrix)} cannot be applied to a value", span)


def spine(matrix: MatrixExpression) -> list[Any]:
    """The parts of a sum or product that leans to the left, which may be long."""
    parts: list[Any] = []
    left: Any = matrix
    while isinstance(left, MatrixExpression) and left.operation == matrix.operation:
        parts.extend(reversed(left.parts[1:]))
        left = left.parts[0]
    return [left, *reversed(parts)]


def _apply_parameter(
    context: Context, matrix: ParameterValue, transposed: bool, wire: Wire, span: Span
) -> Wire:
    shape = matrix.tensor.shape
    if len(shape) != 2:
        raise problem(
            "E0201",
            f"`{matrix.name}` has shape {show(shape)}, and only a matrix [m, n] can be applied with `*`",
            span,
            labels=(Label(matrix.span, "declared here"),),
            help=f"a vector is added: `+ {matrix.name}`" if len(shape) == 1 else "",
        )
    within = matrix.tensor.within
    if transposed and within is not None and within.symmetry:
        turned = _apply_parameter(context, matrix, False, wire, span)
        return scale(context, within.symmetry, turned, span)
    settings = {"shape": shape, "transposed": transposed, "name": matrix.name + ("'" if transposed else "")}
    kind, source = ("lookup", (*wire.shape, wire.tokens)) if wire.tokens else ("matrix", wire.shape)
    if within is not None and within.linear is not None:
        if wire.tokens:
            raise problem(
                "E0207",
                f"`{matrix.name}` is in {within.name}(…), and tokens need a matrix with rows of its own",
                span,
                labels=origin_label(wire, span),
                help="write a `param` without a set, or `Embedding(vocab, width)`",
            )
        settings["set"] = (within.kind, *within.arguments)
        kind = "structured"
    try:
        operator = OPERATORS[kind].operator(settings, source)
    except ShapeError as error:
        problem_ = shape_problem(error, span, wire)
        labels = (*problem_.diagnostic.labels, Label(matrix.span, f"declared {show(shape)} here"))
        raise problem(
            "E0201", error.message, span, error.text, labels=labels, notes=error.notes, help=error.help
        ) from None
    operator = Operator(
        operator.kind, operator.source, operator.target, operator.settings, (("weight", matrix.tensor.id),)
    )
    return context.wire("linear", operator.target, span, (wire,), operator)


def _apply_transposed(context: Context, inner: Any, wire: Wire, span: Span, blame: Span) -> Wire:
    match inner:
        case ParameterValue():
            return _apply_parameter(context, inner, True, wire, span)
        case MatrixExpression("transpose", (matrix,)):
            if isinstance(matrix, Layer) and matrix.settings.get("bias", False):
                raise problem(
                    "E0207",
                    "a transpose has no bias, and this layer, transposed twice, has one",
                    blame,
                    labels=(Label(matrix.span, "with `bias = true`"),),
                    help="write the layer itself, or give it `bias = false`",
                )
            return apply_matrix(context, matrix, wire, span)
        case MatrixExpression("sum" | "scale" | "identity", parts):
            turned = tuple(MatrixExpression("transpose", (part,), 0.0, blame) for part in parts)
            made = MatrixExpression(inner.operation, turned, inner.number, inner.span)
            return apply_matrix(context, made, wire, span)
        case MatrixExpression("product", parts):
            turned = tuple(MatrixExpression("transpose", (part,), 0.0, blame) for part in reversed(parts))
            return apply_matrix(context, MatrixExpression("product", turned, 0.0, inner.span), wire, span)
        case Layer():
            return _apply_layer_transposed(context, inner, wire, span, blame)
        case _:
            raise problem("E0207", f"{describe(inner)} has no transpose", blame)


def _apply_layer_transposed(context: Context, layer: Layer, wire: Wire, span: Span, blame: Span) -> Wire:
    """The transposed matrix of a layer, tied to it and without its bias.

    What it gives is what the layer took where it gave this shape, or what its settings say.
    """
    rule = layer.rule
    if not isinstance(rule, LinearRule):
        raise not_linear(layer)
    fitting = [use for use in layer.uses if use.target == wire.shape]
    if len(fitting) > 1:
        raise problem(
            "E0201",
            f"this layer was applied to {show(fitting[0].source)} and to {show(fitting[1].source)}, "
            "so it is not known which of them its transpose gives",
            blame,
            labels=(Label(layer.span, "two inputs of this layer give one shape"),),
        )
    if type(rule).transpose is LinearRule.transpose:
        raise later(f"the transpose of {rule.names[0]}", blame, rule.instead_of_transpose)
    try:
        use = fitting[0] if fitting else rule.onto(layer.settings, wire.shape, layer.operator)
        if any(isinstance(size, int) and size < 1 for size in use.source):
            raise ShapeError(
                f"no input of this {rule.names[0]} gives {show(wire.shape)}, "
                "which its transpose is applied to",
                "too small",
            )
        turned = rule.transpose(use)
    except ShapeError as error:
        raise shape_problem(error, layer.blame.get(error.argument, blame), wire) from None
    assert turned is not None, "a rule that has a transpose has it for all of its operators"
    ids = dict(tied(context, layer, use, wire, span))
    weights = (("weight", ids["weight"]),) if "weight" in ids else ()
    return context.wire("linear", turned.target, span, (wire,), replace(turned, parameters=weights))
