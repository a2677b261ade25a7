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
from implicit_dsl.resolve.problem import Poisoned, Problem, problem
from implicit_dsl.resolve.scope import Environment, Module, Noted
from implicit_dsl.resolve.values import Function, describe
from implicit_dsl.source import Span

_FORM = "write `@lipschitz f <= 1.1`"


def claim(context: Context, noted: Noted) -> None:
    """Check what is said of a function, and keep it where no bound as good is proved. Raises Problem."""
    if not _claim(context, noted.annotation, noted.environment):
        _without_effect(context, noted)


def claims_of_files(context: Context) -> None:
    """The same of what stands beside the functions that a model uses; what is wrong is reported."""
    for module in dict.fromkeys(function.environment.module for _, function in context.functions):
        for annotation in module.claims:
            try:
                _claim(context, annotation, Environment(None, module))
            except Problem as found:
                context.report(found.diagnostic)
            except Poisoned:
                continue  # the cause was reported


def check_form(context: Context, annotation: s.Annotation, module: Module) -> None:
    """Raises Problem if a claim at the top of a file says nothing of a function of that file."""
    name, function, _ = _parts(context, annotation, Environment(None, module))
    if function.environment.module is not module:
        message = f"`{name}` is a function of another file"
        help = "say it beside the function, or inside of a model"
        raise problem("E0702", message, annotation.span, help=help)


def _claim(context: Context, annotation: s.Annotation, environment: Environment) -> bool:
    """Whether the function is used as an activation. Raises Problem."""
    name, function, bound = _parts(context, annotation, environment)
    uses = [wire for wire, used in context.functions if used.span == function.span]
    for wire in uses:
        assert wire.operator is not None
        body = wire.operator["body"]
        slope, at = steepest(body)
        if slope > bound * (1 + 1e-9) + 1e-12:
            raise problem(
                "E0407",
                f"`{name}` is steeper than {bound:g}",
                annotation.span,
                f"its slope is {slope:.6g} at {at:.6g}",
                labels=(Label(function.span, "defined here"),),
            )
        proved = derived(body)
        if proved is None or max(-proved[0], proved[1]) > bound:
            wire.operator = _claimed(wire.operator, bound)
    return bool(uses)


def _claimed(operator: Operator, bound: float) -> Operator:
    """A function with the bound that is claimed, the least if there are several."""
    settings = dict(operator.settings)
    before = settings.get("claimed")
    least = min(bound, before) if isinstance(before, float) else bound
    return replace(operator, settings=tuple(sorted((settings | {"claimed": least}).items())))


def _parts(
    context: Context, annotation: s.Annotation, environment: Environment
) -> tuple[str, Function, float]:
    no_keywords(annotation, help=_FORM)
    match annotation.arguments:
        case (s.Comparison((s.Name(name) as what, right), ("<=",)),):
            function = context.evaluate(what, environment)
            bound = context.evaluate(right, environment)
        case (other, *_):
            raise problem("E0702", "`@lipschitz` says `function <= number`", other.span, help=_FORM)
        case _:
            raise problem("E0702", "`@lipschitz` says `function <= number`", annotation.span, help=_FORM)
    if not isinstance(function, Function):
        said = f"this is {describe(function)}"
        raise problem("E0702", "`@lipschitz` is about a function of the program", what.span, said)
    if not is_number(bound) or not 0 < bound < float("inf"):
        raise problem("E0702", "a Lipschitz constant is a number above 0", right.span, describe(bound))
    return name, function, float(bound)


def _without_effect(context: Context, noted: Noted) -> None:
    if "unused_annotation" in noted.body.allowed:
        return
    name, _, _ = _parts(context, noted.annotation, noted.environment)
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
