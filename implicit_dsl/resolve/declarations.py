"""Declared names: what may have a name, and what each kind of declaration makes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.errors import Label
from implicit_dsl.fixes import Fix, replacing
from implicit_dsl.names import reserved
from implicit_dsl.resolve.constants import items
from implicit_dsl.resolve.context import STATEMENT, Context
from implicit_dsl.resolve.indexing import check_label, labels
from implicit_dsl.resolve.lookup import between
from implicit_dsl.resolve.problem import Poisoned, Problem, problem, quoted
from implicit_dsl.resolve.scope import Body, DeclaredShape, Environment, Key
from implicit_dsl.resolve.values import Definition, show_key
from implicit_dsl.source import Span


def check_name(name: s.Name) -> None:
    """Raises Problem if nothing may have this name."""
    if name.span.start == name.span.end:
        raise Poisoned  # the parser put it where no name could be read, and said so
    reason = reserved(name.name)
    if name.name == "_":
        reason = "`_` is a size that is left free"
    if reason:
        raise problem("E0105", f"`{name.name}` cannot be a name", name.span, reason)


def check_variable(name: s.Name) -> None:
    """The same for the variable of a loop, which may be `_`."""
    if name.name != "_":
        check_name(name)


def formals(arguments: tuple[s.Expression, ...]) -> tuple[str, ...]:
    """The arguments of a function. Raises Problem unless they are different names."""
    names: list[str] = []
    for argument in arguments:
        if not isinstance(argument, s.Name) or (argument.name in names and argument.name != "_"):
            raise problem("E0308", "the arguments of a function are different names", argument.span)
        check_variable(argument)
        names.append(argument.name)
    return tuple(names)


def family(
    context: Context, declaration: s.Declaration, environment: Environment
) -> Iterable[tuple[Key, Environment]]:
    """The members of `z[s in 1:2][…]`: their labels, and scopes in which s has its value."""
    axes: list[tuple[str, tuple[object, ...] | range]] = []
    for subscript in declaration.family or ():
        match subscript:
            case s.Comparison((s.Name() as name, values), ("in",)):
                check_variable(name)
                axes.append((name.name, items(context, values, environment)))
            case s.Colon() | s.Axis():
                axes.append(("", labels(context, (subscript,), environment)))
            case _:
                value = context.evaluate(subscript, environment)
                several = isinstance(value, (tuple, range))
                axes.append(("", value if several else labels(context, (subscript,), environment)))
        for label in axes[-1][1] if isinstance(axes[-1][1], tuple) else ():
            check_label(label, subscript.span)
    # a product takes its factors as a whole, so they are counted before
    context.step(declaration.span, STATEMENT * math.prod(len(values) for _, values in axes))
    for member in itertools.product(*(values for _, values in axes)):
        bindings = {name: value for (name, _), value in zip(axes, member) if name}
        yield member, environment.inner(bindings, declaration.span.start, *member)


def declare(
    context: Context,
    body: Body,
    declaration: s.Declaration,
    environment: Environment,
    member: Key,
    outer: Environment,
) -> list[Definition]:
    """One declared name, or one member of a declared family."""
    check_name(declaration.name)
    kind, name = declaration.kind, declaration.name.name
    key = (name, *member)
    if (body.recurrence or body.ode) is not None and kind in ("input", "output"):
        help = f"behind its `end`, `{name}` is the sequence of its values" if kind == "output" else ""
        what = "recurrent" if body.ode is None else "ode"
        raise problem("E0309", f"{_AN[kind]} is declared outside of `{what}`", declaration.span, help=help)
    if kind == "input":
        _declare_input(body, declaration)
        return []
    _check_declaration(declaration, outer)
    shape = None
    if kind != "layer" and declaration.shape is not None:
        shape = DeclaredShape(declaration.shape, environment, declaration.name.span, kind)
        if outer.local and not member:
            home: dict[Any, DeclaredShape] = outer.shapes
            found = home.get(name)
        else:
            home = body.shapes
            found = home.get(key)
        if found is not None:
            raise twice(show_key(key), declaration.name.span, found.span)
        home[name if home is outer.shapes else key] = shape
        earlier = outer.bindings.get(name) if home is outer.shapes else None
        if isinstance(earlier, Definition):
            earlier.declared = shape
    if kind == "output":
        if key in body.outputs:
            raise twice(show_key(key), declaration.name.span, body.outputs[key])
        body.outputs[key] = declaration.name.span
    if member and key not in body.families.get(name, ()):
        _check_family(body, key, declaration.name.span, False)
        body.families.setdefault(name, {})[key] = None
    if kind == "state" and declaration.relation == "=" and shape is not None:
        shape.start = declaration.value
    if kind == "state" and (declaration.value is None or declaration.relation == "="):
        if shape is None and declaration.value is not None:
            raise _without_shape(declaration)
        return []
    if kind == "output" and declaration.value is None:
        return []
    relation = {"state": "~", "output": "="}.get(kind, kind)
    made = enter(body, key, relation, declaration.value, environment, declaration.name.span)
    made.member = declaration.member
    return [made]


def _check_declaration(declaration: s.Declaration, outer: Environment) -> None:
    """What can be said of a declaration before anything is evaluated. Raises Problem."""
    kind, name, span = declaration.kind, declaration.name.name, declaration.name.span
    if declaration.member is not None and kind != "param":
        raise problem(
            "E0504",
            f"a set behind `in` is for a `param`, and `{name}` is {_AN.get(kind, 'a state')}",
            declaration.member.span,
        )
    if kind == "output" and outer.local:
        raise problem("E0309", "an output is declared outside of loops", span)
    if kind == "param" and declaration.shape is None:
        raise problem(
            "E0205", f"parameter `{name}` needs a shape", span, help=f"write `param {name}[n]` or `[n, m]`"
        )
    for size in declaration.shape or () if kind != "layer" and declaration.family is None else ():
        if isinstance(size, s.Comparison | s.Literal) and not _is_size(size):
            raise problem(
                "E0205",
                f"a shape stands in the last bracket, and this one holds labels of a family `{name}`",
                size.span,
                help=f"write `{name}[{quoted(size.span)}][…]`: the shape stands behind the labels",
            )
    if kind == "layer" and declaration.value is None:
        raise problem("E0207", f"layer `{name}` has no value", span, help=f"write `layer {name} = Conv(…)`")
    if declaration.relation == "~" and kind != "state":
        raise problem(
            "E0308",
            f"`~` states the equation of a state, and `{name}` is {_AN[kind]}",
            declaration.span,
            help=f"write `{name} = …`",
            fixes=_as_definition(declaration),
        )


def _as_definition(declaration: s.Declaration) -> tuple[Fix, ...]:
    """`=` in place of `~`, where the kind has a definition at all."""
    at = None
    if declaration.value is not None and declaration.kind != "input":
        at = between(declaration.name.span, declaration.value.span, "~")
    return replacing(at, "=") if at is not None else ()


def _is_size(expression: s.Comparison | s.Literal) -> bool:
    return isinstance(expression, s.Literal) and not isinstance(expression.value, str)


def _without_shape(declaration: s.Declaration) -> Problem:
    """`state x = …`: neither an equation nor a first guess."""
    name, value = declaration.name.name, declaration.value
    written = quoted(value.span) if value is not None else "…"
    return problem(
        "E0308",
        f"what stands behind `=` is where the solver of `{name}` starts, and the state has no shape",
        declaration.span,
        help=f"for its equation write `state {name} ~ {written}`, for a start `state {name}[…] = {written}`",
    )


_AN = {"input": "an input", "output": "an output", "param": "a parameter", "layer": "a layer"}


def _declare_input(body: Body, declaration: s.Declaration) -> None:
    """Inputs are announced before the body is run; here those are refused that stand elsewhere."""
    name, span = declaration.name.name, declaration.name.span
    if name in body.broken and name not in body.announced:
        raise Poisoned
    if name not in body.announced:
        raise problem(
            "E0309",
            "an input is declared outside of loops",
            span,
            help=f"several of them are a family: `input {name}[i in 1:3][…]`",
        )
    if body.announced[name] is not span and name not in body.broken:
        raise twice(name, span, body.announced[name])


def twice(name: str, span: Span, first: Span) -> Problem:
    return problem(
        "E0103",
        f"`{name}` is defined twice",
        span,
        "and again here",
        labels=(Label(first, "first here"),),
        notes=("an equation is a fact, not an assignment; a name has exactly one",),
        help="give the second one a name of its own",
    )


def enter(
    body: Body, key: Key, kind: str, expression: s.Expression | None, environment: Environment, span: Span
) -> Definition:
    """Enter a definition. Raises Problem if the name has one already."""
    name = key[0]
    local = environment.local and len(key) == 1
    home: dict[Any, Any] = environment.bindings if local else body.definitions
    found = home.get(name if local else key)
    if isinstance(found, Definition):
        if found.kind == "input":
            raise problem(
                "E0302",
                f"`{name}` is an input and cannot be defined",
                span,
                labels=(Label(found.span, "the input"),),
                help="give the new value a name of its own",
            )
        raise twice(show_key(key), span, found.span)
    if found is not None:
        raise problem("E0103", f"`{name}` is the variable of this loop", span, help="choose another name")
    if not local and name in _root(environment).bindings:
        raise problem(
            "E0103", f"`{name}` is a parameter already", span, help="give the new value a name of its own"
        )
    _check_family(body, key, span, local)
    definition = Definition(key, kind, expression, environment, span, body)
    definition.label = show_key((*key, *_loop_values(environment)) if local else key)
    definition.local = local
    definition.declared = environment.shapes.get(name) if local else None
    home[name if local else key] = definition
    if len(key) > 1:
        body.families.setdefault(name, {})[key] = None
    return definition


def _root(environment: Environment) -> Environment:
    while environment.parent is not None:
        environment = environment.parent
    return environment


def _loop_values(environment: Environment) -> Key:
    values: list[object] = []
    scope: Environment | None = environment
    while scope is not None and scope.local:
        values[:0] = [v for v in scope.bindings.values() if not isinstance(v, Definition)]
        scope = scope.parent
    return tuple(v if isinstance(v, (int, str)) else "_" for v in values)


def _check_family(body: Body, key: Key, span: Span, local: bool) -> None:
    """A name is either plain or a family, and all members have equally many labels."""
    name = key[0]
    first = next(iter(body.families.get(name, ())), None)
    if len(key) == 1 and first is not None and not local:
        place = body.definitions.get(first) or body.shapes[first]
        raise problem(
            "E0103",
            f"`{name}` is a family, and cannot stand alone as well",
            span,
            labels=(Label(place.span, "a member"),),
        )
    if len(key) > 1 and (name,) in body.definitions:
        raise twice(name, span, body.definitions[(name,)].span)
    if first is not None and len(key) > 1 and len(first) != len(key):
        count = len(first) - 1
        plural = "" if count == 1 else "s"
        raise problem(
            "E0103", f"the members of `{name}` have {count} label{plural}", span, f"and this {len(key) - 1}"
        )
