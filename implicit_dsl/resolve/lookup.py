"""What a name stands for, from the innermost scope outwards."""

from __future__ import annotations

from itertools import islice
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.errors import Label
from implicit_dsl.fixes import Fix, replacing
from implicit_dsl.resolve.builtins import BUILTINS, LATER
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Poisoned, Problem, did_you_mean, instead, later, problem, quoted
from implicit_dsl.resolve.scope import Body, Environment
from implicit_dsl.resolve.values import Definition, TemplateValue, show_key
from implicit_dsl.source import Span


def scoped(name: str, environment: Environment) -> Any:
    """The binding of a name in the scopes of loops, functions and parameters, or None."""
    scope: Environment | None = environment
    while scope is not None:
        if name in scope.bindings:
            return scope.bindings[name]
        scope = scope.parent
    return None


def find(name: str, environment: Environment) -> Any:
    """The binding of a name (a Definition is still to be forced), or None."""
    found = scoped(name, environment)
    if found is None and environment.body is not None:
        found = environment.body.holding(name).definitions.get((name,))
    if found is None:
        found = environment.module.names.get(name)
    return BUILTINS.get(name) if found is None else found


def evaluate_name(context: Context, node: s.Name, environment: Environment) -> Any:
    """The value of a name. Raises Problem if there is none."""
    if environment.body is not None and node.name in environment.body.awaited:
        _check_known(node, environment, environment.body)
    found = find(node.name, environment)
    if isinstance(found, Definition):
        return use(context, found, node.span)
    body = environment.body.holding(node.name) if environment.body is not None else None
    if found is not None and (body is None or node.name not in body.families):
        return found
    if body is not None:
        _check_declared(node, body)
    module = environment.module
    if module.incomplete or node.name in module.lost:
        raise Poisoned
    if node.name in LATER:
        raise later(f"`{node.name}`", node.span)
    if node.name == "_":
        raise problem("E0205", "`_` is a size that is left free, and has no value", node.span)
    raise unknown(context, node.name, node.span, environment)


def _check_known(node: s.Name, environment: Environment, body: Body) -> None:
    """Raises Problem if a name of the body decides which inputs there are."""
    if scoped(node.name, environment) is None:
        template = body.instance.template.template
        raise problem(
            "E0101",
            f"`{node.name}` is not known here",
            node.span,
            notes=("which inputs there are depends on parameters alone, before anything else is read",),
            help=f"make it a parameter: `{template.kind} {template.name.name}({node.name} = …)`",
        )


def _check_declared(node: s.Name, body: Body) -> None:
    """Names that were declared, but are no values. Raises Problem, or Poisoned if it was reported."""
    if node.name in body.broken:
        raise Poisoned
    if node.name in body.families:
        labels = ", ".join(f"`{show_key(key)}`" for key in islice(body.families[node.name], 4))
        raise problem(
            "E0206",
            f"`{node.name}` is a family, and one of its members is needed here",
            node.span,
            help=f"write one of {labels}, …; the shape of a state is declared by `state {node.name}[…] ~ …`",
        )
    if (node.name,) in body.shapes:
        shape = body.shapes[(node.name,)]
        raise no_equation(node.name, shape.kind, shape.span)


def no_equation(name: str, kind: str, span: Span, meant: str = "") -> Problem:
    """A declared state or output that nothing defines. `meant` is a value that would fit."""
    if kind == "output":
        hint = f"write `output {name} = …`"
        if meant:
            hint = f"write `output {name} = {meant}`, if that is it: nothing else reads `{meant}`"
        return problem("E0303", f"output `{name}` has no definition", span, help=hint)
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


def _of_the_kind(seen: dict[str, str], span: Span) -> dict[str, str]:
    """Those that could stand in a place: what is called is no value, and what is indexed no built-in."""
    behind = span.source.text[span.end : span.end + 2].lstrip(".")[:1]
    values = ("the input", "the state", "the parameter")
    if behind == "(":
        return {name: what for name, what in seen.items() if what not in values}
    if behind == "[":
        return {name: what for name, what in seen.items() if what != "the built-in"}
    return seen


