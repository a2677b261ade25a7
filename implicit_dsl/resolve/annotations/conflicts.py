"""Annotations that cannot hold together, for the same loop or the same parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

from implicit_dsl.demands import BackwardDemand, Demand, SolverDemand
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.resolve.annotations.request import Assigned
from implicit_dsl.resolve.context import Context

# A projection onto one of these takes no weight away from zero, so that it cannot break the other.
_COMPATIBLE = {"norm", "pf"}
_OF_PICARD = ("auto", "picard")  # the solvers whose steps can be differentiated one by one


def check_conflicts(context: Context, found: list[Assigned]) -> None:
    """Report pairs of annotations of which only one can hold; each annotation is blamed once."""
    blamed: set[int] = set()
    for first, second in combinations(found, 2):
        context.step(second.request.span)
        if id(second) in blamed:
            continue
        reason = _reason(first, second)
        if reason:
            blamed.add(id(second))
            _report(context, first, second, *reason)
    if not blamed:
        _check_unrolled(context, found)


def _reason(first: Assigned, second: Assigned) -> tuple[str, str] | None:
    """Why two annotations cannot hold together, and what to do."""
    one, other = first.demand, second.demand
    if type(one) is not type(other):
        return None
    together = first.rank == second.rank and bool(first.loops & second.loops) and not _agree(first, second)
    if isinstance(one, Demand) and isinstance(other, Demand):
        if together:
            reason = _of_one_loop(one, other)
            if reason is not None:
                return reason
        return _of_one_parameter(first, one, second, other)
    if not together:
        return None
    what = "solver" if isinstance(one, SolverDemand) else "gradient"
    help = "remove one" if one.states else "remove one, or write `@…(z, …)` with a state of each loop"
    return f"a loop has one {what}, and here are two", help


def _agree(first: Assigned, second: Assigned) -> bool:
    """Whether two places say the same: the bodies of two blocks, not two lines of one."""
    if first.request.noted.body is second.request.noted.body:
        return False
    return replace(first.demand, states=(), line=0) == replace(second.demand, states=(), line=0)


def _of_one_loop(one: Demand, other: Demand) -> tuple[str, str] | None:
    unchecked = one.criterion != other.criterion and "unchecked" in (one.criterion, other.criterion)
    bounds = [demand for demand in (one, other) if demand.criterion != "unchecked"]
    if unchecked and all(demand.matrix is not None for demand in bounds):
        return None  # nothing is proved of the loop, and yet a matrix that is named is kept within bounds
    for criterion, meaning in (("unchecked", "asks for no certificate"), ("prove", "asks for no constraint")):
        if criterion in (one.criterion, other.criterion):
            if one.criterion == other.criterion:
                return "this is said twice", "remove one"
            shown = "`@wellposed unchecked`" if criterion == "unchecked" else "`@wellposed` alone"
            help = "remove one, or write `@wellposed(z, …)` with a state of each loop"
            if criterion == "unchecked":
                help += ",\nor keep a matrix within its bound by its name: `@wellposed norm(W, Inf) <= 0.95`"
            return f"{shown} {meaning}, and the other line does, for the same loop", help
    if one.criterion == other.criterion and one.matrix == other.matrix:
        return "the same matrix is bounded twice", "keep the smaller bound"
    return None


def _of_one_parameter(
    first: Assigned, one: Demand, second: Assigned, other: Demand
) -> tuple[str, str] | None:
    """Two sets that the same parameters must stay in, if they cannot be kept in both."""
    if _is_product(one) or _is_product(other):
        return None
    shared = sorted(first.ids & second.ids)
    if not shared:
        return None
    if {one.criterion, other.criterion} > _COMPATIBLE or not (
        one.criterion == other.criterion or {one.criterion, other.criterion} <= _COMPATIBLE
    ):
        return f"`{shared[0]}` cannot be kept within two bounds of different kinds", "remove one"
    if one.matrix == other.matrix and one.criterion == other.criterion and one.states != other.states:
        return None if one.method == other.method == "project" else _methods(shared[0])
    if one.criterion not in _COMPATIBLE and one.matrix != other.matrix:
        return f"`{shared[0]}` cannot be kept within two bounds at once", "remove one"
    return None if one.method == other.method == "project" else _methods(shared[0])


def _methods(id: str) -> tuple[str, str]:
    message = f"`{id}` stands in two bounds, and only projections can keep both"
    return message, 'write `method = "project"` in both, or remove one'


def _is_product(demand: Demand) -> bool:
    """Whether nothing is projected: a product is what it is by construction, or refused, but for its rows."""
    return demand.criterion != "norm" and any(len(term.tensors) > 1 for term in demand.matrix or ())


def _check_unrolled(context: Context, found: list[Assigned]) -> None:
    """`@backward unrolled` follows the steps of picard, and no other solver has such steps."""
    for loop in sorted({loop for one in found for loop in one.loops}):
        solver = _applying(one for one in found if loop in one.loops and isinstance(one.demand, SolverDemand))
        backward = _applying(
            one for one in found if loop in one.loops and isinstance(one.demand, BackwardDemand)
        )
        if solver is None or backward is None or backward.demand.name != "unrolled":  # type: ignore[union-attr]
            continue
        name = solver.demand.name  # type: ignore[union-attr]
        if name not in _OF_PICARD:
            message = f"`unrolled` differentiates the steps of picard, and `{name}` has none of these"
            _report(context, solver, backward, message, "choose picard, or another gradient")


def _applying(found: Iterable[Assigned]) -> Assigned | None:
    return min(found, key=lambda one: one.rank, default=None)


def _report(context: Context, first: Assigned, second: Assigned, message: str, help: str) -> None:
    outer, context.frames = context.frames, second.request.noted.body.frames
    same = first.request.span == second.request.span
    labels = () if same else (Label(first.request.span, "the other one"),)
    text = "in several instances" if same else ""
    context.report(Diagnostic("E0705", message, second.request.span, text, labels=labels, help=help))
    context.frames = outer
