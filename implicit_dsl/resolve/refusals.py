"""Why an operator does not take a value: the problems that shapes make."""

from __future__ import annotations

import re
from dataclasses import replace

from implicit_dsl.errors import Label
from implicit_dsl.fixes import Fix, replacing
from implicit_dsl.operators.base import ShapeError
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.values import Layer, ParameterValue
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import Shape, show
from implicit_dsl.source import Span


def origin_label(wire: Wire, span: Span) -> tuple[Label, ...]:
    """Where the shape of a value comes from, unless that is the place already shown."""
    there = wire.span
    if there.source is span.source and (
        (there.start <= span.start and span.end <= there.end)
        or (span.start <= there.start and there.end <= span.end)
    ):
        return ()
    declared = wire.declared or wire.kind == "input"
    return (Label(there, f"{'declared' if declared else 'has shape'} {show(wire.shape)}"),)


def shape_problem(error: ShapeError, blame: Span, *wires: Wire) -> Problem:
    return problem(
        "E0201" if len(wires) == 1 or error.argument else "E0204",
        error.message,
        blame,
        error.text,
        labels=tuple(label for wire in wires for label in origin_label(wire, blame)),
        notes=error.notes,
        help=error.help,
    )


_BEFORE_ARROW = re.compile(r"(?:\w+\s*=(?!>)\s*)?(.+?)\s*=>", re.DOTALL)


def width_problem(error: ShapeError, layer: Layer, place: Span, wire: Wire) -> Problem:
    """A width `in => out` whose first part is not what the input has: that part alone is shown."""
    found = shape_problem(error, place, wire).diagnostic
    match = _BEFORE_ARROW.match(place.text)
    if match is None:  # the width has a name, and was written elsewhere
        return Problem(found)
    span = place.source.span(place.start + match.start(1), place.start + match.end(1))
    before, behind = (
        place.source.span(*ends).text for ends in ((layer.span.start, span.start), (span.end, layer.span.end))
    )
    out = behind.lstrip().removeprefix("=>").lstrip()
    what = error.help.partition(" to take ")[2]
    help = f"write `{before}{error.takes}{behind}`, or `{before}{out}` to take {what}"
    help = error.help if "\n" in help else help
    fixes = replacing(span, str(error.takes)) if span.text.isdecimal() else ()
    return Problem(replace(found, span=span, help=help, fixes=fixes))


def tie_problem(layer: Layer, shape: Shape, wire: Wire, span: Span) -> Problem:
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


def not_linear(layer: Layer, fixes: tuple[Fix, ...] = ()) -> Problem:
    """`*` before a layer that is an activation."""
    name = layer.rule.names[0]
    return problem(
        "E0307",
        f"`*` applies a linear operator, and {name} is not linear",
        layer.span,
        "an activation",
        help=f"write `{layer.span.text}(…)`, or `… |> {layer.span.text}`",
        fixes=fixes,
    )


def check_entries(parameter: ParameterValue, span: Span) -> None:
    """Raises Problem for a matrix whose entries are no tensor of the module: it can be applied only."""
    within = parameter.tensor.within
    if within is not None and within.linear is not None:
        raise problem(
            "E0504",
            f"`{parameter.name}` is in {within.name}(…): it is applied to values, and is none itself",
            span,
            labels=(Label(parameter.span, "declared here"),),
            help=f"write `{parameter.name} * …`",
        )