_FOREIGN = {
    "Linear": "Dense",
    "Conv1d": "Conv",
    "Conv2d": "Conv",
    "Conv3d": "Conv",
    "MaxPool2d": "MaxPool",
    "AvgPool2d": "AvgPool",
    "BatchNorm1d": "BatchNorm",
    "BatchNorm2d": "BatchNorm",
    "LeakyReLU": "leaky_relu",
    "prelu": "PReLU",
    "swish": "silu",
    "Sequential": "chain",
    "Chain": "chain",
    "concat": "cat",
    "concatenate": "cat",
    "len": "length",
    "logistic": "sigmoid",
}
_ENOUGH = 40  # findings, after which nobody reads suggestions


def unknown(context: Context, name: str, span: Span, environment: Environment) -> Problem:
    """An unknown name, with what may have been meant."""
    message, text, hint, meant = f"unknown name `{name}`", "not defined here", "", ""
    if context.findings.knows("E0101", message, span):
        raise Poisoned
    if len(context.findings.found) < _ENOUGH:
        seen = _of_the_kind(known_names(environment), span)
        foreign = _FOREIGN.get(name, "")
        meant = foreign if foreign in seen else did_you_mean(name, seen)
        if meant:
            text = f"did you mean {seen[meant]} `{meant}`?".replace("  ", " ")
        else:
            hint = "names on the right of an equation are never invented: declare it, or check the spelling"
            if environment.body is not None and environment.body.recurrence is not None:
                hint += ";\nwhat a value h was one step before is written `prev(h)`"
    fixes = instead(span, meant)
    return problem("E0101", message, span, text, help=hint, fixes=fixes)


def use(context: Context, definition: Definition, span: Span) -> Any:
    """The value of a definition, which is evaluated if this is its first use."""
    if definition.status == "active":
        if definition.kind == "~":
            wire = definition.wire or context.introduce(definition, reads_itself=True)
            if wire is not None:
                return wire
            raise _no_shape(definition, span)
        through = context.active[context.active.index(definition) :]
        state = next((other for other in through if other.kind == "~"), None)
        raise _defined_by_itself(context, definition, span) if state is None else _no_shape(state, span)
    if definition.status == "new":
        wire = context.introduce(definition)
        if wire is not None:
            return wire
    return context.force(definition)


def _no_shape(definition: Definition, span: Span) -> Problem:
    """A state in a loop with itself whose whole shape is not declared."""
    name, declared = definition.shown, definition.declared_shape
    label = Label(span, "used here")
    if declared is not None:
        return problem(
            "E0304",
            f"the shape of `{name}` cannot be found: it is in a loop with itself",
            declared.span,
            "a size is left open",
            labels=(label,),
            help="write all sizes of a state that its own equation reads",
        )
    if len(definition.key) == 1:
        help = f"declare it: `state {name}[…] ~ …`"
    else:
        help = f"declare the family with its shape: `state {definition.key[0]}[i in …][…]`"
    return problem(
        "E0304",
        f"the shape of `{name}` cannot be found: it is in a loop with itself",
        definition.span,
        labels=(label,),
        help=help,
    )


def solved(definition: Definition) -> tuple[Fix, ...]:
    """`~` in place of `=`."""
    if definition.expression is None:
        return ()
    relation = between(definition.span, definition.expression.span, "=")
    return replacing(relation, "~") if relation is not None else ()


def between(name: Span, value: Span, sign: str) -> Span | None:
    """Where a sign stands between a name and its value, if nothing stands behind it but brackets."""
    source = name.source
    at = source.text.rfind(sign, name.end, value.start)
    clear = at >= 0 and not source.text[at + len(sign) : value.start].strip(" \t\r\n(")
    return source.span(at, at + len(sign)) if clear else None


def _defined_by_itself(context: Context, definition: Definition, span: Span) -> Problem:
    """`x = f(x)`, directly or through other definitions."""
    name = definition.shown
    between = [other.shown for other in context.active[context.active.index(definition) + 1 :]]
    through = f" through {', '.join(f'`{other}`' for other in between[:3])}" if between else ""
    through += ", …" if len(between) > 3 else ""
    body = f"`{quoted(definition.expression.span)}`" if definition.expression is not None else "…"
    is_state = definition.body is not None and definition.kind == "="
    return problem(
        "E0301",
        f"`{name}` is defined by itself{through}",
        definition.span,
        labels=(Label(span, "used here"),),
        notes=("`=` names an expression and cannot refer to itself; `~` states an equation, which is solved",)
        if is_state
        else (),
        help=f"write `{name} ~ {body.strip('`')}`" if is_state and not between else "",
        fixes=solved(definition) if is_state and not between else (),
    )
