"""`@backward truncated(steps = 20)`: how far gradients go back through the steps of a `recurrent`."""

from __future__ import annotations

from implicit_dsl import syntax as s
from implicit_dsl.demands import BACKWARDS, TRUNCATED
from implicit_dsl.errors import Label
from implicit_dsl.resolve.annotations.forms import no_keywords, split
from implicit_dsl.resolve.annotations.settings import Setting, typed
from implicit_dsl.resolve.arguments import MOST
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.indexing import named_definition
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Noted, Recurrence
from implicit_dsl.source import Span

_SETTINGS = (Setting(("steps",), "steps", "whole", 1, MOST),)


def truncation_of(context: Context, made: Recurrence) -> int:
    """After how many steps gradients end, as an annotation says; 0 if none does. Raises Problem."""
    found: dict[bool, tuple[int, Span]] = {}
    for noted in context.noted:
        if not _is_one(noted) or not _around(noted, made):
            continue
        target, form = split(noted, "gradient", (*BACKWARDS, TRUNCATED))
        if target is not None:
            definition = named_definition(context, target, noted.environment)
            if definition is not None and definition.kind == "steps":
                definition = definition.value[1]
            if definition not in made.definitions:
                continue
        steps = _steps(context, noted, form)
        own = target is not None
        if own in found and found[own][0] != steps:
            raise problem(
                "E0705",
                "the gradients of a `recurrent` end in one place",
                noted.annotation.span,
                labels=(Label(found[own][1], "another one"),),
                help="remove one of them",
            )
        found[own] = (steps, noted.annotation.span)
        context.truncated.add(id(noted.annotation))
    chosen = found.get(True) or found.get(False)
    return chosen[0] if chosen is not None else 0


def _steps(context: Context, noted: Noted, form: s.Expression | None) -> int:
    help = "write `@backward truncated(steps = 20)`"
    no_keywords(noted.annotation, (), help)
    given = typed(context, form, noted.environment, TRUNCATED, _SETTINGS) if isinstance(form, s.Call) else ()
    if not given:
        raise problem(
            "E0702", "`truncated` says after how many steps gradients end", noted.annotation.span, help=help
        )
    return int(given[0][1])


def truncates(context: Context, noted: Noted) -> bool:
    """Whether an annotation truncates a `recurrent`. Raises Problem if there is none that it is about."""
    if not _is_one(noted):
        return False
    if id(noted.annotation) not in context.truncated and not context.poisoned:
        raise problem(
            "E0702",
            "`truncated` ends the gradients of a `recurrent`, and nothing here is one",
            noted.annotation.span,
            help="name a state of a `recurrent`, or leave it out",
        )
    return True


def _is_one(noted: Noted) -> bool:
    if noted.annotation.name.name != "backward":
        return False
    form = noted.annotation.arguments[-1] if noted.annotation.arguments else None
    function = form.function if isinstance(form, s.Call) else form
    return isinstance(function, s.Name) and function.name == TRUNCATED


def _around(noted: Noted, made: Recurrence) -> bool:
    """Whether an annotation stands in a `recurrent`, or beside it."""
    return noted.body in (made.body, made.body.outer)
