"""From what the source demands to sets of parameters that can be projected onto."""

from __future__ import annotations

from collections.abc import Mapping

from implicit_dsl.certify.gains import Way, Ways, matrix_of
from implicit_dsl.demands import Demand
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.graph import SignalGraph
from implicit_dsl.guarantees import Constraint, Use


def of_matrix(graph: SignalGraph, demand: Demand) -> Constraint | Diagnostic:
    """The constraint that a demand on a layer, a parameter or an expression of them comes to."""
    assert demand.matrix is not None
    uses: list[Use] = []
    fixed = 0.0
    row = demand.text or "matrix"
    for term in demand.matrix:
        if not term.tensors:
            fixed += abs(term.factor)
        elif len(term.tensors) > 1:
            names = " ".join(name + ("'" if turned else "") for name, turned in term.tensors)
            return _refusal(
                graph,
                demand,
                f"`{demand.text}` bounds the product {names}, onto which nothing can be projected",
            )
        else:
            ((tensor, turned),) = term.tensors
            uses.append(Use(row, row, tensor, int(turned), abs(term.factor)))
    return _constraint(demand, uses, {row: fixed} if fixed else {})


def of_loops(graph: SignalGraph, demand: Demand, loops: list[Ways]) -> Constraint | Diagnostic:
    """The constraint on the assembled A: the rows of its loops share their budgets."""
    uses: list[Use] = []
    fixed: dict[str, float] = {}
    for ways in loops:
        for row, listed in ways.items():
            problem = _unshareable(row, listed)
            if problem:
                message = f"`{demand.text}` cannot be projected onto: {problem[0]}"
                return _refusal(graph, demand, message, (Label(problem[1].edge.span, "read here"),))
            for way in listed:
                assert way.factor is not None
                if way.tensors:
                    (tensor,) = way.tensors
                    uses.append(Use(row, way.source, tensor.id, int(tensor.transposed), way.factor))
                else:
                    fixed[row] = fixed.get(row, 0.0) + way.factor
    return _constraint(demand, uses, fixed)


def _unshareable(row: str, ways: tuple[Way, ...]) -> tuple[str, Way] | None:
    """Why the parameters of a row of A have no budget in common, and where."""
    for way in ways:
        if way.factor is None:
            return f"an operator in the equation of `{row}` has no bound of its own", way
        if len(way.tensors) > 1:
            names = " and ".join(f"`{tensor.id}`" for tensor in way.tensors)
            return f"`{row}` reads `{way.source}` through a product of {names}", way
    held = [(way, tensor) for way in ways for tensor in way.tensors]
    channels = {tensor.channel for _, tensor in held}
    if len({tensor.id for _, tensor in held}) > 1 and (len(channels) > 1 or channels == {None}):
        return f"the rows of the parameters of `{row}` do not line up", held[0][0]
    return None


def _constraint(demand: Demand, uses: list[Use], fixed: Mapping[str, float]) -> Constraint:
    return Constraint(
        demand.criterion,
        demand.bound,
        demand.method,
        tuple(uses),
        tuple(fixed.items()),
        demand.line,
        demand.text,
    )


def _refusal(graph: SignalGraph, demand: Demand, message: str, labels: tuple[Label, ...] = ()) -> Diagnostic:
    return Diagnostic(
        "E0404",
        message,
        demand.span or graph.span,
        labels=labels,
        help="bound the matrices one by one: `@wellposed norm(K, Inf) <= …`",
    )


def by_construction(demand: Demand, loops: list[Ways]) -> bool:
    """Whether I − A ⪰ m I holds whatever the parameters are: A = c I − Σ P'P + Σ (S − S'), c ≤ 1 − m."""
    matrix = demand.matrix
    if matrix is None and len(loops) == 1 and len(loops[0]) == 1:
        matrix = matrix_of(loops[0])
    if matrix is None:
        return False
    identity = 0.0
    skew: dict[str, dict[bool, float]] = {}
    for term in matrix:
        match term.tensors:
            case ():
                identity += term.factor
            case ((id, turned),):
                parts = skew.setdefault(id, {False: 0.0, True: 0.0})
                parts[turned] += term.factor
            case ((left, True), (right, False)) | ((left, False), (right, True)) if (
                left == right and term.factor <= 0
            ):
                pass  # −P'P ⪯ 0
            case _:
                return False
    # the symmetric part of a S + b S' is (a + b)/2 (S + S')
    return identity <= 1 - demand.bound and all(parts[False] == -parts[True] for parts in skew.values())
