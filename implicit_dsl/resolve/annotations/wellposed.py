"""`@wellposed`: what is demanded of the matrices of loops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from implicit_dsl import syntax as s
from implicit_dsl.demands import Criterion, Demand, Method
from implicit_dsl.resolve.annotations.forms import is_free, no_keywords, number, split, state, unknown_word
from implicit_dsl.resolve.annotations.matrices import Bounded, bounded
from implicit_dsl.resolve.annotations.request import Request
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.scope import Environment, Noted
from implicit_dsl.resolve.values import describe

_WORDS = ("norm", "opnorm", "spectral", "pf", "monotone", "nemon")
_LISTED = "`norm(X, Inf)`, `norm(X, 2)`, `spectral(X)`, `pf(X)`, `monotone(X; m)`, `nemon(X; m)`, `unchecked`"
_METHODS: tuple[Method, ...] = get_args(Method)
_FLIPPED = {"<=": ">=", ">=": "<=", "<": ">", ">": "<", "==": "==", "!=": "!=", "in": "in"}
_MEANING = {
    "spectral": "bounds singular values",
    "monotone": "bounds the symmetric part",
    "nemon": "bounds a matrix measure",
}


@dataclass(frozen=True, slots=True)
class _Measure:
    """`norm(X, Inf)`: the criterion, the matrix, and the bound if it stands inside the brackets."""

    criterion: Criterion
    matrix: Bounded
    call: s.Call
    inner: s.Keyword | None


def read_wellposed(context: Context, noted: Noted) -> Request:
    """The demand of one `@wellposed`. Raises Problem, or Poisoned if the cause was reported."""
    target, form = split(noted, "bound", ("unchecked",))
    no_keywords(noted.annotation, ("method",), "its keyword is `method`")
    method = _method(context, noted)
    environment = noted.environment
    if target is None and _names_a_state(form, environment):
        target, form = form, None
    wire = None if target is None else state(context, target, environment)
    place = None if target is None else target.span
    demand = _demand(context, noted, form)
    if method is not None:
        if demand.criterion in ("prove", "unchecked"):
            raise problem(
                "E0702",
                "`method` says how a bound is kept, and there is none here",
                noted.annotation.keywords[0].span,
                help="write a bound, such as `norm(A, Inf) <= 0.95`",
            )
        demand = Demand(
            demand.criterion, demand.bound, demand.matrix, (), method, demand.line, demand.text, demand.span
        )
    return Request(demand, noted, wire, place)


def _names_a_state(form: s.Expression | None, environment: Environment) -> bool:
    """Whether `@wellposed(z)` names a state, and no kind of bound."""
    if isinstance(form, s.Name):
        return form.name not in ("unchecked", *_WORDS) and not is_free(form.name, environment)
    return isinstance(form, (s.Index, s.Field))


def _name(form: s.Expression) -> str:
    return form.name if isinstance(form, s.Name) else ""


def _method(context: Context, noted: Noted) -> Method | None:
    for keyword in noted.annotation.keywords:
        value = context.evaluate(keyword.value, noted.environment)
        if not isinstance(value, str):
            raise problem(
                "E0703",
                "`method` is a string",
                keyword.value.span,
                describe(value),
                help='write "project" or "parametrize"',
            )
        for method in _METHODS:
            if value == method:
                return method
        choices = ", ".join(f'"{method}"' for method in _METHODS)
        raise unknown_word("method", value, keyword.value.span, _METHODS, choices)
    return None


def _demand(context: Context, noted: Noted, form: s.Expression | None) -> Demand:
    """The demand without states and method."""
    span = noted.annotation.span
    if form is None:
        return Demand("prove", line=span.line, span=span)
    text = " ".join(form.span.text.split())
    if isinstance(form, s.Name) and form.name == "unchecked":
        return Demand("unchecked", line=span.line, text=text, span=span)
    if isinstance(form, s.Comparison):
        measure, bound = _relation(context, form, noted.environment)
    else:
        measure = _measure(context, form, noted.environment)
        if measure.inner is None:
            raise _no_bound(measure, form)
        bound = _bound(context, measure.criterion, measure.inner.value, noted.environment)
    return Demand(measure.criterion, bound, measure.matrix.matrix, line=span.line, text=text, span=span)


def _no_bound(measure: _Measure, form: s.Expression) -> Problem:
    shown = " ".join(form.span.text.split())
    wanted = f"`{shown} <= 0.95`"
    if measure.criterion in ("monotone", "nemon"):
        inside = measure.call.arguments[0].span.text
        name = _name(measure.call.function)
        wanted = f"`{name}({inside}; m = {'0.1' if name == 'monotone' else '0.95'})`"
    return problem("E0702", f"`{shown}` has no bound", form.span, help=f"write {wanted}")


# --------------------------------------------------------------------------- relations


def _relation(context: Context, form: s.Comparison, environment: Environment) -> tuple[_Measure, float]:
    """`norm(X, Inf) <= κ`, from either side."""
    if len(form.operators) != 1:
        raise problem(
            "E0702", "a bound has one side", form.span, help="write `norm(A, Inf) <= 0.95`, for example"
        )
    (left, right), (operator,) = form.operands, form.operators
    if not _is_measure(left) and (_is_measure(right) or isinstance(right, s.Call)):
        left, right, operator = right, left, _FLIPPED[operator]
    measure = _measure(context, left, environment)
    if measure.inner is not None:
        raise problem(
            "E0702",
            "the bound is given twice",
            right.span,
            help=f"write `{' '.join(left.span.text.split())}` alone",
        )
    wanted = ">=" if measure.criterion == "monotone" else "<="
    if operator != wanted:
        raise _wrong_relation(form, left, right, operator, wanted)
    return measure, _bound(context, measure.criterion, right, environment)


def _wrong_relation(
    form: s.Comparison, left: s.Expression, right: s.Expression, operator: str, wanted: str
) -> Problem:
    help = f"write `{left.span.text} {wanted} {right.span.text}`"
    if operator + "=" == wanted:
        note = f"weights are moved onto the bound where they break it, which `{operator}` would exclude"
        return problem("E0702", f"a bound is written `{wanted}`", form.span, notes=(note,), help=help)
    return problem(
        "E0702", f"this bound is written `{wanted}`", form.span, f"this is `{operator}`", help=help
    )


def _is_measure(expression: s.Expression) -> bool:
    return isinstance(expression, s.Call) and _name(expression.function) in _WORDS


def _bound(
    context: Context, criterion: Criterion, expression: s.Expression, environment: Environment
) -> float:
    bound = number(context, expression, environment, "a bound")
    if bound <= 0 and criterion != "nemon":
        raise problem("E0703", "a bound must be positive", expression.span, f"this is {bound:g}")
    return bound


# --------------------------------------------------------------------------- measures


def _measure(context: Context, form: s.Expression, environment: Environment) -> _Measure:
    """`norm(X, Inf)`, `spectral(X)`, `pf(X)`, `monotone(X; m = …)` or `nemon(X; m = …)`."""
    word = _name(form.function) if isinstance(form, s.Call) else _name(form)
    if word not in _WORDS:
        shown = word or " ".join(form.span.text.split())[:40]
        place = form.function.span if isinstance(form, s.Call) else form.span
        raise unknown_word("kind of bound", shown, place, (*_WORDS, "unchecked"), _LISTED)
    if not isinstance(form, s.Call):
        raise problem("E0702", f"`{word}` of what?", form.span, help=f"there are {_LISTED}")
    inner = _inner_bound(form, word)
    norm = word in ("norm", "opnorm")
    if len(form.arguments) != (2 if norm else 1):
        wanted = "a matrix and Inf or 2" if norm else "one matrix"
        help = f"write `{word}({form.arguments[0].span.text}, Inf)`" if norm and form.arguments else ""
        raise problem("E0104", f"`{word}` takes {wanted}", form.span, help=help)
    criterion: Criterion = _of_norm(context, form, environment) if norm else _CRITERIA[word]
    argument, absolute = _without_abs(form.arguments[0])
    if absolute and criterion == "spectral" and not norm:
        criterion = "pf"
    elif absolute and criterion not in ("norm", "pf"):
        raise problem(
            "E0702",
            f"`{word}` is about the matrix itself, not about its absolute values",
            form.arguments[0].span,
            help=f"leave out `abs`, or write `pf({argument.span.text})` for the Perron root",
        )
    matrix = bounded(context, argument, environment)
    if matrix.is_operator and criterion in _MEANING:
        raise problem(
            "E0404",
            f"`{word}` {_MEANING[criterion]}, which those of the kernels of a convolution do not tell",
            argument.span,
            help=f"write `norm({argument.span.text}, Inf)` or `pf({argument.span.text})`",
        )
    return _Measure(criterion, matrix, form, inner)


_CRITERIA: dict[str, Criterion] = {
    "spectral": "spectral",
    "pf": "pf",
    "monotone": "monotone",
    "nemon": "nemon",
}


def _inner_bound(form: s.Call, word: str) -> s.Keyword | None:
    """`m = 0.1` of monotone and nemon."""
    found: s.Keyword | None = None
    for keyword in form.keywords:
        name = keyword.name.name
        if name == "m" and word in ("monotone", "nemon") and found is None:
            found = keyword
        elif name == "m" and found is not None:
            raise problem("E0104", "`m` is given twice", keyword.span)
        else:
            help = "its keyword is `m`" if word in ("monotone", "nemon") else ""
            if name == "method":
                help = f"write it behind `{word}(…)`, as in `@wellposed norm(A, Inf) <= 0.95, method = …`"
            raise problem("E0104", f"`{word}` has no argument `{name}`", keyword.span, help=help)
    return found


def _of_norm(context: Context, form: s.Call, environment: Environment) -> Criterion:
    """Which norm the second argument asks for."""
    order = form.arguments[1]
    value = context.evaluate(order, environment)
    if value == math.inf and isinstance(value, float):
        return "norm"
    if value == 2 and not isinstance(value, bool):
        return "spectral"
    help = "`norm(X, Inf)` is the largest absolute row sum, `norm(X, 2)` the largest singular value"
    if value == 1 and not isinstance(value, bool):
        help += ";\nthe columns of a `param` X are the rows of X'"
    raise problem("E0702", "the norm of a bound is that of Inf or of 2", order.span, help=help)


def _without_abs(expression: s.Expression) -> tuple[s.Expression, bool]:
    match expression:
        case s.Call(s.Name("abs"), (inner,), ()):
            return inner, True
    return expression, False
