"""The parts that annotations share: numbers, words, and a state as the first argument."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from implicit_dsl import syntax as s
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.lookup import find
from implicit_dsl.resolve.problem import Poisoned, Problem, did_you_mean, instead, problem
from implicit_dsl.resolve.scope import Environment, Noted
from implicit_dsl.resolve.values import Flow, describe
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.source import Span

_SETTING_BEHIND = re.compile(
    r"[ \t]*(;)[ \t]*"
    r"(?:method|m|tol|maxiter|damping|alpha|α|tau|τ|steps|terms|per_sample|warm_start|on_failure)"
    r"[ \t]*=(?!=)"
)


def number(context: Context, expression: s.Expression, environment: Environment, what: str) -> float:
    """A finite number known at compile time. Raises Problem."""
    value = context.evaluate(expression, environment)
    if not is_number(value):
        raise problem(
            "E0703", f"{what} must be a number known at compile time", expression.span, describe(value)
        )
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise problem("E0703", f"{what} must be finite", expression.span, "not a finite number")
    return found


def unknown_word(what: str, word: str, span: Span, known: Collection[str], listed: str = "") -> Problem:
    """A name that is none of those that may stand here."""
    meant = did_you_mean(word, known)
    choices = listed or ", ".join(f"`{name}`" for name in known)
    text = f"did you mean `{meant}`?" if meant else ""
    fixes = instead(span, f'"{meant}"' if meant and span.text.startswith('"') else meant)
    return problem(
        "E0702", f"there is no {what} `{word}`", span, text, help=f"there are {choices}", fixes=fixes
    )


def state(context: Context, expression: s.Expression, environment: Environment) -> Wire:
    """The state that an annotation names, as far as it is known before the graph. Raises Problem."""
    value = context.evaluate(expression, environment)
    if isinstance(value, Flow):
        return value.limit
    if isinstance(value, Wire) and value.kind != "input":
        return value
    what = "an input" if isinstance(value, Wire) else describe(value)
    raise not_a_state(expression.span, f"this is {what}")


def not_a_state(span: Span, text: str) -> Problem:
    return problem(
        "E0704",
        f"`{' '.join(span.text.split())}` is not a state",
        span,
        text,
        notes=("what is said of a state is said of the loop that it is in",),
        help="name a state of the loop, or none for all loops",
    )


def split(noted: Noted, what: str, words: Collection[str]) -> tuple[s.Expression | None, s.Expression | None]:
    """The state, if one is named, and the rest: the arguments of an annotation. Raises Problem.

    `words` name a `what`, and no state unless the program says so.
    """
    arguments = noted.annotation.arguments
    if len(arguments) == 1 and isinstance(arguments[0], s.Sequence) and arguments[0].is_tuple:
        name = noted.annotation.name.name
        raise problem(
            "E0702",
            f"`@{name}` is written without a space before its bracket",
            arguments[0].span,
            help=f"write `@{name}({arguments[0].span.text[1:-1]})`",
        )
    _no_semicolon(noted)
    match arguments:
        case ():
            return None, None
        case (only,):
            return None, only
        case (s.Name(word), _) if word in words and is_free(word, noted.environment):
            pass
        case (first, second) if not isinstance(first, (s.Comparison, s.Call)):
            return first, second
    raise problem(
        "E0702",
        f"`@{noted.annotation.name.name}` takes one {what}, and before it a state if it is about one loop",
        arguments[1].span,
        "one too many",
        help=f"give each {what} a line of its own",
    )


def _no_semicolon(noted: Noted) -> None:
    """Without brackets `;` ends the annotation, and what is meant as its setting would be a definition."""
    span = noted.annotation.span
    behind = None if _bracketed(noted) else _SETTING_BEHIND.match(span.source.text, span.end)
    if behind is not None:
        raise problem(
            "E0702",
            f"`;` ends the annotation `@{noted.annotation.name.name}`",
            Span(span.source, behind.start(1), behind.end()),
            "a statement of its own",
            help="write `,` in place of `;`"
            if noted.annotation.name.name == "wellposed"
            else "settings stand in brackets behind a name, as in `auto(tol = 1e-3)`",
        )


def _bracketed(noted: Noted) -> bool:
    name = noted.annotation.name.span
    return name.source.text[name.end : name.end + 1] == "("


def no_keywords(annotation: s.Annotation, allowed: Collection[str] = (), help: str = "") -> None:
    """Raises Problem for a keyword of the annotation that it does not have, or has twice."""
    seen: set[str] = set()
    for keyword in annotation.keywords:
        name = keyword.name.name
        if name in seen:
            raise problem("E0104", f"`{name}` is given twice", keyword.span)
        seen.add(name)
        if name not in allowed:
            meant = did_you_mean(name, allowed)
            raise problem(
                "E0104",
                f"`@{annotation.name.name}` has no argument `{name}`",
                keyword.span,
                f"did you mean `{meant}`?" if meant else "",
                help=help,
                fixes=instead(keyword.name.span, meant),
            )


def is_free(name: str, environment: Environment) -> bool:
    """Whether the program gives a name no meaning of its own. Raises Poisoned where it failed to."""
    body = environment.body
    if body is not None and name in body.broken:
        raise Poisoned
    declared = body is not None and (name in body.families or (name,) in body.shapes)
    return not declared and find(name, environment) is None
