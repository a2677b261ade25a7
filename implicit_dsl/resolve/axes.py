"""Axes and entries moved, and sums over axes: `permute`, `transpose`, `reshape`, `sum`, `mean`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from implicit_dsl.resolve import apply, lengths
from implicit_dsl.resolve.arguments import MOST, Arguments, arity
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import instead, problem
from implicit_dsl.resolve.refusals import origin_label
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import REST, Flow, ParameterValue, TimeValue, describe
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import count, known, show
from implicit_dsl.source import Span


def permute(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Wire:
    """`permute(x, 3, 1, 2)` or `permute(x, [3, 1, 2])`: axis k of the result is the k-th that is named."""
    arguments.no_keywords("permute")
    arity("permute", arguments, 2, None, span)
    wire = _value(context, arguments, "permute")
    named = list(zip(arguments.values[1:], arguments.spans[1:]))
    if len(named) == 1 and isinstance(named[0][0], (tuple, range)):
        named = [(value, named[0][1]) for value in named[0][0]]
    return _moved(context, wire, [_axis(value, place, wire) for value, place in named], span)


def transpose(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Wire:
    """`transpose(x, 1, 3)`: two axes exchanged, the last two if none are named."""
    arguments.no_keywords("transpose")
    arity("transpose", arguments, 1, 3, span)
    wire = _value(context, arguments, "transpose")
    axes = list(range(len(wire.shape)))
    if len(arguments.values) == 2:
        raise problem("E0104", "`transpose` takes a value alone, or with two axes", span)
    if len(axes) < 2:
        raise problem(
            "E0206",
            f"a value of shape {show(wire.shape)} has no two axes to exchange",
            span,
            labels=origin_label(wire, span),
        )
    named = list(zip(arguments.values[1:], arguments.spans[1:]))
    one, other = [_axis(value, place, wire) for value, place in named] or axes[-2:]
    axes[one], axes[other] = axes[other], axes[one]
    return _moved(context, wire, axes, span)


def reshape(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Wire:
    """`reshape(x, 4, 6)` or `reshape(x, [4, 6])`; one size may be `_`, which follows from the others."""
    arguments.no_keywords("reshape")
    arity("reshape", arguments, 2, None, span)
    wire = _value(context, arguments, "reshape")
    named = list(zip(arguments.values[1:], arguments.spans[1:]))
    if len(named) == 1 and isinstance(named[0][0], tuple):
        named = [(value, named[0][1]) for value in named[0][0]]
    rest = [number for number, (value, _) in enumerate(named) if value is REST]
    if len(rest) > 1:
        raise problem("E0205", "one size at most can follow from the others", named[rest[1]][1])
    sizes = [1 if value is REST else _size(value, place) for value, place in named]
    apply.check_size(tuple(sizes), span)
    entries = known(wire.shape)
    if rest and entries is not None:
        each = math.prod(sizes)
        if count(entries) % each:
            text = f"{show(wire.shape)} has {count(entries)} entries, which {each} does not divide"
            raise problem("E0201", text, span, labels=origin_label(wire, span))
        sizes[rest[0]] = count(entries) // each
    return apply.linear(context, "reshape", {"shape": tuple(sizes)}, wire, span)


def over_axes(context: Context, kind: str, arguments: Arguments, span: Span) -> Wire:
    """A sum or a mean along `dim`, which is an axis or a list of them; of all entries if it is not given."""
    dim, place = arguments.keywords.pop("dim", (None, span))
    arguments.no_keywords(kind)
    arity(kind, arguments, 1, 1, span)
    wire = _value(context, arguments, kind)
    named = dim if isinstance(dim, (tuple, range)) else (dim,)
    axes = range(len(wire.shape)) if dim is None else [_axis(value, place, wire) for value in named]
    if len(set(axes)) != len(axes):
        raise problem("E0206", f"`{kind}` names each axis once", place)
    return apply.linear(context, kind, {"axes": tuple(axes)}, wire, span) if axes else wire


def reverse(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Wire:
    """`reverse(x)`: from the end, along the first axis or `dim`."""
    dim, place = arguments.keywords.pop("dim", (1, span))
    arguments.no_keywords("reverse")
    arity("reverse", arguments, 1, 1, span)
    wire = _value(context, arguments, "reverse")
    if not wire.shape:
        raise problem("E0206", "one number has no axis to reverse", span, labels=origin_label(wire, span))
    axis = _axis(dim, place, wire)
    if wire.limit is not None and axis == 0:
        return lengths.reverse(context, wire, span)
    return apply.linear(context, "reverse", {"axis": axis}, wire, span)


def last(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Wire:
    """`last(h)`: the last entry of a sequence; of what a `recurrent` computes, also if there are no steps."""
    arguments.no_keywords("last")
    arity("last", arguments, 1, 1, span)
    if isinstance(arguments.values[0], Flow):
        return arguments.values[0].limit
    wire = _value(context, arguments, "last")
    if wire.limit is not None:
        return lengths.last(context, wire, span)
    if wire.kind == "steps":
        return lengths.at_the_last_step(context, wire, span)
    if not wire.shape:
        raise problem("E0206", "one number has no last entry", span, labels=origin_label(wire, span))
    slices = (-1, *[None] * (len(wire.shape) - 1))
    return apply.linear(context, "select", {"slices": slices}, wire, span)


def _size(value: object, place: Span) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value == -1 and place.text.strip() == "-1":
        help = "the size that follows from the others is written `_`"
        raise problem("E0205", "a size must be at least 1", place, help=help, fixes=instead(place, "_"))
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise problem("E0205", "a size must be a whole number, at least 1", place, describe(value))
    if value > MOST:
        raise problem("E0208", "a size is out of range", place, f"at most {MOST}")
    return value


def _value(context: Context, arguments: Arguments, name: str) -> Wire:
    value, place = arguments.values[0], arguments.spans[0]
    if isinstance(value, ParameterValue):
        return apply.offset(context, value, place)
    if isinstance(value, TimeValue):
        return apply.constant(context, value, (), place)
    if not isinstance(value, Wire):
        raise problem("E0207", f"`{name}` applies to a value of the network", place, describe(value))
    return value


def _axis(value: object, place: Span, wire: Wire) -> int:
    """An axis of a value, counted from 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise problem("E0205", "an axis must be a whole number", place, describe(value))
    if not 1 <= value <= len(wire.shape):
        raise problem("E0206", f"a value of shape {show(wire.shape)} has no axis {value}", place)
    return value - 1


def _moved(context: Context, wire: Wire, axes: Sequence[int], span: Span) -> Wire:
    if sorted(axes) != list(range(len(wire.shape))):
        named = ", ".join(str(axis + 1) for axis in axes)
        raise problem(
            "E0206",
            f"`permute` names each axis once, and {show(wire.shape)} has {len(wire.shape)}, not {named}",
            span,
            labels=origin_label(wire, span),
        )
    if list(axes) == list(range(len(axes))):
        return wire
    return apply.linear(context, "permute", {"axes": tuple(axes)}, wire, span)
