"""Operators on wires: where shapes are inferred, and mismatches found."""

from __future__ import annotations

from typing import Any

from implicit_dsl.errors import Label
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import ActivationRule, LinearRule, Operator, Settings, ShapeError
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.values import Layer, MatrixExpression, ParameterValue, describe
from implicit_dsl.resolve.wires import Tensor, Wire
from implicit_dsl.shapes import Shape, count, known, show
from implicit_dsl.source import Span

MOST_ENTRIES = 2**40  # of one tensor or one state; more is a slip, not a network


def origin_label(wire: Wire, span: Span) -> tuple[Label, ...]:
    """Where the shape of a value comes from, unless that is the place already shown."""
    if wire.span.source is span.source and wire.span.start <= span.start and span.end <= wire.span.end:
        return ()
    if span.source is wire.span.source and span.start <= wire.span.start and wire.span.end <= span.end:
        return ()
    return (Label(wire.span, f"has shape {show(wire.shape)}"),)


def _shape_problem(error: ShapeError, blame: Span, wire: Wire) -> Problem:
    return problem(
        "E0201",
        error.message,
        blame,
        error.text,
        labels=origin_label(wire, blame),
        notes=error.notes,
        help=error.help,
    )


def _checked(operator: Operator, span: Span) -> Operator:
    sizes = known(operator.target)
    if sizes is not None and count(sizes) > MOST_ENTRIES:
        raise problem("E0107", f"a value of shape {show(sizes)} is too large", span)
    return operator


def linear(context: Context, kind: str, settings: Settings, wire: Wire, span: Span) -> Wire:
    """A linear operator without parameters on a wire."""
    try:
        operator = OPERATORS[kind].operator(settings, wire.shape)
    except ShapeError as error:
        raise _shape_problem(error, span, wire) from None
    return context.wire("linear", operator.target, span, (wire,), _checked(operator, span))


def activate(context: Context, rule: ActivationRule, settings: Settings, wire: Wire, span: Span) -> Wire:
    """φ on a wire."""
    operator = rule.operator(settings, wire.shape)
    return context.wire("activation", operator.target, span, (wire,), operator)


def apply_layer(context: Context, layer: Layer, wire: Wire, span: Span) -> Wire:
    """A layer on a wire; its second use shares the weights of the first."""
    try:
        operator = layer.rule.operator(layer.settings, wire.shape)
    except ShapeError as error:
        raise _shape_problem(error, layer.blame.get(error.argument, span), wire) from None
    _checked(operator, span)
    specs = layer.rule.parameters(operator)
    for spec in specs:
        if count(spec.shape) > MOST_ENTRIES:
            raise problem("E0107", f"weights of shape {show(spec.shape)} are too large", layer.span)
    if layer.operator is None:
        layer.operator, layer.first_use = operator, span
        for spec in specs:
            tensor = Tensor(f"{layer.name}.{spec.role}", spec.shape, spec.trainable, None, layer.span)
            layer.tensors.append(tensor)
            context.tensors.append(tensor)
        if specs:
            context.layers.append(layer)
    elif [t.shape for t in layer.tensors] != [s.shape for s in specs]:
        raise _tie_problem(layer, specs[0].shape, wire, span)
    ids = tuple((spec.role, tensor.id) for spec, tensor in zip(specs, layer.tensors))
    operator = Operator(operator.kind, operator.source, operator.target, operator.settings, ids)
    kind = "linear" if isinstance(layer.rule, LinearRule) else "activation"
    return context.wire(kind, operator.target, span, (wire,), operator)


def _tie_problem(layer: Layer, shape: Shape, wire: Wire, span: Span) -> Problem:
    assert layer.first_use is not None and layer.operator is not None
    return problem(
        "E0503",
        "this layer is used on inputs of two shapes, so its weights cannot be shared",
        span,
        f"here on {show(wire.shape)}: weights {show(shape)}",
        labels=(
            Label(
                layer.first_use,
                f"here on {show(layer.operator.source)}: weights {show(layer.tensors[0].shape)}",
            ),
        ),
        help="a layer that is used twice is tied; write two layers instead",
    )


def apply_matrix(context: Context, matrix: Any, wire: Wire, span: Span) -> Wire:
    """A matrix expression on a wire: sums and products become sums and chains of operators."""
    match matrix:
        case Layer():
            if not isinstance(matrix.rule, LinearRule):
                raise _not_linear(matrix, span)
            return apply_layer(context, matrix, wire, span)
        case ParameterValue():
            return _apply_parameter(context, matrix, False, wire, span)
        case MatrixExpression("transpose", (inner,)):
            return _apply_transposed(context, inner, wire, span, matrix.span)
        case MatrixExpression("sum"):
            parts = [apply_matrix(context, part, wire, span) for part in matrix.parts]
            total = parts[0]
            for part in parts[1:]:
                total = add(context, total, part, span)
            return total
        case MatrixExpression("product"):
            for part in reversed(matrix.parts):
                wire = apply_matrix(context, part, wire, span)
            return wire
        case MatrixExpression("scale", (inner,)):
            return scale(context, matrix.number, apply_matrix(context, inner, wire, span), span)
        case MatrixExpression("identity"):
            if wire.shape[-1:] != (matrix.number,):
                raise problem(
                    "E0201",
                    f"I({matrix.number}) maps {matrix.number} to {matrix.number}, but its input is {show(wire.shape)}",
                    span,
                    labels=origin_label(wire, span),
                )
            return wire
        case _:
            raise problem("E0207", f"{describe(matrix)} cannot be applied to a value", span)


