"""Operators on wires: where shapes are inferred, and mismatches found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from implicit_dsl.errors import Label
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import ActivationRule, LinearRule, Operator, Rule, Settings, ShapeError
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.mismatch import check_kept
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.refusals import (
    check_entries,
    origin_label,
    shape_problem,
    tie_problem,
    width_problem,
)
from implicit_dsl.resolve.values import Layer, ParameterValue, TimeValue, describe
from implicit_dsl.resolve.wires import Tensor, Wire
from implicit_dsl.shapes import Shape, count, known, show
from implicit_dsl.source import Span

MOST_ENTRIES = 2**40  # of one tensor or one state; more is a slip, not a network
MOST_AXES = 16


def check_size(shape: Shape, span: Span, what: str = "a value") -> None:
    """Raises Problem if a tensor of this shape could never be had."""
    if len(shape) > MOST_AXES:
        raise problem("E0107", f"{what} with {len(shape)} axes is too large", span, f"at most {MOST_AXES}")
    if count(tuple(size for size in shape if isinstance(size, int))) > MOST_ENTRIES:
        raise problem(
            "E0107",
            f"{what} of shape {show(shape)} is too large",
            span,
            f"more than 2^{MOST_ENTRIES.bit_length() - 1} entries",
        )


def linear(context: Context, kind: str, settings: Settings, wire: Wire, span: Span) -> Wire:
    """A linear operator without parameters on a wire."""
    try:
        operator = OPERATORS[kind].operator(settings, wire.shape)
    except ShapeError as error:
        raise shape_problem(error, span, wire) from None
    check_size(operator.target, span)
    return context.wire("linear", operator.target, span, (wire,), operator)


def activate(
    context: Context,
    rule: ActivationRule,
    settings: Settings,
    wires: tuple[Wire, ...],
    span: Span,
    blame: Mapping[str, Span],
) -> Wire:
    """φ on its arguments; `blame` says where each setting was written."""
    try:
        operator = rule.join(settings, tuple(wire.shape for wire in wires))
    except ShapeError as error:
        raise shape_problem(error, blame.get(error.argument, span), *dict.fromkeys(wires)) from None
    check_size(operator.target, span)
    return context.wire("activation", operator.target, span, wires, operator)


def by_kind(
    context: Context, kind: str, wires: tuple[Wire, ...], span: Span, settings: Settings | None = None
) -> Wire:
    """An activation without a name of its own in the language."""
    rule = OPERATORS[kind]
    assert isinstance(rule, ActivationRule)
    return activate(context, rule, settings or {}, wires, span, {})


def multiply(context: Context, left: Wire, right: Wire, span: Span) -> Wire:
    """left .* right: a state of its own, as it is not linear."""
    return by_kind(context, "product", repeated(context, left, right, span), span)


def repeated(context: Context, left: Wire, right: Wire, span: Span) -> tuple[Wire, Wire]:
    """Both, a number of the network `[]` repeated to the shape of the other, as numbers are."""
    if not left.shape and right.shape:
        return expand(context, left, right, span), right
    if not right.shape and left.shape:
        return left, expand(context, right, left, span)
    return left, right


def expand(context: Context, wire: Wire, like: Wire, span: Span) -> Wire:
    """A value repeated over the axes that another has behind its own."""
    if known(like.shape[len(wire.shape) :]) is None:
        return by_kind(context, "expand_as", (wire, like), span)
    return linear(context, "expand", {"shape": like.shape}, wire, span)


def as_value(context: Context, value: Any, span: Span) -> Wire:
    """A value of the network; a `param` is one, too. Raises Problem."""
    if isinstance(value, Wire):
        return value
    if isinstance(value, ParameterValue):
        return offset(context, value, span)
    if isinstance(value, TimeValue):
        return constant(context, value, (), span)
    raise problem("E0207", "a value of the network or a number is needed here", span, describe(value))


def weigh(context: Context, parameter: ParameterValue, wire: Wire, span: Span) -> Wire:
    """parameter .* wire, which is linear. A parameter `[]` is a number."""
    check_entries(parameter, span)
    shape = parameter.tensor.shape
    if shape and not wire.shape:
        return multiply(context, offset(context, parameter, span), wire, span)
    if shape and shape != wire.shape:
        raise problem(
            "E0204",
            f"values of shapes {show(shape)} and {show(wire.shape)} cannot be multiplied entry by entry",
            span,
            notes=("shapes must be equal: nothing is repeated along an axis unless it is written",),
            labels=(Label(parameter.span, f"declared {show(shape)} here"), *origin_label(wire, span)),
        )
    operator = OPERATORS["diagonal"].operator({"first": 0, "axes": len(shape)}, wire.shape)
    operator = replace(operator, parameters=(("weight", parameter.tensor.id),))
    return context.wire("linear", operator.target, span, (wire,), operator)


def apply_layer(context: Context, layer: Layer, wire: Wire, span: Span) -> Wire:
    """A layer on a wire; its second use shares the weights of the first."""
    try:
        operator = layer.rule.operator(layer.settings, _unit_vectors(layer, wire, span))
    except ShapeError as error:
        place = layer.blame.get(error.argument, span)
        if error.takes is not None:
            raise width_problem(error, layer, place, wire) from None
        raise shape_problem(error, place, wire) from None
    ids = tied(context, layer, operator, wire, span)
    if isinstance(layer.rule, LinearRule):
        return context.wire("linear", operator.target, span, (wire,), replace(operator, parameters=ids))
    assert isinstance(layer.rule, ActivationRule)
    state = context.wire("activation", operator.target, span, (wire,), operator)
    affine = layer.rule.affine(operator)
    if affine is None:
        return state
    return context.wire("linear", affine.target, span, (state,), replace(affine, parameters=ids))


def tied(
    context: Context, layer: Layer, operator: Operator, wire: Wire, span: Span
) -> tuple[tuple[str, str], ...]:
    """The parameters of one use of a layer, made at the first. Raises Problem if they do not fit."""
    check_size(operator.target, span)
    specs = layer.rule.parameters(operator)
    for spec in specs:
        check_size(spec.shape, layer.span, f"the {spec.role} of this layer")
    held = type(layer.rule).holder is not Rule.holder
    if layer.operator is None:
        layer.operator, layer.first_use = operator, span
        for spec in specs:
            id = f"{layer.name}.{spec.role}" if held else layer.name
            tensor = Tensor(id, spec.shape, spec.trainable, spec.initialiser, layer.span)
            layer.tensors.append(tensor)
            context.tensors.append(tensor)
        if specs and held:
            context.layers.append(layer)
    elif [t.shape for t in layer.tensors] != [s.shape for s in specs]:
        raise tie_problem(layer, specs[0].shape, wire, span)
    if operator not in layer.uses:
        layer.uses.append(operator)
    return tuple((spec.role, tensor.id) for spec, tensor in zip(specs, layer.tensors))


def _unit_vectors(layer: Layer, wire: Wire, span: Span) -> Shape:
    """The shape that a layer takes: tokens are unit vectors for what takes them."""
    if not layer.rule.takes_tokens:
        return wire.shape
    if not wire.tokens:
        raise problem(
            "E0207",
            f"{layer.rule.names[0]} takes tokens, and this is {describe(wire)}",
            span,
            labels=origin_label(wire, span),
            help="declare the input with the set that it is from: `input t[n] in Tokens(1000)`",
        )
    return (*wire.shape, wire.tokens)


def finite(value: float, span: Span) -> float:
    """A number that may stand in the network. Raises Problem for Inf, NaN and what no float can hold."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise problem("E0208", "this number is out of range", span, "not a finite number")
    return number


