"""What a definition is worth: equations make states, `param` makes tensors, `=` names a value."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any

from implicit_dsl.errors import Label
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.constants import sizes
from implicit_dsl.resolve.context import Context, refuse_tokens
from implicit_dsl.resolve.flows import endless, steady
from implicit_dsl.resolve.inputs import make_input
from implicit_dsl.resolve.lookup import solved
from implicit_dsl.resolve.mismatch import check_declared
from implicit_dsl.resolve.ode import at_the_marks, rate
from implicit_dsl.resolve.order import needed_first
from implicit_dsl.resolve.problem import Poisoned, Problem, problem, quoted
from implicit_dsl.resolve.recurrence import at_all_steps, one_step
from implicit_dsl.resolve.sets import constrained, parameter
from implicit_dsl.resolve.starts import start_numbers
from implicit_dsl.resolve.values import (
    Definition,
    Flow,
    Function,
    LowRank,
    Outputs,
    ParameterValue,
    describe,
    outputs_hint,
)
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import Dim, Shape, show

DEEP = 12  # definitions within definitions, from which on they are put in order first


def force(context: Context, definition: Definition) -> Any:
    """The value of a definition. Its own problem is reported here, once.

    Raises Poisoned if it has none.
    """
    if definition.status == "done":
        return definition.value
    if definition.status == "poisoned":
        raise Poisoned
    if len(context.active) >= DEEP:
        for other in needed_first(context, definition):
            with suppress(Poisoned):
                _force(context, other)
    return _force(context, definition)


def _force(context: Context, definition: Definition) -> Any:
    if definition.status == "done":
        return definition.value
    if definition.status == "poisoned":
        raise Poisoned
    definition.status = "active"
    context.active.append(definition)
    outer, network = context.frames, context.network
    if definition.body is not None:
        context.frames, context.network = definition.body.frames, definition.body.network
    try:
        definition.value = _RULES[definition.kind](context, definition)
        definition.status = "done"
    except Problem as found:
        context.report(found.diagnostic)
        raise Poisoned from None
    finally:
        if definition.status == "active":
            definition.status, context.poisoned = "poisoned", True
        context.active.pop()
        context.frames, context.network = outer, network
    return definition.value


def _as_wire(context: Context, definition: Definition, value: Any) -> Wire:
    assert definition.expression is not None
    span = definition.expression.span
    match value:
        case Wire():
            return value
        case ParameterValue():
            return apply.offset(context, value, span)
        case Outputs() | Flow():
            hint = outputs_hint(value)
        case bool() | int() | float() | str() | tuple() | range():
            hint = ""
        case _:
            hint = "apply it to a value, such as an input"
    message = f"`{definition.shown}` must be a value of the network"
    raise problem("E0207", message, span, f"this is {describe(value)}", help=hint)


def introduce(context: Context, definition: Definition, reads_itself: bool = False) -> Wire | None:
    """The wire of a state whose declaration says its whole shape, made without reading its equation.

    The equation may read what reads the state now; a declared shape is all that is needed of it. If
    the state is known to read itself, sizes left open are those of an input with as many axes; the
    equation is checked against them later.
    """
    if definition.kind != "~":
        return None
    declared = definition.declared_shape
    if definition.wire is not None or declared is None or definition.body is None:
        return definition.wire
    outer, network = context.frames, context.network
    context.frames, context.network = definition.body.frames, definition.body.network
    try:
        shape = _whole(definition, sizes(context, declared), reads_itself)
        if shape is None:
            return None
        apply.check_size(shape, declared.span, "a state")
        # where the equation stands, if that is another line
        place = declared.span if declared.span.line == definition.span.line else definition.span
        definition.wire = context.wire("state", shape, place)
        definition.wire.name, definition.wire.declared = definition.body.label(definition.label), True
        return definition.wire
    except Problem:
        return None  # reported when the equation is read
    finally:
        context.frames, context.network = outer, network


def _whole(definition: Definition, expected: tuple[Dim | None, ...], guess: bool) -> Shape | None:
    """A declared shape without open sizes, or with those of an input of the model or block."""
    assert definition.body is not None
    like: Shape = ()
    if guess and None in expected:
        inputs = [other.value for other in definition.body.definitions.values() if other.kind == "input"]
        shapes = [
            wire.shape for wire in inputs if isinstance(wire, Wire) and len(wire.shape) == len(expected)
        ]
        like = shapes[0] if shapes else ()
    sizes_ = [like[axis] if size is None and like else size for axis, size in enumerate(expected)]
    return None if None in sizes_ else tuple(size for size in sizes_ if size is not None)


def _equation(context: Context, definition: Definition) -> Wire:
    """`x ~ …`: a state. With a declared shape it exists before its equation is read."""
    assert definition.expression is not None and definition.body is not None
    declared = definition.declared_shape
    label = definition.body.label(definition.label)
    if declared is not None and introduce(context, definition) is None:
        expected = sizes(context, declared)
        apply.check_size(tuple(s for s in expected if s is not None), declared.span, "a state")
    value = context.evaluate(definition.expression, definition.environment)
    drive = context.network.here(_as_wire(context, definition, value))
    refuse_tokens(drive, definition.expression.span)
    if declared is not None:
        check_declared(context, definition, declared, drive)
    wire = definition.wire
    if wire is None:
        wire = context.wire("state", drive.shape, definition.span)
        wire.name, wire.declared = label, True
    wire.drive = drive
    stepped = definition.body.recurrence is not None  # then the recurrence says what starts
    if declared is not None and declared.start is not None and not stepped:
        wire.start = start_numbers(context, declared, definition, wire.shape)
    return wire


def _steady(context: Context, definition: Definition) -> Wire:
    """`D(x) ~ g - x` of an `ode` that has no end: the state x ~ g."""
    definition.expression = steady(context, definition)
    definition.kind = "~"
    wire = _equation(context, definition)
    if not any(wire.start):
        wire.start = ()  # an `ode` has to say its start, even where no solver needs one
    return wire


def _named(context: Context, definition: Definition) -> Any:
    """`h = …`: a name for a value; a new value of the network takes the name."""
    assert definition.expression is not None
    start = len(context.network.wires)
    value = context.evaluate(definition.expression, definition.environment)
    declared, body = definition.declared_shape, definition.body
    is_output = body is not None and not definition.local and definition.key in body.outputs
    if declared is not None and declared.kind == "state":
        raise problem(
            "E0308",
            f"`{definition.shown}` is declared as a state, and a state has an equation",
            definition.span,
            labels=(Label(declared.span, "declared here"),),
            help=f"write `{definition.shown} ~ {quoted(definition.expression.span)}`",
            fixes=solved(definition),
        )
    if is_output or declared is not None:
        value = _as_wire(context, definition, value)
        if is_output and body is not None and not body.state_path:
            refuse_tokens(value, definition.expression.span)
    if declared is not None:
        check_declared(context, definition, declared, value)
    if isinstance(value, Wire) and body is not None and not (is_output and not body.state_path):
        made_here = value.number >= start
        if made_here and not value.name and value.kind != "input":
            value.name = body.label(definition.label)
    return value


def _parameter(context: Context, definition: Definition) -> ParameterValue | LowRank:
    """`param W[m, n] = glorot()`: a tensor of the instance, made once."""
    body = definition.body
    declared = definition.declared_shape
    assert body is not None and declared is not None
    site = ("param", *definition.key, definition.environment.tag)
    if site in body.instance.sites:
        value: ParameterValue | LowRank = body.instance.sites[site]
        return value
    shape: list[int] = []
    for size, expression in zip(sizes(context, declared), declared.sizes):
        if not isinstance(size, int):
            raise problem("E0205", "a parameter has no free sizes", expression.span)
        shape.append(size)
    apply.check_size(tuple(shape), declared.span, "a parameter")
    initialiser = _initialiser(context, definition, tuple(shape))
    made: ParameterValue | LowRank
    if definition.member is not None:
        made = constrained(context, definition, tuple(shape), initialiser)
    else:
        made = parameter(context, definition, tuple(shape), initialiser)
    body.instance.sites[site] = made
    return made


def _initialiser(context: Context, definition: Definition, shape: tuple[int, ...]) -> Initialiser:
    if definition.expression is None:
        return Initialiser("kaiming") if len(shape) >= 2 else Initialiser("zeros")
    value = context.evaluate(definition.expression, definition.environment)
    span = definition.expression.span
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Initialiser("constant", (apply.finite(value, span),))
    if not isinstance(value, Initialiser):
        names = "zeros, ones, constant, normal, uniform, glorot, kaiming, orthogonal, and fixed"
        raise problem(
            "E0502",
            "a parameter starts from an initialiser",
            span,
            describe(value),
            help=f"there are {names}",
        )
    if value.name in ("glorot", "kaiming", "orthogonal") and len(shape) < 2:
        raise problem(
            "E0502",
            f"`{value.name}` needs a matrix, and `{definition.shown}` has shape {show(shape)}",
            span,
            help="write `normal(0.1)`, `uniform(0.1)` or `zeros()`",
        )
    if value.name == "fixed":
        if len(value.numbers) not in (1, prod(shape)):
            raise problem(
                "E0502",
                f"`{definition.shown}` {show(shape)} has {prod(shape)} entries, "
                f"and these are {len(value.numbers)} numbers",
                span,
            )
        if definition.member is not None:
            raise problem(
                "E0502",
                f"`{definition.shown}` is fixed, and nothing is trained that a set could be about",
                span,
                help="leave out the set, or `fixed`",
            )
    return value


def _layer(context: Context, definition: Definition) -> Any:
    """`layer K = Conv(…)`: anything that can be applied."""
    assert definition.expression is not None
    value = context.evaluate(definition.expression, definition.environment)
    if isinstance(value, (int, float, str, tuple, range, Wire)):
        raise problem(
            "E0207",
            f"`{definition.shown}` must be a layer",
            definition.expression.span,
            describe(value),
            help=f"write `{definition.shown} = …` without `layer`",
        )
    return value


def _function(context: Context, definition: Definition) -> Function:
    value = definition.value
    assert isinstance(value, Function)
    return value


_RULES: dict[str, Callable[[Context, Definition], Any]] = {
    "input": make_input,
    "~": _equation,
    "=": _named,
    "param": _parameter,
    "layer": _layer,
    "function": _function,
    "step": one_step,
    "steps": at_all_steps,
    "rate": rate,
    "flow": at_the_marks,
    "steady": _steady,
    "endless": endless,
}
