"""Applying a block: its inputs are bound, its body is run, its outputs are the value."""

from __future__ import annotations

from typing import Any

from implicit_dsl.errors import Label
from implicit_dsl.resolve.apply import offset
from implicit_dsl.resolve.arguments import Arguments, arity
from implicit_dsl.resolve.constants import sizes, vocabulary
from implicit_dsl.resolve.context import BLOCK, DEEPEST_BLOCKS, Context
from implicit_dsl.resolve.lookup import no_equation
from implicit_dsl.resolve.mismatch import fits, show_expected
from implicit_dsl.resolve.problem import Poisoned, problem
from implicit_dsl.resolve.refusals import origin_label
from implicit_dsl.resolve.scope import Body, DeclaredShape, Environment
from implicit_dsl.resolve.statements import run_body
from implicit_dsl.resolve.values import Definition, Instance, Outputs, ParameterValue, describe, show_key
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import show
from implicit_dsl.source import Span
from implicit_dsl.syntax import Declaration


def apply_instance(
    context: Context, instance: Instance, arguments: Arguments, span: Span, environment: Environment
) -> Any:
    """A block on values of the network: one value, or its named outputs."""
    template = instance.template.template
    name = template.name.name
    arguments.no_keywords(name)
    inputs = [d for d in template.body if isinstance(d, Declaration) and d.kind == "input"]
    if instance.template.module.lost and len(inputs) != len(arguments.values):
        raise Poisoned  # a line that could not be read may have had them
    arity(name, arguments, len(inputs), len(inputs), span)
    owner = environment.owner
    depth = 1 if owner is None else owner.depth + 1
    if depth > DEEPEST_BLOCKS:
        raise problem(
            "E0107",
            f"blocks are nested more than {DEEPEST_BLOCKS} deep",
            span,
            help=f"does `{name}` contain itself?",
        )
    context.step(span, BLOCK)
    body = Body(instance, _state_path(context, instance), (Label(span, f"`{name}`"), *context.frames), depth)
    inner = Environment(body, instance.template.module, None, dict(instance.arguments), (), False, body)
    for number, declaration in enumerate(inputs):
        _bind_input(context, body, declaration, inner, arguments, number, span)
    run_body(context, body, [(template.body, inner)])
    return _outputs(context, body, name, span)


def _state_path(context: Context, instance: Instance) -> str:
    """What the names of the new states begin with: the equation, then the block."""
    target = context.full_target()
    return context.unique(f"{target}.{instance.label}" if target else instance.label)


def _bind_input(
    context: Context,
    body: Body,
    declaration: Declaration,
    inner: Environment,
    arguments: Arguments,
    number: int,
    span: Span,
) -> None:
    """One input of a block: its shape is checked, and `_` takes what is given."""
    name = declaration.name.name
    place = arguments.spans[number] if number < len(arguments.spans) else span
    value = arguments.values[number]
    if isinstance(value, ParameterValue):
        value = offset(context, value, place)
    if not isinstance(value, Wire):
        raise problem(
            "E0207", f"input `{name}` must be a value of the network", place, f"this is {describe(value)}"
        )
    definition = Definition(
        (name,), "input", None, inner, declaration.name.span, body, "done", value, label=name
    )
    body.definitions[(name,)] = definition
    wanted = vocabulary(context, declaration.member, inner)
    if wanted and value.tokens != wanted:
        given = f"tokens in Tokens({value.tokens})" if value.tokens else "real numbers"
        raise problem(
            "E0201",
            f"input `{name}` takes tokens in Tokens({wanted}), but is given {given}",
            place,
            labels=(Label(declaration.name.span, "declared here"), *origin_label(value, place)),
        )
    if declaration.shape is None:
        return
    declared = DeclaredShape(declaration.shape, inner, declaration.name.span, "input")
    expected = sizes(context, declared)
    if not fits(expected, value.shape):
        shown = show_expected(expected)
        raise problem(
            "E0201",
            f"input `{name}` takes {shown}, but is given {show(value.shape)}",
            place,
            f"has shape {show(value.shape)}",
            labels=(Label(declaration.name.span, f"declared {shown}"), *origin_label(value, place)),
        )


def _outputs(context: Context, body: Body, name: str, span: Span) -> Any:
    if not body.outputs and body.broken:
        raise Poisoned
    if not body.outputs:
        raise problem(
            "E0303",
            f"`{name}` has no output",
            body.instance.template.template.header,
            help="write `output y = …`",
        )
    values: dict[str, Any] = {}
    for key, place in body.outputs.items():
        definition = body.definitions.get(key)
        if definition is None:
            if key[0] in body.broken:
                raise Poisoned
            raise no_equation(show_key(key), "output", place)
        if definition.status == "poisoned":
            raise Poisoned
        values[show_key(key)] = context.force(definition)
    return next(iter(values.values())) if len(values) == 1 else Outputs(values, name)
