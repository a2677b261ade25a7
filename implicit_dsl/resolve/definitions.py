"""What a definition is worth: equations make states, `param` makes tensors, `=` names a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from implicit_dsl.errors import Label
from implicit_dsl.operators.base import Initialiser
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.constants import sizes
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Poisoned, Problem, problem
from implicit_dsl.resolve.scope import DeclaredShape
from implicit_dsl.resolve.values import Definition, Function, ParameterValue, describe
from implicit_dsl.resolve.wires import Tensor, Wire
from implicit_dsl.shapes import Shape, count, show


def force(context: Context, definition: Definition) -> Any:
    """The value of a definition. Its own problem is reported here, once.

    Raises Poisoned if it has none.
    """
    if definition.status == "done":
        return definition.value
    if definition.status == "poisoned":
        raise Poisoned
    definition.status = "active"
    context.active.append(definition)
    outer = context.frames
    if definition.body is not None:
        context.frames = definition.body.frames
    try:
        definition.value = _RULES[definition.kind](context, definition)
        definition.status = "done"
    except Problem as found:
        context.findings.add(replace(found.diagnostic, path=found.diagnostic.path or context.frames))
        raise Poisoned from None
    finally:
        if definition.status == "active":
            definition.status = "poisoned"
        context.active.pop()
        context.frames = outer
    return definition.value


def _declared(definition: Definition) -> DeclaredShape | None:
    return None if definition.body is None else definition.body.shapes.get(definition.key)


def _check_shape(context: Context, definition: Definition, declared: DeclaredShape, shape: Shape) -> None:
    """The declared shape against what the equation gives."""
    expected = sizes(context, declared)
    fits = len(expected) == len(shape) and all(e is None or e == g for e, g in zip(expected, shape))
    if not fits:
        assert definition.expression is not None
        shown = "[" + ", ".join("_" if e is None else str(e) for e in expected) + "]"
        raise problem(
            "E0202",
            f"`{definition.shown}` is declared {shown}, but its {'equation' if definition.kind == '~' else 'definition'}"
            f" gives {show(shape)}",
            definition.expression.span,
            f"gives {show(shape)}",
            labels=(Label(declared.span, f"declared {shown}"),),
        )


def _as_wire(context: Context, definition: Definition, value: Any) -> Wire:
    assert definition.expression is not None
    if isinstance(value, Wire):
        return value
    if isinstance(value, ParameterValue):
        return apply.offset(context, value, definition.expression.span)
    raise problem(
        "E0207",
        f"`{definition.shown}` must be a value of the network",
        definition.expression.span,
        describe(value),
        help="apply it to something" if not isinstance(value, (int, float, str, tuple)) else "",
    )


def _equation(context: Context, definition: Definition) -> Wire:
    """`x ~ …`: a state. With a declared shape it exists before its equation is read."""
    assert definition.expression is not None and definition.body is not None
    declared = _declared(definition)
    label = definition.body.label(definition.label)
    if declared is not None:
        expected = sizes(context, declared)
        known = tuple(size for size in expected if size is not None)
        if len(known) == len(expected):
            definition.wire = context.wire("state", known, declared.span)
            definition.wire.name, definition.wire.declared = label, True
    value = context.evaluate(definition.expression, definition.environment)
    drive = _as_wire(context, definition, value)
    if declared is not None:
        _check_shape(context, definition, declared, drive.shape)
    wire = definition.wire
    if wire is None:
        wire = context.wire("state", drive.shape, definition.span)
        wire.name, wire.declared = label, True
    wire.drive = drive
    return wire


def _named(context: Context, definition: Definition) -> Any:
    """`h = …`: a name for a value; a new value of the network takes the name."""
    assert definition.expression is not None
    start = len(context.network.wires)
    value = context.evaluate(definition.expression, definition.environment)
    declared, body = _declared(definition), definition.body
    is_output = body is not None and any(key == definition.key for key, _ in body.outputs)
    if is_output or declared is not None:
        value = _as_wire(context, definition, value)
    if declared is not None:
        _check_shape(context, definition, declared, value.shape)
    if isinstance(value, Wire) and body is not None and not (is_output and not body.state_path):
        made_here = any(wire is value for wire in context.network.wires[start:])
        if made_here and not value.name and value.kind != "input":
            value.name = body.label(definition.label)
    return value


def _parameter(context: Context, definition: Definition) -> ParameterValue:
    """`param W[m, n] = glorot()`: a tensor of the instance, made once."""
    body = definition.body
    declared = _declared(definition)
    assert body is not None and declared is not None
    site = ("param", *definition.key)
    if site in body.instance.sites:
        value: ParameterValue = body.instance.sites[site]
        return value
    shape: list[int] = []
    for size, expression in zip(sizes(context, declared), declared.sizes):
        if size is None:
            raise problem("E0205", "a parameter has no free sizes", expression.span)
        shape.append(size)
    if count(tuple(shape)) > apply.MOST_ENTRIES:
        raise problem("E0107", f"a parameter of shape {show(tuple(shape))} is too large", declared.span)
    initialiser = _initialiser(context, definition, tuple(shape))
    prefix = f"{body.instance.name}_" if body.instance.name else ""
    id = context.claim(prefix + definition.shown, definition.span)
    tensor = Tensor(id, tuple(shape), True, initialiser, definition.span)
    context.tensors.append(tensor)
    made = ParameterValue(tensor, definition.shown, definition.span)
    body.instance.sites[site] = made
    return made


def _initialiser(context: Context, definition: Definition, shape: tuple[int, ...]) -> Initialiser:
    if definition.expression is None:
        return Initialiser("kaiming") if len(shape) >= 2 else Initialiser("zeros")
    value = context.evaluate(definition.expression, definition.environment)
    span = definition.expression.span
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Initialiser("constant", (float(value),))
    if not isinstance(value, Initialiser):
        names = "zeros, ones, constant, normal, uniform, glorot, kaiming, orthogonal"
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
    "~": _equation,
    "=": _named,
    "param": _parameter,
    "layer": _layer,
    "function": _function,
}