def inverse(value: float, span: Span) -> float:
    """1 ÷ value. Raises Problem if there is no such number."""
    number = finite(value, span)
    if number == 0:
        raise problem("E0208", "division by zero", span, "this is 0")
    return finite(1 / number, span)


def largest(value: TimeValue, span: Span) -> float | None:
    """A bound of a number at all times, if it is known. Raises Problem if it is not finite at one."""
    try:
        return value.clock.largest(value.number)
    except (ArithmeticError, ValueError):
        raise problem(
            "E0208", "this number is out of range at one of the steps", span, "not a finite number"
        ) from None


def scale(context: Context, factor: float | TimeValue, wire: Wire, span: Span) -> Wire:
    """factor · wire."""
    if factor == 1:
        return wire
    if isinstance(factor, TimeValue):
        settings = {"number": factor.number, "largest": largest(factor, span)}
        return linear(context, "timed_scale", settings, wire, span)
    return linear(context, "scale", {"factor": factor}, wire, span)


def constant(context: Context, value: float | TimeValue, shape: Shape, span: Span) -> Wire:
    """The same number in each entry of a value."""
    if isinstance(value, TimeValue):
        settings = {"number": value.number, "largest": largest(value, span), "shape": shape}
        return context.wire("constant", shape, span, (), OPERATORS["timed_constant"].operator(settings, ()))
    operator = OPERATORS["constant"].operator({"shape": shape, "value": value}, ())
    return context.wire("constant", shape, span, (), operator)


def offset(context: Context, parameter: ParameterValue, span: Span) -> Wire:
    """A `param` as a value."""
    check_entries(parameter, span)
    shape = parameter.tensor.shape
    operator = OPERATORS["offset"].operator({"shape": shape}, ())
    operator = Operator(
        operator.kind, (), operator.target, operator.settings, (("weight", parameter.tensor.id),)
    )
    return context.wire("constant", shape, span, (), operator)


def add(context: Context, left: Wire, right: Wire, span: Span) -> Wire:
    """left + right, of one shape: nothing but numbers is repeated."""
    left, right = repeated(context, left, right, span)
    if left.shape != right.shape:
        check_kept(context, (left, right))
        note = "shapes must be equal: nothing is repeated along an axis unless it is written"
        if show(left.shape) == show(right.shape):
            note = "each `_` depends on the size of an input, and these depend on it in different ways"
        raise problem(
            "E0204",
            f"values of shapes {show(left.shape)} and {show(right.shape)} cannot be added",
            span,
            labels=(*origin_label(left, span), *origin_label(right, span)),
            notes=(note,),
        )
    return context.wire("sum", left.shape, span, (left, right))


def concatenate(context: Context, parts: list[Wire], axis: int, span: Span) -> Wire:
    """The parts side by side along an axis (from 0)."""
    first = parts[0]
    if len(parts) == 1:
        return first
    sizes: list[int] = []
    for part in parts:
        same = len(part.shape) == len(first.shape) and axis < len(part.shape)
        if (
            not same
            or part.shape[:axis] + part.shape[axis + 1 :] != first.shape[:axis] + first.shape[axis + 1 :]
        ):
            raise problem(
                "E0204",
                f"{show(first.shape)} and {show(part.shape)} cannot be joined along axis {axis + 1}",
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
    placed, start, total = [], 0, sum(sizes)
    for part, size in zip(parts, sizes):
        placed.append(linear(context, "place", {"axis": axis, "start": start, "total": total}, part, span))
        start += size
    return context.wire("cat", placed[0].shape, span, tuple(placed))
