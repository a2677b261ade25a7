"""Inputs: those of a model are made, those of a block are bound to what it is given.

Which inputs there are depends on parameters alone, so it is known before the body is read. Their
shapes may use the names of the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.graph import Node, Role
from implicit_dsl.names import TAKEN_GLOBALS, identifier
from implicit_dsl.resolve.apply import check_size, offset
from implicit_dsl.resolve.arguments import Arguments, arity
from implicit_dsl.resolve.bases import Parts
from implicit_dsl.resolve.constants import sizes, taken, vocabulary
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.declarations import check_name, family, twice
from implicit_dsl.resolve.defined import inputs_in, names_defined
from implicit_dsl.resolve.mismatch import Expected, fits, show_expected
from implicit_dsl.resolve.problem import Poisoned, Problem, problem
from implicit_dsl.resolve.refusals import origin_label
from implicit_dsl.resolve.scope import Body, DeclaredShape, Environment, Key
from implicit_dsl.resolve.values import Definition, ParameterValue, describe, show_key
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import Shape, Size, show
from implicit_dsl.source import Span


def announce(context: Context, body: Body, parts: Parts) -> None:
    """Enter the inputs of a body, in their order and with families written out; shapes come later."""
    body.awaited = frozenset(
        name for statements, _ in parts for statement in statements for name in names_defined(statement)
    )
    for statements, environment in parts:
        _announce_in(context, body, statements, environment)
    body.awaited = frozenset()


def _announce_in(
    context: Context, body: Body, statements: tuple[s.Statement, ...], environment: Environment
) -> None:
    """The inputs among some statements, and in the branches that are taken."""
    for statement in statements:
        if not any(inputs_in((statement,))):
            continue
        try:
            if isinstance(statement, s.If):
                _announce_in(context, body, taken(context, statement, environment), environment)
            else:
                assert isinstance(statement, s.Declaration)
                _announce(context, body, statement, environment)
        except Problem as found:
            context.report(found.diagnostic)
            body.broken.update(names_defined(statement))
        except Poisoned:
            body.broken.update(names_defined(statement))


def _announce(context: Context, body: Body, declaration: s.Declaration, environment: Environment) -> None:
    name, span = declaration.name.name, declaration.name.span
    check_name(declaration.name)
    if name in environment.bindings:
        raise problem("E0103", f"`{name}` is a parameter already", span, help="rename one of them")
    first = body.announced.setdefault(name, span)
    if first is not span:
        raise twice(name, span, first)
    if declaration.value is not None:
        raise problem("E0302", f"`{name}` is an input, and has no definition", declaration.span)
    if declaration.shape is None and not body.state_path:
        help = f"write `input {name}[n]`, or `{name}[]` for one number"
        raise problem("E0205", f"input `{name}` needs a shape", span, help=help)
    for key, scope in _members(context, declaration, environment):
        declared = None
        if declaration.shape is not None:
            declared = DeclaredShape(declaration.shape, scope, span, "input")
        definition = Definition(key, "input", None, scope, span, body, label=show_key(key), declared=declared)
        definition.member = declaration.member
        body.definitions[key] = definition
        body.inputs.append(definition)
        if len(key) > 1:
            body.families.setdefault(name, {})[key] = None


def _members(
    context: Context, declaration: s.Declaration, environment: Environment
) -> Iterator[tuple[Key, Environment]]:
    if declaration.family is None:
        yield (declaration.name.name,), environment
        return
    for labels, scope in family(context, declaration, environment):
        yield (declaration.name.name, *labels), scope


# --------------------------------------------------------------------------- of a model


def claim_variables(context: Context, body: Body) -> None:
    """Inputs are the arguments of `forward`: two must not have one name there, which is reported."""
    taken: dict[str, Span] = {}
    for definition in body.inputs:
        plain, span = identifier(definition.shown), definition.span
        if plain in taken:
            labels = (Label(taken[plain], "the other one"),)
            message, help = f"two inputs are called `{plain}` in Python", "rename one of them"
            context.report(Diagnostic("E0106", message, span, labels=labels, help=help))
            definition.status = "poisoned"
            continue
        taken[plain] = span
        if plain in TAKEN_GLOBALS:
            context.report(
                Diagnostic(
                    "W0105",
                    f"`{definition.shown}` is called `{plain}_` in the generated module",
                    span,
                    f"the generated file uses `{plain}` itself",
                    help="choose another name, and the two will agree",
                )
            )


def make_inputs(context: Context, body: Body) -> None:
    """The inputs of the model itself, with their free sizes. What is wrong is reported."""
    for definition in body.inputs:
        with suppress(Poisoned):
            context.force(definition)


def make_input(context: Context, definition: Definition) -> Wire:
    """One input of the model itself. Raises Problem, or Poisoned if that was reported."""
    declared = definition.declared
    assert declared is not None
    shape = tuple(
        Size(definition.shown, axis) if found is None else found
        for axis, found in enumerate(sizes(context, declared))
    )
    tokens = vocabulary(context, definition.member, definition.environment)
    check_size((*shape, tokens) if tokens else shape, definition.span, "an input")
    wire = context.wire("input", shape, definition.span)
    wire.name, wire.tokens, wire.declared = definition.shown, tokens, True
    return wire


def in_order(body: Body, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Nodes with the inputs first, as they are declared: one may have been needed before another."""
    place = {definition.shown: number for number, definition in enumerate(body.inputs)}
    return tuple(sorted(nodes, key=lambda n: place[n.name] if n.role is Role.INPUT else len(place)))


