"""`@solver` and `@backward`: a name, and settings that are typed and in range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.demands import (
    BACKWARDS,
    FAILURES,
    SOLVERS,
    TRUNCATED,
    BackwardDemand,
    BackwardName,
    SolverDemand,
    SolverName,
)
from implicit_dsl.integrators import METHODS
from implicit_dsl.resolve.annotations.forms import no_keywords, number, split, state, unknown_word
from implicit_dsl.resolve.annotations.request import Request
from implicit_dsl.resolve.arguments import MOST, counted
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import did_you_mean, problem
from implicit_dsl.resolve.scope import Environment, Noted
from implicit_dsl.resolve.values import describe
from implicit_dsl.source import Span


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: how it is written, how it is stored, and low < value ≤ high (whole: low ≤ value)."""

    names: tuple[str, ...]
    stored: str
    kind: str  # number, whole, flag or word
    low: float = 0.0
    high: float = inf

    @property
    def limits(self) -> str:
        if self.kind == "whole":
            return f"between {self.low:g} and {self.high:g}" if self.high < MOST else f"at least {self.low:g}"
        return "greater than 0" if self.high == inf else f"greater than 0 and at most {self.high:g}"


SETTINGS_HELP = "settings stand in brackets behind the solver: `@solver auto(tol = 1e-3)`"
_TOLERANCE = Setting(("tol",), "tolerance", "number", high=1.0)
_COMMON = (
    _TOLERANCE,
    Setting(("maxiter",), "max_steps", "whole", 1, MOST),
    Setting(("per_sample",), "per_sample", "flag"),
    Setting(("warm_start",), "warm_start", "flag"),
    Setting(("on_failure",), "failure", "word"),
)
_DAMPING = Setting(("damping",), "damping", "number", high=1.0)
_MEMORY = Setting(("m",), "memory", "whole", 1, 100)
_STEP = Setting(("α", "alpha"), "step", "number")
_OF_SOLVERS: Mapping[SolverName, tuple[Setting, ...]] = {
    "auto": _COMMON,
    "picard": (_DAMPING, *_COMMON),
    "anderson": (_MEMORY, _DAMPING, *_COMMON),
    "broyden": (_MEMORY, *_COMMON),
    "forward_backward": (_STEP, *_COMMON),
    "peaceman_rachford": (_STEP, *_COMMON),
    "newton": _COMMON,
}
_CUTTING: Mapping[str, tuple[Setting, ...]] = {
    "euler": (Setting(("steps",), "steps", "whole", 1, MOST), Setting(("step",), "step", "number")),
}
_OF_BACKWARDS: Mapping[BackwardName, tuple[Setting, ...]] = {
    "implicit": (_TOLERANCE,),
    "neumann": (Setting(("k", "terms"), "terms", "whole", 1, MOST),),
    "jfb": (),
    "phantom": (
        Setting(("steps",), "steps", "whole", 1, MOST),
        Setting(("τ", "tau", "damping"), "damping", "number", high=1.0),
    ),
    "unrolled": (),
}
_FOREIGN = {
    "tolerance": "tol",
    "eps": "tol",
    "max_iter": "maxiter",
    "max_steps": "maxiter",
    "steps": "maxiter",
    "memory": "m",
    "beta": "damping",
    "step": "α",
    "failure": "on_failure",
}


def read_solver(context: Context, noted: Noted) -> Request:
    """The demand of one `@solver`. Raises Problem, or Poisoned if the cause was reported."""
    target, form = split(noted, "solver", SOLVERS)
    no_keywords(noted.annotation, (), SETTINGS_HELP)
    name, settings = _named(context, form, noted, "solver", {**_OF_SOLVERS, **_CUTTING}, (*SOLVERS, *METHODS))
    span = noted.annotation.span
    if name == "euler" and "steps" not in dict(settings):
        message = "`euler` takes a number of steps where it cuts a loop"
        raise problem("E0702", message, span, help="write `@solver euler(steps = 5)`")
    demand = SolverDemand(name, settings, line=span.line, span=span)
    wire = None if target is None else state(context, target, noted.environment)
    return Request(demand, noted, wire, None if target is None else target.span)


def read_backward(context: Context, noted: Noted) -> Request:
    """The demand of one `@backward`. Raises Problem, or Poisoned if the cause was reported."""
    target, form = split(noted, "gradient", BACKWARDS)
    no_keywords(noted.annotation, (), "settings stand in brackets: `@backward phantom(steps = 5)`")
    name, settings = _named(context, form, noted, "gradient", _OF_BACKWARDS, (*BACKWARDS, TRUNCATED))
    span = noted.annotation.span
    demand = BackwardDemand(name, settings, line=span.line, span=span)
    wire = None if target is None else state(context, target, noted.environment)
    return Request(demand, noted, wire, None if target is None else target.span)


def _listed(known: tuple[Any, ...]) -> str:
    """Names to choose from, those of integrations apart."""
    listed = ", ".join(f"`{name}`" for name in known if name not in METHODS)
    methods = ", ".join(f"`{name}`" for name in known if name in METHODS)
    return f"{listed};\nfor an `ode` {methods}" if methods else listed


