"""Applying a block: its inputs are bound, its body is run, its outputs are the value."""

from __future__ import annotations

from typing import Any

from implicit_dsl.errors import Label
from implicit_dsl.resolve.arguments import Arguments
from implicit_dsl.resolve.bases import parts_of
from implicit_dsl.resolve.context import BLOCK, DEEPEST_BLOCKS, Context
from implicit_dsl.resolve.defined import outputs_in
from implicit_dsl.resolve.inputs import announce, bind_inputs, check_inputs
from implicit_dsl.resolve.lookup import no_equation
from implicit_dsl.resolve.problem import Poisoned, problem
from implicit_dsl.resolve.scope import Body, Environment
from implicit_dsl.resolve.statements import run_body
from implicit_dsl.resolve.values import Instance, Outputs, show_key
from implicit_dsl.source import Span


def apply_instance(
    context: Context, instance: Instance, arguments: Arguments, span: Span, environment: Environment
) -> Any:
    """A block on values of the network: one value, or its named outputs."""
    template = instance.template.template
    name = template.name.name
    arguments.no_keywords(name)
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
    frames = (Label(span, f"`{name}`"), *context.frames)
    body = Body(instance, _state_path(context, instance), frames, depth, context.network)
    parts = parts_of(context, instance.template, instance.arguments, body)
    announced = [name for statements, _ in parts for name in outputs_in(statements)]
    body.sole = announced[0] if len(announced) == 1 else ""
    announce(context, body, parts)
    bind_inputs(context, body, name, arguments, span)
    run_body(context, body, parts, lambda: check_inputs(context, body, arguments, span))
    return _outputs(context, body, name, span)


def _state_path(context: Context, instance: Instance) -> str:
    """What the names of the new states begin with: the equation, then the block."""
    target = context.full_target()
    return context.unique(f"{target}.{instance.label}" if target else instance.label)


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
