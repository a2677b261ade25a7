"""Bodies: declarations and equations are collected, control flow is unrolled, and all is evaluated.

Names do not depend on the order of the text: plain names are collected first, then what
depends on values (members of families, `for`, `if`), then everything is evaluated in the
order of the text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

from implicit_dsl import syntax as s
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.names import reserved
from implicit_dsl.resolve.annotations import annotate
from implicit_dsl.resolve.constants import items, truth
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.indexing import labels
from implicit_dsl.resolve.problem import Poisoned, Problem, later, problem
from implicit_dsl.resolve.scope import Body, DeclaredShape, Environment, Key
from implicit_dsl.resolve.values import Definition, Function, show_key
from implicit_dsl.source import Span


def run_body(
    context: Context, body: Body, parts: Iterable[tuple[tuple[s.Statement, ...], Environment]]
) -> None:
    """Collect and evaluate the statements of a body; a derived model gives two parts, the base first."""
    order: list[Definition] = []
    for statements, environment in parts:
        order += _collect(context, body, statements, environment)
    for definition in order:
        if definition.status == "new":
            try:
                context.force(definition)
            except Poisoned:
                continue


def attempt(context: Context, action, *arguments) -> None:  # type: ignore[no-untyped-def]
    """Run one step of a body; a problem is reported, and the other steps go on."""
    try:
        action(*arguments)
    except Problem as found:
        context.findings.add(replace(found.diagnostic, path=found.diagnostic.path or context.frames))
    except Poisoned:
        pass


def _collect(
    context: Context, body: Body, statements: tuple[s.Statement, ...], environment: Environment
) -> list[Definition]:
    """The definitions of some statements, in the order of the text."""
    made: list[list[Definition]] = [[] for _ in statements]
    waiting: list[int] = []
    for number, statement in enumerate(statements):
        if _is_plain(statement):
            attempt(context, _plain, context, body, statement, environment, made[number])
        else:
            waiting.append(number)
    for number in waiting:
        attempt(context, _dependent, context, body, statements[number], environment, made[number])
    return list(itertools.chain.from_iterable(made))


def _is_plain(statement: s.Statement) -> bool:
    """Whether a statement can be collected before any value is known."""
    match statement:
        case s.Declaration():
            return statement.family is None
        case s.Equation() | s.Definition():
            return not isinstance(statement.target, s.Index)
        case s.For() | s.If():
            return False
        case _:
            return True


def _plain(
    context: Context, body: Body, statement: s.Statement, environment: Environment, made: list[Definition]
) -> None:
    match statement:
        case s.Declaration():
            made += _declare(context, body, statement, environment, (), environment)
        case s.Equation() | s.Definition():
            made += _define(context, body, statement, environment)
        case s.Annotation():
            annotate(body, statement)
        case s.Bare():
            _bare(context, statement)
        case s.Recurrent() | s.Ode() | s.Open():
            _poison_names(body, statement, environment)
            what = type(statement).__name__.lower()
            head = Span(statement.span.source, statement.span.start, statement.span.start + len(what))
            raise later(f"`{what}`", head)
        case s.Import() | s.Template():
            what = "import" if isinstance(statement, s.Import) else statement.kind
            raise problem(
                "E0309", f"`{what}` stands at the top of a file, not inside of a model", statement.span
            )
        case s.For() | s.If():
            raise AssertionError("control flow is not plain")


def _dependent(
    context: Context, body: Body, statement: s.Statement, environment: Environment, made: list[Definition]
) -> None:
    match statement:
        case s.Declaration():
            for key, inner in _family(context, statement, environment):
                made += _declare(context, body, statement, inner, key, environment)
        case s.Equation() | s.Definition():
            made += _define(context, body, statement, environment)
        case s.For():
            for inner in _iterations(context, statement.bindings, environment):
                made += _collect(context, body, statement.body, inner)
        case s.If():
            for branch in statement.branches:
                if branch.condition is None or truth(context, branch.condition, environment):
                    made += _collect(context, body, branch.body, environment)
                    break
        case _:
            raise AssertionError("plain statements were collected before")


def _iterations(
    context: Context, bindings: tuple[s.Binding, ...], environment: Environment
) -> Iterable[Environment]:
    if not bindings:
        yield environment
        return
    first, *rest = bindings
    for number, value in enumerate(items(context, first.values, environment)):
        context.step(first.span)
        inner = environment.inner({first.name.name: value}, first.span.start, number, local=True)
        yield from _iterations(context, tuple(rest), inner)


# --------------------------------------------------------------------------- declarations


def check_name(name: s.Name) -> None:
    """Raises Problem if nothing may have this name."""
    reason = reserved(name.name)
    if name.name == "_":
        reason = "`_` is a size that is left free"
    if reason:
        raise problem("E0105", f"`{name.name}` cannot be a name", name.span, reason)


def _family(
    context: Context, declaration: s.Declaration, environment: Environment
) -> Iterable[tuple[Key, Environment]]:
    """The members of `z[s in 1:2][…]`: their labels, and scopes in which s has its value."""
    axes: list[tuple[str, Iterable[object]]] = []
    for subscript in declaration.family or ():
        match subscript:
            case s.Comparison((s.Name(name), values), ("in",)):
                axes.append((name, items(context, values, environment)))
            case s.Range():
                axes.append(("", items(context, subscript, environment)))
            case _:
                (label,) = labels(context, (subscript,), environment)
                axes.append(("", (label,)))
    for member in itertools.product(*(values for _, values in axes)):
        context.step(declaration.span)
        bindings = {name: value for (name, _), value in zip(axes, member) if name}
        yield member, environment.inner(bindings, declaration.span.start, *member)


def _declare(
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
    if declaration.member is not None:
        raise later("a set behind `in`", declaration.member.span)
    if kind == "input":
        _declare_input(body, declaration, environment)
        return []
    if kind != "layer" and declaration.shape is not None:
        if key in body.shapes:
            raise _twice(show_key(key), declaration.name.span, body.shapes[key].span)
        body.shapes[key] = DeclaredShape(declaration.shape, environment, declaration.name.span, kind)
    if kind == "param" and declaration.shape is None:
        raise problem(
            "E0205",
            f"parameter `{name}` needs a shape",
            declaration.name.span,
            help=f"write `param {name}[n, m]`",
        )
    if kind == "output":
        if outer.local:
            raise problem("E0309", "an output is declared outside of loops", declaration.name.span)
        body.outputs.append((key, declaration.name.span))
    if declaration.relation == "=" and kind == "state":
        raise later(
            "the start value of a state", declaration.span, "without a loop or `recurrent` it has no effect"
        )
    if declaration.relation == "~" and kind != "state":
        raise problem(
            "E0308",
            f"`~` states the equation of a state, and `{name}` is {_AN[kind]}",
            declaration.span,
            help=f"write `{name} = …`",
        )
    if kind in ("state", "output") and declaration.value is None:
        if member:
            body.families.setdefault(name, [])
        return []
    if kind == "layer" and declaration.value is None:
        raise problem(
            "E0207",
            f"layer `{name}` has no value",
            declaration.name.span,
            help=f"write `layer {name} = Conv(…)`",
        )
    relation = {"state": "~", "output": "="}.get(kind, kind)
    return [_add(body, key, relation, declaration.value, environment, declaration.name.span)]


_AN = {"input": "an input", "output": "an output", "param": "a parameter", "layer": "a layer"}


def _declare_input(body: Body, declaration: s.Declaration, environment: Environment) -> None:
    name = declaration.name.name
    if environment.local or declaration.family is not None:
        raise problem("E0309", "an input is declared once, outside of loops", declaration.name.span)
    if declaration.value is not None:
        raise problem("E0302", f"`{name}` is an input, and has no definition", declaration.span)
    if declaration.shape is None:
        raise problem(
            "E0205", f"input `{name}` needs a shape", declaration.name.span, help=f"write `input {name}[n]`"
        )
    bound = body.definitions.get((name,))
    if bound is not None and bound.kind != "input":
        raise _twice(name, declaration.name.span, bound.span)


def _twice(name: str, span: Span, first: Span) -> Problem:
    return problem(
        "E0103",
        f"`{name}` is defined twice",
        span,
        "and again here",
        labels=(Label(first, "first here"),),
        notes=("an equation is a fact, not an assignment; a name has exactly one",),
        help="give the second one a name of its own",
    )


def _add(
    body: Body, key: Key, kind: str, expression: s.Expression | None, environment: Environment, span: Span
) -> Definition:
    """Enter a definition. Raises Problem if the name has one already."""
    name = key[0]
    local = environment.local and len(key) == 1
    home = environment.bindings if local else body.definitions
    found = home.get(name) if local else body.definitions.get(key)
    if isinstance(found, Definition):
        if found.kind == "input":
            raise problem(
                "E0302",
                f"`{name}` is an input and cannot be defined",
                span,
                labels=(Label(found.span, "the input"),),
                help="give the new value a name of its own",
            )
        raise _twice(show_key(key), span, found.span)
    if found is not None:
        raise problem("E0103", f"`{name}` is the variable of this loop", span, help="choose another name")
    _check_family(body, key, span, local)
    definition = Definition(key, kind, expression, environment, span, body)
    definition.label = show_key((*key, *_loop_values(environment)) if local else key)
    home[name if local else key] = definition  # type: ignore[index]
    if len(key) > 1:
        body.families.setdefault(name, []).append(key)
    return definition


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
    members = body.families.get(name)
    if len(key) == 1 and members and not local:
        first = body.definitions[members[0]]
        raise problem(
            "E0103",
            f"`{name}` is a family, and cannot stand alone as well",
            span,
            labels=(Label(first.span, "a member"),),
        )
    if len(key) > 1 and (name,) in body.definitions:
        raise _twice(name, span, body.definitions[(name,)].span)
    if members and len(members[0]) != len(key):
        raise problem(
            "E0103",
            f"the members of `{name}` have {len(members[0]) - 1} labels",
            span,
            f"here {len(key) - 1}",
        )


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
        case s.Call(s.Name("D"), _) if relation == "~":
            raise problem("E0603", "`D(x) ~ …` stands inside of an `ode`", statement.target.span)
        case s.Call(s.Name(), arguments, (), False) if relation == "=":
            return [_function(body, statement, arguments, environment)]
        case _:
            raise problem(
                "E0308",
                "only a name, a member of a family or a function can be defined",
                statement.target.span,
            )
    declared = body.shapes.get(key)
    if declared is not None and declared.kind == "output" and relation == "~":
        raise problem(
            "E0308",
            f"`~` states the equation of a state, and `{key[0]}` is an output",
            span,
            help=f"write `{show_key(key)} = …`",
        )
    return [_add(body, key, relation, statement.value, environment, span)]


def _function(
    body: Body,
    statement: s.Definition | s.Equation,
    arguments: tuple[s.Expression, ...],
    environment: Environment,
) -> Definition:
    target = statement.target
    assert isinstance(target, s.Call) and isinstance(target.function, s.Name)
    check_name(target.function)
    function = make_function(target, arguments, statement.value, environment)
    definition = _add(body, (target.function.name,), "function", statement.value, environment, target.span)
    definition.value = function
    return definition


def make_function(
    target: s.Call, arguments: tuple[s.Expression, ...], value: s.Expression, environment: Environment
) -> Function:
    """`f(x, y) = value`. Raises Problem unless the arguments are names."""
    names: list[str] = []
    for argument in arguments:
        if not isinstance(argument, s.Name) or argument.name in names:
            raise problem("E0308", "the arguments of a function are different names", argument.span)
        names.append(argument.name)
    assert isinstance(target.function, s.Name)
    return Function(target.function.name, tuple(names), value, environment, target.span)


def _bare(context: Context, statement: s.Bare) -> None:
    value = statement.value
    help = ""
    if isinstance(value, s.Comparison) and value.operators == ("==",):
        help = "`==` compares; a definition is written with `=`, an equation with `~`"
    context.warn(Diagnostic("W0301", "this expression has no effect", statement.span, help=help))


def _poison_names(body: Body, statement: s.Statement, environment: Environment) -> None:
    """What an unsupported construct would define is silent afterwards: one cause, one message."""
    inner = statement.body if isinstance(statement, s.Recurrent | s.Ode) else ()
    for part in inner:
        target = part.name if isinstance(part, s.Declaration) else getattr(part, "target", None)
        while isinstance(target, s.Index | s.Call):
            target = target.value if isinstance(target, s.Index) else (target.arguments or (None,))[0]
        if isinstance(target, s.Name):
            key = (target.name,)
            if key not in body.definitions:
                body.definitions[key] = Definition(key, "=", None, environment, target.span, body, "poisoned")
