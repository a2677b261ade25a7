"""`@solver(x, rk4(steps = 20))`: how an `ode` is integrated."""

from __future__ import annotations

from collections.abc import Mapping

from implicit_dsl import syntax as s
from implicit_dsl.demands import SOLVERS
from implicit_dsl.integrators import ADAPTIVE, DEFAULT, FIXED, METHODS, Method
from implicit_dsl.resolve.annotations.forms import no_keywords
from implicit_dsl.resolve.annotations.nearest import Saying, word
from implicit_dsl.resolve.annotations.settings import SETTINGS_HELP, Setting, typed
from implicit_dsl.resolve.arguments import MOST
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Integration, Noted
from implicit_dsl.resolve.values import Definition


def method_of(context: Context, made: Integration) -> Method:
    """The method that an annotation names for an `ode`: for one of its states, or for all. Raises Problem."""

    def is_own(definition: Definition | None) -> bool:
        while definition is not None and definition.kind == "steps":  # of a `recurrent` around it
            definition = definition.value[1]
        return definition is not None and definition.kind == "flow" and definition.value[0] is made

    return _METHOD.of(context, made.body, is_own) or Method(DEFAULT)


def _method(context: Context, noted: Noted, form: s.Expression | None) -> Method:
    name = word(noted)
    no_keywords(noted.annotation, (), SETTINGS_HELP)
    given: tuple[tuple[str, int | float | bool], ...] = ()
    if isinstance(form, s.Call):
        given = typed(context, form, noted.environment, name, SETTINGS[name])
    return Method(name, given)


_METHOD = Saying("solver", "solver", METHODS, (*SOLVERS, *METHODS), _method, "an `ode` has one method")


def integrates(context: Context, noted: Noted) -> bool:
    """Whether an annotation names a method of an `ode`. Raises Problem if no `ode` takes it."""
    if not _METHOD.among(noted):
        return False
    if id(noted.annotation) not in context.settled and not context.poisoned:
        if word(noted) == "euler":
            return False  # it may cut a loop
        raise problem(
            "E0702",
            f"`{word(noted)}` integrates an `ode`, and nothing here is one",
            noted.annotation.span,
            help="name a state of an `ode`, or a solver of equilibria such as `auto`",
        )
    return True


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