def as_written(demand: SolverDemand | BackwardDemand) -> str:
    """A solver or a gradient as a program writes it: `anderson(m = 5, tol = 0.001)`."""
    table: Mapping[Any, tuple[Setting, ...]] = (
        _OF_SOLVERS if isinstance(demand, SolverDemand) else _OF_BACKWARDS
    )
    names = {setting.stored: setting.names[0] for setting in table[demand.name]}
    given = ", ".join(f"{names[stored]} = {_literal(value)}" for stored, value in demand.settings)
    return f"{demand.name}({given})" if given else demand.name


def _literal(value: float | int | bool | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def _named(
    context: Context,
    form: s.Expression | None,
    noted: Noted,
    what: str,
    table: Mapping[Any, tuple[Setting, ...]],
    known: tuple[Any, ...],
) -> tuple[Any, tuple[tuple[str, Any], ...]]:
    """`anderson` or `anderson(m = 5)`: the name and its settings."""
    if form is None:
        choices = _listed(known)
        raise problem(
            "E0702",
            f"`@{noted.annotation.name.name}` names a {what}",
            noted.annotation.span,
            help=f"there are {choices}",
        )
    function = form.function if isinstance(form, s.Call) else form
    word = function.name if isinstance(function, s.Name) else " ".join(function.span.text.split())[:40]
    if word not in table:
        raise unknown_word(what, word, function.span, known, _listed(known))
    if not isinstance(form, s.Call):
        return word, ()
    return word, typed(context, form, noted.environment, word, table[word])


def typed(
    context: Context, form: s.Call, environment: Environment, name: str, settings: tuple[Setting, ...]
) -> tuple[tuple[str, Any], ...]:
    """The settings in the order of their table, each checked. Raises Problem."""
    found: dict[str, Any] = {}
    is_gradient = settings is not _COMMON and name in (*_OF_BACKWARDS, TRUNCATED)
    own = settings if is_gradient else ()  # those of solvers have names
    if len(form.arguments) > len(own):
        wanted = f"at most {counted(len(own))}" if own else "its settings by name"
        if not settings:
            wanted = "no settings"
        raise problem(
            "E0104",
            f"`{name}` takes {wanted}",
            form.arguments[len(own)].span,
            help=_signature(name, settings),
        )
    for setting, argument in zip(own, form.arguments):
        found[setting.stored] = _value(context, setting, argument, environment, name, setting.names[0])
    for keyword in form.keywords:
        written = keyword.name.name
        setting_ = next((one for one in settings if written in one.names), None)
        if setting_ is None:
            raise _no_such_setting(name, written, keyword.span, settings)
        if setting_.stored in found:
            raise problem("E0104", f"`{written}` is given twice", keyword.span)
        found[setting_.stored] = _value(context, setting_, keyword.value, environment, name, written)
    return tuple((setting.stored, found[setting.stored]) for setting in settings if setting.stored in found)


def _no_such_setting(name: str, written: str, span: Span, settings: tuple[Setting, ...]) -> Exception:
    known = [other for setting in settings for other in setting.names]
    meant = _FOREIGN.get(written, "")
    meant = meant if meant in known else did_you_mean(written, known)
    text = f"did you mean `{meant}`?" if meant else ""
    return problem(
        "E0104", f"`{name}` has no setting `{written}`", span, text, help=_signature(name, settings)
    )


def _signature(name: str, settings: tuple[Setting, ...]) -> str:
    if not settings:
        return f"write `{name}`"
    return f"its settings are {', '.join(f'`{setting.names[0]}`' for setting in settings)}"


def _value(
    context: Context,
    setting: Setting,
    expression: s.Expression,
    environment: Environment,
    name: str,
    written: str,
) -> float | int | bool | str:
    """One setting as its kind demands. Raises Problem."""
    what = f"`{written}` of `{name}`"
    span = expression.span
    if setting.kind in ("flag", "word"):
        return _choice(context, setting, expression, environment, what)
    value = number(context, expression, environment, what)
    if setting.kind == "whole":
        if not value.is_integer():
            raise problem("E0703", f"{what} must be a whole number", span, f"this is {value:g}")
        if not setting.low <= value <= setting.high:
            raise problem("E0703", f"{what} must be {setting.limits}", span, f"this is {value:g}")
        return int(value)
    if not setting.low < value <= setting.high:
        raise problem("E0703", f"{what} must be {setting.limits}", span, f"this is {value:g}")
    return value


def _choice(
    context: Context, setting: Setting, expression: s.Expression, environment: Environment, what: str
) -> bool | str:
    value = context.evaluate(expression, environment)
    if setting.kind == "flag":
        if isinstance(value, bool):
            return value
        raise problem("E0703", f"{what} must be `true` or `false`", expression.span, describe(value))
    if isinstance(value, str) and value in FAILURES:
        return value
    choices = ", ".join(f'"{failure}"' for failure in FAILURES)
    meant = did_you_mean(value, FAILURES) if isinstance(value, str) else ""
    raise problem(
        "E0703",
        f"{what} must be one of {choices}",
        expression.span,
        f'did you mean "{meant}"?' if meant else f"this is {describe(value)}",
    )
