"""`@lipschitz f <= K`: how steep a function of the program is, as its author says."""

from __future__ import annotations

from dataclasses import replace

from implicit_dsl import syntax as s
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.functions import derived, steepest
from implicit_dsl.resolve.annotations.forms import no_keywords
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Noted
from implicit_dsl.resolve.values import Function, describe
from implicit_dsl.source import Span

_FORM = "write `@lipschitz f <= 1.1`"


def claim(context: Context, noted: Noted) -> None:
    """Check what is said of a function, and keep it where no bound as good is proved. Raises Problem."""
    no_keywords(noted, help=_FORM)
    name, function, bound = _parts(context, noted)
    uses = [wire for wire, defined in context.functions if defined == function.span]
    if not uses:
        _without_effect(context, noted, name)
    for wire in uses:
        assert wire.operator is not None
        body = wire.operator["body"]
        slope, at = steepest(body)
        if slope > bound * (1 + 1e-9) + 1e-12:
            raise problem(
                "E0407",
                f"`{name}` is steeper than {bound:g}",
                noted.annotation.span,
                f"its slope is {slope:.6g} at {at:.6g}",
                labels=(Label(function.span, "defined here"),),
            )
        proved = derived(body)
        if proved is None or max(-proved[0], proved[1]) > bound:
            wire.operator = _claimed(wire.operator, bound)


def _claimed(operator: Operator, bound: float) -> Operator:
    """A function with the bound that is claimed, the least if there are several."""
    settings = dict(operator.settings)
    before = settings.get("claimed")
    least = min(bound, before) if isinstance(before, float) else bound
    return replace(operator, settings=tuple(sorted((settings | {"claimed": least}).items())))


def _parts(context: Context, noted: Noted) -> tuple[str, Function, float]:
    match noted.annotation.arguments:
        case (s.Comparison((s.Name(name) as what, right), ("<=",)),):
            function = context.evaluate(what, noted.environment)
            bound = context.evaluate(right, noted.environment)
        case (other, *_):
            raise problem("E0702", "`@lipschitz` says `function <= number`", other.span, help=_FORM)
        case _:
            raise problem(
                "E0702", "`@lipschitz` says `function <= number`", noted.annotation.span, help=_FORM
            )
    if not isinstance(function, Function):
        said = f"this is {describe(function)}"
        raise problem("E0702", "`@lipschitz` is about a function of the program", what.span, said)
    if not is_number(bound) or not 0 < bound < float("inf"):
        raise problem("E0702", "a Lipschitz constant is a number above 0", right.span, describe(bound))
    return name, function, float(bound)


def _without_effect(context: Context, noted: Noted, name: str) -> None:
    if "unused_annotation" in noted.body.allowed:
        return
    span: Span = noted.annotation.span
    context.report(
        Diagnostic(
            "W0401",
            f"`@lipschitz` of `{name}` has no effect",
            span,
            "the function is not used here as an activation",
            help="an activation is a function of one value, entry by entry, that reads it more than once",
        )
    )
