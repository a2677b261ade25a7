"""`@backward truncated(steps = 20)`: how far gradients go back through the steps of a `recurrent`."""

from __future__ import annotations

from implicit_dsl import syntax as s
from implicit_dsl.demands import BACKWARDS, TRUNCATED
from implicit_dsl.resolve.annotations.forms import no_keywords
from implicit_dsl.resolve.annotations.nearest import Saying
from implicit_dsl.resolve.annotations.settings import Setting, typed
from implicit_dsl.resolve.arguments import MOST
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Noted, Recurrence
from implicit_dsl.resolve.values import Definition

_SETTINGS = (Setting(("steps",), "steps", "whole", 1, MOST),)


def truncation_of(context: Context, made: Recurrence) -> int:
    """After how many steps gradients end, as an annotation says; 0 if none does. Raises Problem."""

    def is_own(definition: Definition | None) -> bool:
        if definition is not None and definition.kind == "steps":
            definition = definition.value[1]
        return definition in made.definitions

    return _TRUNCATED.of(context, made.body, is_own) or 0


def _steps(context: Context, noted: Noted, form: s.Expression | None) -> int:
    help = "write `@backward truncated(steps = 20)`"
    no_keywords(noted.annotation, (), help)
    given = typed(context, form, noted.environment, TRUNCATED, _SETTINGS) if isinstance(form, s.Call) else ()
    if not given:
        raise problem(
            "E0702", "`truncated` says after how many steps gradients end", noted.annotation.span, help=help
        )
    return int(given[0][1])


_TRUNCATED = Saying(
    "backward",
    "gradient",
    (TRUNCATED,),
    (*BACKWARDS, TRUNCATED),
    _steps,
    "the gradients of a `recurrent` end in one place",
)


def truncates(context: Context, noted: Noted) -> bool:
    """Whether an annotation truncates a `recurrent`. Raises Problem if there is none that it is about."""
    if not _TRUNCATED.among(noted):
        return False
    if id(noted.annotation) not in context.settled and not context.poisoned:
        raise problem(
            "E0702",
            "`truncated` ends the gradients of a `recurrent`, and nothing here is one",
            noted.annotation.span,
            help="name a state of a `recurrent`, or leave it out",
        )
    return True
