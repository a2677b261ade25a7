"""What a name stands for, from the innermost scope outwards."""

from __future__ import annotations

from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.errors import Label
from implicit_dsl.resolve.builtins import BUILTINS, LATER
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, did_you_mean, later, problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import Definition, TemplateValue, describe
from implicit_dsl.source import Span


def find(name: str, environment: Environment) -> Any:
    """The binding of a name (a Definition is still to be forced), or None."""
    scope: Environment | None = environment
    while scope is not None:
        if name in scope.bindings:
            return scope.bindings[name]
        scope = scope.parent
    if environment.body is not None:
        found = environment.body.definitions.get((name,))
        if found is not None:
            return found
    return environment.module.names.get(name, BUILTINS.get(name))


def evaluate_name(context: Context, node: s.Name, environment: Environment) -> Any:
    """The value of a name. Raises Problem if there is none."""
    found = find(node.name, environment)
    if isinstance(found, Definition):
        return use(context, found, node.span)
    if found is not None:
        return found
    body = environment.body
    if body is not None and node.name in body.families:
        labels = ", ".join(definition_name(key) for key in body.families[node.name][:4])
        raise problem(
            "E0206",
            f"`{node.name}` is a family, and one of its members is needed here",
            node.span,
            help=f"write one of {labels}, …",
        )
    if body is not None and (node.name,) in body.shapes:
        shape = body.shapes[(node.name,)]
        raise no_equation(node.name, shape.kind, shape.span)
    if node.name in LATER:
        raise later(f"`{node.name}`", node.span)
    raise unknown(node.name, node.span, environment)


def definition_name(key: tuple[Any, ...]) -> str:
    name, *labels = key
    return f"`{name}[{', '.join(map(str, labels))}]`"


def no_equation(name: str, kind: str, span: Span) -> Problem:
    """A declared state or output that nothing defines."""
    if kind == "output":
        return problem(
            "E0303", f"output `{name}` has no definition", span, help=f"write `output {name}[…] = …`"
        )
    return problem("E0305", f"state `{name}` has no equation", span, help=f"write `{name} ~ …`")


def known_names(environment: Environment) -> dict[str, str]:
    """Every name in sight, with what it is."""
    seen: dict[str, str] = dict.fromkeys(BUILTINS, "the built-in")
    for name, value in environment.module.names.items():
        seen[name] = f"the {value.template.kind}" if isinstance(value, TemplateValue) else "the constant"
    if environment.body is not None:
        kinds = {"input": "the input", "layer": "the layer", "param": "the parameter", "~": "the state"}
        for key, definition in environment.body.definitions.items():
            seen[key[0]] = kinds.get(definition.kind, "")
    scope: Environment | None = environment
    while scope is not None:
        seen.update(dict.fromkeys(scope.bindings, ""))
        scope = scope.parent
    return seen


def unknown(name: str, span: Span, environment: Environment) -> Problem:
    """An unknown name, with what may have been meant."""
    seen = known_names(environment)
    meant = did_you_mean(name, list(seen))
    text = f"did you mean {seen[meant]} `{meant}`?".replace("  ", " ") if meant else "not defined here"
    hint = "a free size is written `_`; names on the right are never invented" if not meant else ""
    return problem("E0101", f"unknown name `{name}`", span, text, help=hint)


def use(context: Context, definition: Definition, span: Span) -> Any:
    """The value of a definition, which is evaluated if this is its first use."""
    if definition.status == "active":
        if definition.kind == "~":
            if definition.wire is not None:
                return definition.wire
            raise problem(
                "E0304",
                f"the shape of `{definition.shown}` cannot be found: it depends on itself",
                definition.span,
                labels=(Label(span, "used here"),),
                help=f"declare it: `state {definition.shown}[…] ~ …`",
            )
        raise _defined_by_itself(definition, span)
    return context.force(definition)


def _defined_by_itself(definition: Definition, span: Span) -> Problem:
    name = definition.shown
    text = definition.expression.span.text if definition.expression is not None else "…"
    short = text if "\n" not in text and len(text) <= 60 else "…"
    return problem(
        "E0301",
        f"`{name}` is defined by itself",
        definition.span,
        labels=(Label(span, "used here"),),
        notes=(
            "`=` names an expression and cannot refer to itself; `~` states an equation, which is then solved",
        ),
        help=f"write `{name} ~ {short}`",
    )


def expect_count(value: Any, span: Span, what: str, least: int = 1) -> int:
    """A whole number known at compile time."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise problem("E0205", f"{what} must be a whole number known at compile time", span, describe(value))
    if value < least:
        raise problem("E0205", f"{what} must be at least {least}", span, f"this is {value}")
    return value