# --------------------------------------------------------------------------- of a block


def bind_inputs(context: Context, body: Body, name: str, arguments: Arguments, span: Span) -> None:
    """The inputs of a block are what it is applied to, in their order. Raises Problem."""
    if body.broken:
        raise Poisoned
    if body.instance.template.module.lost and len(body.inputs) != len(arguments.values):
        raise Poisoned  # a line that could not be read may have had them
    arity(name, arguments, len(body.inputs), len(body.inputs), span, _inputs_of(body))
    for definition, value, place in zip(body.inputs, arguments.values, _places(arguments, span)):
        if isinstance(value, ParameterValue):
            value = offset(context, value, place)
        if not isinstance(value, Wire):
            message = f"input `{definition.shown}` must be a value of the network"
            raise problem("E0207", message, place, f"this is {describe(value)}")
        definition.value, definition.status = value, "done"


def _inputs_of(body: Body) -> str:
    """What a block takes, and what it would with other parameters."""
    taken = [f"`{definition.shown}`" for definition in body.inputs]
    others = [
        f"`{name}`"
        for name in dict.fromkeys(inputs_in(body.instance.template.template.body))
        if name not in body.announced
    ]
    told = f"it takes {', '.join(taken)}" if taken else "it has no input"
    return f"{told}; with other parameters also {', '.join(others)}" if others else told


def check_inputs(context: Context, body: Body, arguments: Arguments, span: Span) -> None:
    """Raises Problem unless the values have the declared shapes, where `_` takes what is given."""
    for definition, place in zip(body.inputs, _places(arguments, span)):
        declared, value = definition.declared, definition.value
        wanted = vocabulary(context, definition.member, definition.environment)
        if wanted and value.tokens != wanted:
            given = f"tokens in Tokens({value.tokens})" if value.tokens else "real numbers"
            raise problem(
                "E0201",
                f"input `{definition.shown}` takes tokens in Tokens({wanted}), but is given {given}",
                place,
                labels=(Label(definition.span, "declared here"), *origin_label(value, place)),
            )
        if declared is None:
            continue
        expected = sizes(context, declared)
        if not fits(expected, value.shape):
            shown = show_expected(expected, declared)
            raise problem(
                "E0201",
                f"input `{definition.shown}` takes {shown}, but is given {show(value.shape)}",
                place,
                f"has shape {show(value.shape)}",
                labels=(Label(definition.span, f"declared {shown}"), *origin_label(value, place)),
                help=_as_one(expected, value.shape),
            )


def _as_one(expected: Expected, shape: Shape) -> str:
    """How two free sizes of inputs become one."""
    for wanted, given in zip(expected, shape) if len(expected) == len(shape) else ():
        if not isinstance(wanted, Size) or not isinstance(given, Size) or wanted == given:
            continue
        if wanted == Size(wanted.source, wanted.axis) and given == Size(given.source, given.axis):
            one = f"size({wanted.source}, {wanted.axis + 1})"
            return f"if both are equal at each call, write `{one}` for the free size of `{given.source}`"
    return ""


def _places(arguments: Arguments, span: Span) -> list[Any]:
    """Where each argument was written; what a pipe gives may have no place of its own."""
    missing = len(arguments.values) - len(arguments.spans)
    return [*arguments.spans, *[span] * missing]
