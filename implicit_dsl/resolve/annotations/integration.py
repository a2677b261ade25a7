"""`@solver(x, rk4(steps = 20))`: how an `ode` is integrated."""

from __future__ import annotations

from collections.abc import Mapping

from implicit_dsl import syntax as s
from implicit_dsl.demands import SOLVERS
from implicit_dsl.errors import Label
from implicit_dsl.integrators import ADAPTIVE, DEFAULT, FIXED, METHODS, Method
from implicit_dsl.resolve.annotations.forms import no_keywords, split
from implicit_dsl.resolve.annotations.settings import SETTINGS_HELP, Setting, typed
from implicit_dsl.resolve.arguments import MOST
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.indexing import named_definition
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Integration, Noted
from implicit_dsl.source import Span


def method_of(context: Context, made: Integration) -> Method:
    """The method that an annotation names for an `ode`: for one of its states, or for all. Raises Problem."""
    found: dict[bool, tuple[Method, Span]] = {}
    for noted in context.noted:
        if noted.annotation.name.name != "solver" or not _around(noted, made):
            continue
        target, form = split(noted, "solver", _WORDS)
        word = named(form)
        if word is None:
            continue
        if target is not None:
            definition = named_definition(context, target, noted.environment)
            while definition is not None and definition.kind == "steps":  # of a `recurrent` around it
                definition = definition.value[1]
            if definition is None or definition.kind != "flow" or definition.value[0] is not made:
                continue
        no_keywords(noted.annotation, (), SETTINGS_HELP)
        given: tuple[tuple[str, int | float | bool], ...] = ()
        if isinstance(form, s.Call):
            given = typed(context, form, noted.environment, word, SETTINGS[word])
        method = Method(word, given)
        own = target is not None
        if own in found and found[own][0] != method:
            raise problem(
                "E0705",
                "an `ode` has one method",
                noted.annotation.span,
                labels=(Label(found[own][1], "another one"),),
                help="remove one of them",
            )
        found[own] = (method, noted.annotation.span)
        context.integrated.add(id(noted.annotation))
    chosen = found.get(True) or found.get(False)
    return chosen[0] if chosen is not None else Method(DEFAULT)


def _around(noted: Noted, made: Integration) -> bool:
    """Whether an annotation stands beside an `ode`, or beside a `recurrent` that it stands in."""
    body = made.body.outer
    while body is not None and body is not noted.body:
        body = body.outer
    return body is not None


def named(form: s.Expression | None) -> str | None:
    """The method that a form names, if it does."""
    function = form.function if isinstance(form, s.Call) else form
    return function.name if isinstance(function, s.Name) and function.name in METHODS else None


def integrates(context: Context, noted: Noted) -> bool:
    """Whether an annotation names a method of an `ode`. Raises Problem if no `ode` takes it."""
    if noted.annotation.name.name != "solver":
        return False
    _, form = split(noted, "solver", _WORDS)
    if named(form) is None:
        return False
    if id(noted.annotation) not in context.integrated and not context.poisoned:
        if named(form) == "euler":
            return False  # it may cut a loop
        raise problem(
            "E0702",
            f"`{named(form)}` integrates an `ode`, and nothing here is one",
            noted.annotation.span,
            help="name a state of an `ode`, or a solver of equilibria such as `auto`",
        )
    return True


_WORDS = (*SOLVERS, *METHODS)
_FIXED = (Setting(("steps",), "steps", "whole", 1, MOST),)
_ADAPTIVE = (
    Setting(("rtol",), "rtol", "number", high=1.0),
    Setting(("atol",), "atol", "number", high=1.0),
    Setting(("maxiter",), "max_steps", "whole", 1, MOST),
    Setting(("adjoint",), "adjoint", "flag"),
)
SETTINGS: Mapping[str, tuple[Setting, ...]] = {
    **dict.fromkeys(FIXED, _FIXED),
    **dict.fromkeys(ADAPTIVE, _ADAPTIVE),
}
