"""What a call gives, matched with what is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from implicit_dsl.errors import Label
from implicit_dsl.operators.base import Formal, Rule, Settings
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, did_you_mean, instead, problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import PairValue, TemplateValue, describe
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.sets import SetRule
from implicit_dsl.source import Span
from implicit_dsl.syntax import Name


@dataclass(slots=True)
class Arguments:
    """Evaluated arguments of a call, each with where it was written."""

    values: list[Any]
    spans: list[Span]
    keywords: dict[str, tuple[Any, Span]]

    def no_keywords(self, name: str) -> None:
        for keyword, (_, span) in self.keywords.items():
            raise problem("E0104", f"`{name}` has no argument `{keyword}`", span)


def counted(count: int) -> str:
    return "1 argument" if count == 1 else f"{count} arguments"


def arity(name: str, arguments: Arguments, least: int, most: int | None, span: Span, help: str = "") -> None:
    """Check how many positional arguments there are. Raises Problem."""
    given = len(arguments.values)
    if given < least or (most is not None and given > most):
        wanted = counted(least)
        if least != most:
            wanted = f"at least {wanted}" if most is None else f"{least} to {counted(most)}"
        place = arguments.spans[most] if most is not None and given > most else span
        raise problem(
            "E0104",
            f"`{name}` takes {wanted}, and {given} {'is' if given == 1 else 'are'} given",
            place,
            help=help,
        )


# --------------------------------------------------------------------------- operators


def settings_of(
    rule: Rule | SetRule, name: str, arguments: Arguments, span: Span
) -> tuple[Settings, dict[str, Span]]:
    """The settings of an operator, checked, and where each was written. Raises Problem."""
    formals = {formal.name: formal for formal in rule.formals}
    given: dict[str, tuple[Any, Span]] = {}
    if len(arguments.values) > len(rule.formals):
        raise problem(
            "E0104",
            f"`{name}` takes at most {counted(len(rule.formals))}",
            arguments.spans[len(rule.formals)],
            help=f"its arguments are {signature(rule, name)}",
        )
    for formal, value, place in zip(rule.formals, arguments.values, arguments.spans):
        given[formal.name] = (value, place)
    for keyword, (value, place) in arguments.keywords.items():
        if keyword not in formals:
            raise _no_such_argument(rule, name, keyword, place)
        if keyword in given:
            raise problem("E0104", f"`{keyword}` is given twice", place)
        given[keyword] = (value, place)
    settings: Settings = {}
    for formal in rule.formals:
        if formal.kind == "value" and formal.name not in given:
            continue
        if formal.name in given:
            settings[formal.name] = _setting(formal, name, *given[formal.name])
        elif formal.required:
            raise problem(
                "E0104",
                f"`{name}` needs its argument `{formal.name}`",
                span,
                help=f"{signature(rule, name)}: {formal.doc}",
            )
        else:
            settings[formal.name] = formal.default
    return settings, {key: place for key, (_, place) in given.items()}


def _no_such_argument(rule: Rule | SetRule, name: str, keyword: str, place: Span) -> Problem:
    foreign = {
        "padding": "pad",
        "padding_mode": "mode",
        "kernel_size": "kernel",
        "out_channels": "width",
        "negative_slope": "slope",
    }
    known = [formal.name for formal in rule.formals]
    meant = foreign.get(keyword, "") or did_you_mean(keyword, known)
    text = f"did you mean `{meant}`?" if meant in known else ""
    return problem(
        "E0104",
        f"`{name}` has no argument `{keyword}`",
        place,
        text,
        help=f"its arguments are {signature(rule, name)}",
        fixes=instead(_word(place, keyword), meant if meant in known else ""),
    )


def _word(place: Span, keyword: str) -> Span:
    """Where the name of a keyword argument stands: at its start."""
    return place.source.span(place.start, place.start + len(keyword))


def signature(rule: Rule | SetRule, name: str) -> str:
    """`Conv(width, kernel; stride = 1, …)`."""
    required = [formal.name for formal in rule.formals if formal.required]
    optional = [f"{f.name} = {f.default_text}" for f in rule.formals if not f.required]
    inside = ", ".join(required) + ("; " if required and optional else "") + ", ".join(optional)
    return f"{name}({inside})"


def _setting(formal: Formal, name: str, value: Any, span: Span) -> Any:
    """One argument as its kind demands."""
    if formal.choices and isinstance(value, str):
        return _chosen(value, name, formal, span)
    match formal.kind:
        case "width":
            left, right = (value.left, value.right) if isinstance(value, PairValue) else (None, value)
            expected = None if left is None else _whole(left, name, formal, span, 1)
            return expected, _whole(right, name, formal, span, 1)
        case "size":
            return _each(value, name, formal, span, 1)
        case "pad":
            return _each(value, name, formal, span, 0)
        case "integer" | "axis":
            return _whole(value, name, formal, span, 1)
        case "value":
            raise problem(
                "E0104", f"`{formal.name}` is given where `{name}` is applied to its other arguments", span
            )
        case "index":
            return _whole(value, name, formal, span, -MOST)
        case "list":
            return value  # its rule says what may stand in it
        case "number" if (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        ):
            return float(value)
        case "flag" if isinstance(value, bool):
            return value
    wanted = {"number": "a number", "flag": "`true` or `false`", "choice": _listed(formal)}[formal.kind]
    raise problem("E0205", f"`{formal.name}` of `{name}` must be {wanted}", span, describe(value))


def _chosen(value: str, name: str, formal: Formal, span: Span) -> str:
    """One of the strings that an argument may be."""
    if value in formal.choices:
        return value
    meant = did_you_mean(value, list(formal.choices))
    number = {"pad": "a number or ", "size": "a number or "}.get(formal.kind, "")
    raise problem(
        "E0205",
        f"`{formal.name}` of `{name}` must be {number}{_listed(formal)}",
        span,
        f'did you mean `"{meant}"`?' if meant else "",
    )


def _listed(formal: Formal) -> str:
    listed = ", ".join(f'`"{choice}"`' for choice in formal.choices)
    return listed if len(formal.choices) == 1 else f"one of {listed}"


def _each(value: Any, name: str, formal: Formal, span: Span, least: int) -> int | tuple[int, ...]:
    if isinstance(value, tuple) and value:
        return tuple(_whole(item, name, formal, span, least) for item in value)
    return _whole(value, name, formal, span, least)


MOST = 2**31 - 1  # of a size: PyTorch's own limit in many kernels


def _whole(value: Any, name: str, formal: Formal, span: Span, least: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise problem("E0205", f"`{formal.name}` of `{name}` must be a whole number", span, describe(value))
    if not least <= value <= MOST:
        raise problem(
            "E0205",
            f"`{formal.name}` of `{name}` must be between {least} and {MOST}",
            span,
            f"this is {value}",
        )
    return value


# --------------------------------------------------------------------------- models and blocks


def bind_template(context: Context, value: TemplateValue, arguments: Arguments, span: Span) -> dict[str, Any]:
    """The arguments of a model or block by name, defaults included. Raises Problem."""
    template = value.template
    name = template.name.name
    formals = {formal.name.name: formal for formal in template.formals}
    positional = [formal.name.name for formal in template.formals if not formal.keyword_only]
    for given, place in zip(arguments.values, arguments.spans):
        if isinstance(given, Wire):
            raise problem(
                "E0104",
                f"`{name}` takes its parameters first, and then the value that it is applied to",
                place,
                describe(given),
                help=f"write `{name}(…)({place.text})`, or `{place.text} |> {name}(…)`",
            )
    if len(arguments.values) > len(positional):
        extra = arguments.spans[len(positional)]
        hint = "the others are written `name = value`" if len(formals) > len(positional) else ""
        raise problem(
            "E0104",
            f"`{name}` takes {counted(len(positional))} without a name, and more are given",
            extra,
            help=hint,
        )
    found: dict[str, Any] = dict(zip(positional, arguments.values))
    for keyword, (given, place) in arguments.keywords.items():
        if keyword not in formals:
            meant = did_you_mean(keyword, list(formals))
            have = ", ".join(f"`{other}`" for other in formals) or "none"
            text = f"did you mean `{meant}`?" if meant else ""
            raise problem(
                "E0104",
                f"`{name}` has no parameter `{keyword}`",
                place,
                text,
                help=f"its parameters: {have}",
                fixes=instead(_word(place, keyword), meant),
            )
        if keyword in found:
            raise problem("E0104", f"`{keyword}` is given twice", place)
        found[keyword] = given
    return _with_defaults(context, value, found, span)


def _with_defaults(
    context: Context, value: TemplateValue, found: dict[str, Any], span: Span
) -> dict[str, Any]:
    """Defaults may use the parameters before them."""
    environment = Environment(None, value.module, bindings={})
    for formal in value.template.formals:
        name = formal.name.name
        if name not in found:
            if formal.default is None:
                raise _missing(value, formal.name, span)
            found[name] = context.evaluate(formal.default, environment)
        _check_kind(formal.kind.name if formal.kind else "", found[name], name, span)
        environment.bindings[name] = found[name]
    return dict(environment.bindings)


def _missing(value: TemplateValue, formal: Name, span: Span) -> Problem:
    template, name = value.template, formal.name
    if span == template.header:
        help = f"give it on the command line, `-P {name}=10`, or a default here, `{name} = 10`"
        labels: tuple[Label, ...] = ()
    else:
        help, labels = f"write `{name} = …`", (Label(formal.span, "declared here, without a default"),)
    message = f"`{template.name.name}` needs its parameter `{name}`"
    return problem(
        "E0104", message, formal.span if span == template.header else span, labels=labels, help=help
    )


_KINDS: dict[str, tuple[type, ...]] = {
    "Int": (int,),
    "Float": (int, float),
    "Bool": (bool,),
    "String": (str,),
    "List": (tuple, range),
}


def _check_kind(kind: str, value: Any, name: str, span: Span) -> None:
    if not kind:
        return
    if kind not in _KINDS:
        raise problem(
            "E0101", f"unknown kind `{kind}` of `{name}`", span, help=f"there are {', '.join(_KINDS)}"
        )
    right = isinstance(value, _KINDS[kind]) and (kind == "Bool" or not isinstance(value, bool))
    if not right:
        raise problem("E0205", f"`{name}` must be of kind {kind}", span, describe(value))
