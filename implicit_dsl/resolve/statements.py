"""Bodies: declarations and equations are collected, control flow is unrolled, and all is evaluated.

Names do not depend on the order of the text: plain names are collected first, then what
depends on values (members of families, `for`, `if`), then everything is evaluated in the
order of the text.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from implicit_dsl import syntax as s
from implicit_dsl.errors import Diagnostic
from implicit_dsl.fixes import Fix, replacing
from implicit_dsl.resolve.annotations import annotate
from implicit_dsl.resolve.constants import is_open, items, taken
from implicit_dsl.resolve.context import REFUSED, STATEMENT, Context
from implicit_dsl.resolve.declarations import (
    check_name,
    check_variable,
    declare,
    enter,
    family,
    formals,
    twice,
)
from implicit_dsl.resolve.defined import names_defined, outputs_in
from implicit_dsl.resolve.indexing import labels
from implicit_dsl.resolve.lookup import between, no_equation
from implicit_dsl.resolve.ode import collect, integration
from implicit_dsl.resolve.openings import note_open
from implicit_dsl.resolve.problem import Poisoned, Problem, problem
from implicit_dsl.resolve.recurrence import given, recurrence, scope
from implicit_dsl.resolve.scope import Body, Environment, Key
from implicit_dsl.resolve.values import Definition, Function, show_key
from implicit_dsl.source import Span


def run_body(
    context: Context,
    body: Body,
    parts: Sequence[tuple[tuple[s.Statement, ...], Environment]],
    settle: Callable[[], None],
) -> None:
    """Collect and evaluate the statements of a body; a derived model gives two parts, the base first.

    `settle` is called once the plain names are known, and before anything else depends on values:
    the shapes of inputs may use the names.
    """
    collected = [_collect_plain(context, body, *part) for part in parts]
    settle()
    for part, made in zip(parts, collected):
        _collect_dependent(context, body, *part, made)
    written = itertools.chain.from_iterable(outputs_in(statements) for statements, _ in parts)
    rank = {name: number for number, name in enumerate(dict.fromkeys(written))}
    body.outputs = dict(sorted(body.outputs.items(), key=lambda output: rank[output[0][0]]))
    every = [definition for part in collected for statement in part for definition in statement]
    # a state with open sizes is known to read itself only if its equation is read before what it reads
    for definition in [*filter(_has_open_sizes, every), *every]:
        if definition.status == "new":
            with suppress(Poisoned):
                context.force(definition)
    for key, shape in body.shapes.items():
        if shape.kind == "state" and key not in body.definitions and key[0] not in body.broken:
            context.report(no_equation(show_key(key), "state", shape.span).diagnostic)


def _has_open_sizes(definition: Definition) -> bool:
    """Whether a definition is a state that is declared with a size left open."""
    declared = definition.declared_shape
    return definition.kind == "~" and declared is not None and any(map(is_open, declared.sizes))


def _collect(
    context: Context, body: Body, statements: tuple[s.Statement, ...], environment: Environment
) -> list[Definition]:
    """The definitions of some statements, in the order of the text."""
    made = _collect_plain(context, body, statements, environment)
    _collect_dependent(context, body, statements, environment, made)
    return list(itertools.chain.from_iterable(made))


def _collect_plain(
    context: Context, body: Body, statements: tuple[s.Statement, ...], environment: Environment
) -> list[list[Definition]]:
    """What each statement defines that does not depend on values, and no definitions for the others."""
    made: list[list[Definition]] = [[] for _ in statements]
    for statement, into in zip(statements, made):
        if _is_plain(statement):
            _attempt(context, body, statement, environment, _plain, into)
    return made


def _collect_dependent(
    context: Context,
    body: Body,
    statements: tuple[s.Statement, ...],
    environment: Environment,
    made: list[list[Definition]],
) -> None:
    for statement, into in zip(statements, made):
        if not _is_plain(statement):
            _attempt(context, body, statement, environment, _dependent, into)


_Step = Callable[[Context, Body, s.Statement, Environment, list[Definition]], None]


def _attempt(
    context: Context,
    body: Body,
    statement: s.Statement,
    environment: Environment,
    step: _Step,
    made: list[Definition],
) -> None:
    """Collect one statement; a problem is reported, its names are silent, and the others go on."""
    context.step(statement.span, STATEMENT)
    try:
        step(context, body, statement, environment, made)
    except Problem as found:
        context.report(found.diagnostic)
        context.step(statement.span, REFUSED)
        body.broken.update(names_defined(statement))
    except Poisoned:
        body.broken.update(names_defined(statement))


def _is_plain(statement: s.Statement) -> bool:
    """Whether a statement can be collected before any value is known."""
    match statement:
        case s.Declaration():
            return statement.family is None or statement.kind == "input"
        case s.Equation(s.Call(s.Name("D"), arguments)):
            return not any(isinstance(argument, s.Index) for argument in arguments)
        case s.Equation() | s.Definition():
            return not isinstance(statement.target, s.Index)
        case s.For() | s.If() | s.Recurrent() | s.Ode():
            return False
        case _:
            return True


def _plain(
    context: Context, body: Body, statement: s.Statement, environment: Environment, made: list[Definition]
) -> None:
    match statement:
        case s.Declaration():
            made += declare(context, body, statement, environment, (), environment)
        case s.Equation() | s.Definition():
            made += _define(context, body, statement, environment)
        case s.Annotation():
            annotate(context, body, statement, environment)
        case s.Bare():
            _bare(context, statement)
        case s.Open():
            note_open(context, body, statement, environment)
        case s.Import() | s.Template():
            what = "import" if isinstance(statement, s.Import) else statement.kind
            raise problem(
                "E0309", f"`{what}` stands at the top of a file, not inside of a model", statement.span
            )
        case s.For() | s.If() | s.Recurrent() | s.Ode():
            raise AssertionError("control flow is not plain")


def _dependent(
    context: Context, body: Body, statement: s.Statement, environment: Environment, made: list[Definition]
) -> None:
    match statement:
        case s.Declaration():
            for key, inner in family(context, statement, environment):
                made += declare(context, body, statement, inner, key, environment)
        case s.Equation() | s.Definition():
            made += _define(context, body, statement, environment)
        case s.For():
            for inner in _iterations(context, statement.bindings, environment):
                made += _collect(context, body, statement.body, inner)
        case s.If():
            made += _collect(context, body, taken(context, statement, environment), environment)
        case s.Recurrent():
            made += _recurrent(context, body, statement, environment)
        case s.Ode():
            made += _ode(context, body, statement, environment)
        case _:
            raise AssertionError("plain statements were collected before")


def _recurrent(
    context: Context, body: Body, statement: s.Recurrent, environment: Environment
) -> list[Definition]:
    """The names of a step, collected in a body of their own; what they stand for behind its `end`."""
    for binding in statement.bindings:
        check_name(binding.name)
    if environment.local:
        raise problem("E0309", "`recurrent` stands outside of loops", statement.span)
    made = recurrence(context, body, statement, environment)
    made.definitions += _collect(context, made.body, statement.body, scope(made))
    return _enter_all(body, given(made))


def _ode(context: Context, body: Body, statement: s.Ode, environment: Environment) -> list[Definition]:
    """The names of an `ode`, for what they stand for behind its `end`."""
    check_name(statement.variable)
    if environment.local:
        raise problem("E0309", "`ode` stands outside of loops", statement.span)
    made = integration(context, body, statement, environment)
    found = _enter_all(body, collect(context, made, _collect))
    return [definition for definition in found if definition.value[1] is not None]


def _enter_all(body: Body, definitions: Sequence[Definition]) -> list[Definition]:
    """Enter what names within a body stand for behind its `end`."""
    found = []
    for definition in definitions:
        home = body.definitions.get(definition.key)
        if home is not None:
            raise twice(definition.shown, definition.span, home.span)
        body.definitions[definition.key] = definition
        if len(definition.key) > 1:
            body.families.setdefault(definition.key[0], {})[definition.key] = None
        found.append(definition)
    return found


def _iterations(
    context: Context, bindings: tuple[s.Binding, ...], environment: Environment
) -> Iterable[Environment]:
    if not bindings:
        yield environment
        return
    first, *rest = bindings
    check_variable(first.name)
    for number, value in enumerate(items(context, first.values, environment)):
        context.step(first.span, STATEMENT + len(environment.tag))
        inner = environment.inner({first.name.name: value}, first.span.start, number, local=True)
        yield from _iterations(context, tuple(rest), inner)


# --------------------------------------------------------------------------- equations and definitions


def _define(
    context: Context, body: Body, statement: s.Equation | s.Definition, environment: Environment
) -> list[Definition]:
    relation = "~" if isinstance(statement, s.Equation) else "="
    match statement.target:
        case s.Name():
            check_name(statement.target)
            key: Key = (statement.target.name,)
            span = statement.target.span
        case s.Index(s.Name(), subscripts):
            check_name(statement.target.value)  # type: ignore[arg-type]
            key = (statement.target.value.name, *labels(context, subscripts, environment))  # type: ignore[union-attr]
            span = statement.target.span
        case s.Call(s.Name("D"), arguments) if relation == "~":
            return [_rate(context, body, statement, arguments, environment)]
        case s.Call(s.Name(), _, _, False) if relation == "=":
            return [_function(body, statement, environment)]
        case _:
            raise problem(
                "E0308",
                "only a name, a member of a family or a function can be defined",
                statement.target.span,
            )
    if key in body.outputs and relation == "~":
        raise problem(
            "E0308",
            f"`~` states the equation of a state, and `{key[0]}` is an output",
            span,
            help=f"write `{show_key(key)} = …`",
            fixes=_relation(span, statement.value.span, "~", "="),
        )
    return [enter(body, key, relation, statement.value, environment, span)]


def _rate(
    context: Context,
    body: Body,
    statement: s.Equation | s.Definition,
    arguments: tuple[s.Expression, ...],
    environment: Environment,
) -> Definition:
    """`D(x) ~ …`: the derivative of a state of an `ode`."""
    span = statement.target.span
    if body.ode is None:
        raise problem("E0603", "`D(x) ~ …` stands inside of an `ode`", span)
    match arguments:
        case (s.Name() as name,):
            key: Key = (name.name,)
        case (s.Index(s.Name() as name, subscripts),):
            key = (name.name, *labels(context, subscripts, environment))
        case _:
            raise problem("E0603", "`D` takes a state", span, help="write `D(x) ~ …`")
    check_name(name)
    shown = show_key(key)
    found = body.definitions.get(("D", *key))
    if found is not None:
        raise twice(f"D({shown})", span, found.span)
    definition = Definition(("D", *key), "rate", statement.value, environment, span, body)
    definition.label = shown
    body.definitions["D", *key] = definition
    return definition


def _relation(name: Span, value: Span, written: str, meant: str) -> tuple[Fix, ...]:
    """`=` in place of `~` between a name and its value, or the reverse."""
    at = between(name, value, written)
    return replacing(at, meant) if at is not None else ()


def _function(body: Body, statement: s.Definition | s.Equation, environment: Environment) -> Definition:
    target = statement.target
    assert isinstance(target, s.Call) and isinstance(target.function, s.Name)
    check_name(target.function)
    function = make_function(target, statement.value, environment)
    definition = enter(body, (target.function.name,), "function", statement.value, environment, target.span)
    definition.value = function
    return definition


def make_function(target: s.Call, value: s.Expression, environment: Environment) -> Function:
    """`f(x, y) = value`. Raises Problem unless the arguments are names."""
    assert isinstance(target.function, s.Name)
    if target.keywords:
        raise problem(
            "E0308",
            "the arguments of a function are names, without keywords or defaults",
            target.keywords[0].span,
            help="write `block Name(k = 1) … end` for a part with parameters",
        )
    return Function(target.function.name, formals(target.arguments), value, environment, target.span)


def _bare(context: Context, statement: s.Bare) -> None:
    context.report(no_effect(statement))


def no_effect(statement: s.Bare) -> Diagnostic:
    """An expression that stands alone."""
    value, help = statement.value, ""
    if isinstance(value, s.Comparison) and value.operators == ("==",):
        help = "`==` compares; a definition is written with `=`, an equation with `~`"
    elif isinstance(value, s.Unary):
        help = f"a line that begins with `{value.operator}` is a new statement: end the line before with it"
    return Diagnostic("W0301", "this expression has no effect", statement.span, help=help)