def _not_linear(layer: Layer, span: Span) -> Problem:
    name = layer.rule.names[0]
    return problem(
        "E0307",
        f"`*` applies a linear operator, and {name} is not linear",
        layer.span,
        "an activation",
        help=f"write `{layer.span.text}(…)`, or `… |> {layer.span.text}`",
    )


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
            help="write `.*` for the elementwise product" if len(shape) == 1 else "",
        )
    settings = {"shape": shape, "transposed": transposed, "name": matrix.name + ("'" if transposed else "")}
    try:
        operator = OPERATORS["matrix"].operator(settings, wire.shape)
    except ShapeError as error:
        problem_ = _shape_problem(error, span, wire)
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
            return apply_matrix(context, matrix, wire, span)
        case MatrixExpression("sum" | "scale" | "identity", parts):
            turned = tuple(MatrixExpression("transpose", (part,), 0.0, blame) for part in parts)
            made = MatrixExpression(inner.operation, turned, inner.number, inner.span)
            return apply_matrix(context, made, wire, span)
        case MatrixExpression("product", parts):
            turned = tuple(MatrixExpression("transpose", (part,), 0.0, blame) for part in reversed(parts))
            return apply_matrix(context, MatrixExpression("product", turned, 0.0, inner.span), wire, span)
        case _:
            raise problem("E0900", "the transpose of a layer is not supported in this version", blame)


def scale(context: Context, factor: float, wire: Wire, span: Span) -> Wire:
    """factor · wire."""
    if factor == 1:
        return wire
    return linear(context, "scale", {"factor": factor}, wire, span)


def constant(context: Context, value: float, shape: Shape, span: Span) -> Wire:
    """The same number in each entry of a value."""
    operator = OPERATORS["constant"].operator({"shape": shape, "value": value}, ())
    return context.wire("constant", shape, span, (), operator)


def offset(context: Context, parameter: ParameterValue, span: Span) -> Wire:
    """A `param` as a value."""
    shape = parameter.tensor.shape
    operator = OPERATORS["offset"].operator({"shape": shape}, ())
    operator = Operator(
        operator.kind, (), operator.target, operator.settings, (("weight", parameter.tensor.id),)
    )
    return context.wire("constant", shape, span, (), operator)


def add(context: Context, left: Wire, right: Wire, span: Span) -> Wire:
    """left + right, of one shape: nothing is repeated silently."""
    if left.shape != right.shape:
        raise problem(
            "E0204",
            f"values of shapes {show(left.shape)} and {show(right.shape)} cannot be added",
            span,
            labels=(*origin_label(left, span), *origin_label(right, span)),
            notes=("shapes must be equal: nothing is repeated along an axis unless it is written",),
        )
    terms: list[Wire] = []
    for side in (left, right):
        # a sum within a sum is one sum, unless it has a name of its own
        terms.extend(side.sources if side.kind == "sum" and not side.name else (side,))
    return context.wire("sum", left.shape, span, tuple(terms))


def concatenate(context: Context, parts: list[Wire], axis: int, span: Span) -> Wire:
    """The parts side by side along an axis (from 0)."""
    first = parts[0]
    sizes: list[int] = []
    for part in parts:
        same = len(part.shape) == len(first.shape) and axis < len(part.shape)
        if (
            not same
            or part.shape[:axis] + part.shape[axis + 1 :] != first.shape[:axis] + first.shape[axis + 1 :]
        ):
            raise problem(
                "E0204",
                f"values of shapes {show(first.shape)} and {show(part.shape)} cannot be joined along axis {axis + 1}",
                span,
                labels=(*origin_label(first, span), *origin_label(part, span)),
                notes=("all other axes must agree",),
            )
        size = part.shape[axis]
        if not isinstance(size, int):
            raise problem(
                "E0205",
                f"axis {axis + 1} of {show(part.shape)} is free, so nothing can be joined to it",
                span,
            )
        sizes.append(size)
    placed, start = [], 0
    for part, size in zip(parts, sizes):
        placed.append(
            linear(context, "place", {"axis": axis, "start": start, "total": sum(sizes)}, part, span)
        )
        start += size
    return context.wire("cat", placed[0].shape, span, tuple(placed))
