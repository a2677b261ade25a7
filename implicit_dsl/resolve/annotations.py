"""`@name …`: what may be said of a model beside its equations."""

from __future__ import annotations

from implicit_dsl import syntax as s
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import did_you_mean, later, problem
from implicit_dsl.resolve.scope import Body

_LATER = ("wellposed", "solver", "backward", "sparse", "penalty", "lipschitz", "language")
_ALLOWED = ("unused_input", "unused_state", "unused_parameter")


def annotate(context: Context, body: Body, annotation: s.Annotation) -> None:
    """Note an annotation. Raises Problem if it is unknown.

    One that means nothing yet is not ignored, but reported when the graph is known: it does
    not keep other findings back.
    """
    name = annotation.name.name
    if name in _LATER:
        context.announced.append(later(f"`@{name}`", annotation.span).diagnostic)
        return
    if name != "allow":
        meant = did_you_mean(name, [*_LATER, "allow"])
        help = f"did you mean `@{meant}`?" if meant else ""
        raise problem("E0701", f"unknown annotation `@{name}`", annotation.name.span, help=help)
    for keyword in annotation.keywords:
        raise problem("E0701", "`@allow` names warnings", keyword.span, help="write `@allow unused_input`")
    for argument in annotation.arguments:
        if not isinstance(argument, s.Name) or argument.name not in _ALLOWED:
            choices = ", ".join(f"`{choice}`" for choice in _ALLOWED)
            raise problem("E0701", "`@allow` names warnings", argument.span, help=f"there are {choices}")
        body.allowed.add(argument.name)
