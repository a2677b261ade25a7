"""`@name …`: what may be said of a model beside its equations.

Annotations about loops are noted while the body is collected (`annotate`), read when all values
are known (`read`), and become demands when the graph says which states they are about (`demands`).
"""

from __future__ import annotations

from collections.abc import Callable

from implicit_dsl import syntax as s
from implicit_dsl.resolve.annotations.assignment import demands
from implicit_dsl.resolve.annotations.integration import integrates
from implicit_dsl.resolve.annotations.lipschitz import check_form, claim, claims_of_files
from implicit_dsl.resolve.annotations.request import Request
from implicit_dsl.resolve.annotations.settings import read_backward, read_solver
from implicit_dsl.resolve.annotations.sparsity import assembled, read_penalty, read_sparse
from implicit_dsl.resolve.annotations.truncation import truncates
from implicit_dsl.resolve.annotations.wellposed import read_wellposed
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Poisoned, Problem, did_you_mean, instead, later, problem
from implicit_dsl.resolve.scope import Body, Environment, Module, Noted

__all__ = ["annotate", "assembled", "at_the_top", "check_top", "demands", "read"]

_READERS: dict[str, Callable[[Context, Noted], Request]] = {
    "wellposed": read_wellposed,
    "solver": read_solver,
    "backward": read_backward,
}
_OF_WEIGHTS = ("sparse", "penalty")
_LATER = ("language",)
NAMES = frozenset((*_READERS, *_OF_WEIGHTS, *_LATER, "allow", "lipschitz"))
_ALLOWED = ("unused_input", "unused_state", "unused_parameter", "unused_annotation", "padding")


def annotate(context: Context, body: Body, annotation: s.Annotation, environment: Environment) -> None:
    """Note an annotation. Raises Problem if it is unknown.

    One that means nothing yet is not ignored, but reported when the graph is known: it does
    not keep other findings back.
    """
    name = annotation.name.name
    if name in _READERS or name in _OF_WEIGHTS or name == "lipschitz":
        context.noted.append(Noted(annotation, body, environment))
        return
    if name in _LATER:
        context.announced.append(later(f"`@{name}`", annotation.span).diagnostic)
        return
    if name != "allow":
        raise _unknown(annotation)
    for keyword in annotation.keywords:
        raise problem("E0701", "`@allow` names warnings", keyword.span, help="write `@allow unused_input`")
    for argument in annotation.arguments:
        if not isinstance(argument, s.Name) or argument.name not in _ALLOWED:
            choices = ", ".join(f"`{choice}`" for choice in _ALLOWED)
            meant = did_you_mean(argument.name, _ALLOWED) if isinstance(argument, s.Name) else ""
            raise problem(
                "E0701",
                "`@allow` names warnings",
                argument.span,
                f"did you mean `{meant}`?" if meant else "",
                help=f"there are {choices}",
                fixes=instead(argument.span, meant),
            )
        body.allowed.add(argument.name)


def _unknown(annotation: s.Annotation) -> Problem:
    name, span = annotation.name.name, annotation.name.span
    meant = did_you_mean(name, sorted(NAMES))
    help = f"did you mean `@{meant}`?" if meant else ""
    return problem("E0701", f"unknown annotation `@{name}`", span, help=help, fixes=instead(span, meant))


def at_the_top(module: Module, annotation: s.Annotation) -> None:
    """Note an annotation of a file. Raises Problem for all but `@lipschitz`, which is about a function."""
    name = annotation.name.name
    if name == "lipschitz":
        module.claims.append(annotation)
        return
    if name in _LATER:
        raise later(f"`@{name}`", annotation.span)
    if name not in NAMES:
        raise _unknown(annotation)
    message = f"`@{name}` is about a model or block, and stands inside of it"
    raise problem("E0309", message, annotation.span)


def check_top(context: Context, module: Module) -> None:
    """Report what is wrong in the form of annotations at the top of a file, even if nothing uses them."""
    for annotation in module.claims:
        try:
            check_form(context, annotation, module)
        except Problem as found:
            context.report(found.diagnostic)
        except Poisoned:
            continue  # the cause was reported


def read(context: Context) -> list[Request]:
    """What the annotations of a model and of its blocks ask for; what is wrong is reported."""
    requests: list[Request] = []
    claims_of_files(context)
    for noted in context.noted:
        outer, context.frames = context.frames, noted.body.frames
        name = noted.annotation.name.name
        try:
            if name == "sparse":
                context.measured += read_sparse(context, noted)
            elif name == "penalty":
                context.measured += read_penalty(context, noted)
            elif name == "lipschitz":
                claim(context, noted)
            elif not integrates(context, noted) and not truncates(context, noted):
                requests.append(_READERS[name](context, noted))
        except Problem as found:
            context.report(found.diagnostic)
        except Poisoned:
            pass  # the cause was reported
        finally:
            context.frames = outer
    return requests
