"""From what the source demands to sets of parameters that can be projected onto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from implicit_dsl.certify.gains import Tensor, Way, Ways, misaligned, wholes
from implicit_dsl.certify.reports import not_by_channels
from implicit_dsl.certify.structure import unkept
from implicit_dsl.demands import Criterion, Demand
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.graph import SignalGraph
from implicit_dsl.guarantees import Constraint, Use

OF_ONE_MATRIX = ("spectral", "monotone", "nemon")  # what these bound is no sum over rows


def of_matrix(graph: SignalGraph, demand: Demand) -> tuple[Constraint, ...] | Diagnostic:
    """The constraints that a demand on a layer, a parameter or an expression of them comes to.

    Row sums of a product are kept by its factors: Σⱼ |(L R)ᵢⱼ| ≤ Σₖ |Lᵢₖ| if those of R are at most 1. That
    loses no product, as L D⁻¹ and D R make the same one for each diagonal D > 0.
    """
    assert demand.matrix is not None
    held = next((id for term in demand.matrix for id, _ in term.tensors if id in graph.fixed_norms), None)
    if held is not None:
        return _refusal(
            graph,
            demand,
            f"`{demand.text}` is to be kept by training, and `{held}` is fixed",
            advice="leave it out: what is fixed counts as it is",
        )
    if demand.criterion in OF_ONE_MATRIX and not _is_one(demand):
        return _refusal(
            graph,
            demand,
            f"`{demand.text}` bounds an expression: only one `param` or layer by itself can be kept in it",
            advice="write the bound, and the equation, with one matrix; or bound the loop with "
            "`norm(A, Inf) <= …`",
        )
    uses: list[Use] = []
    inner: list[tuple[str, bool]] = []
    fixed = 0.0
    row = demand.text or "matrix"
    for term in demand.matrix:
        if not term.tensors:
            fixed += abs(term.factor)
            continue
        (tensor, turned), *others = term.tensors
        if others and demand.criterion != "norm":
            names = " ".join(name + ("'" if turned else "") for name, turned in term.tensors)
            return _refusal(
                graph,
                demand,
                f"`{demand.text}` bounds the product {names}, onto which nothing can be projected",
                advice="bound row sums instead, `norm(…, Inf) <= 0.95`, or the factors one by one",
            )
        uses.append(Use(row, row, tensor, int(turned), abs(term.factor)))
        inner += others
    if uses and fixed >= demand.bound:
        message = (
            f"`{demand.text}` cannot hold: without any parameter, the expression has {fixed:g} in each row"
        )
        return _refusal(graph, demand, message, advice="use a larger bound, or a smaller multiple of I")
    whole = _constraint(demand, uses, {row: fixed} if fixed else {})
    return unkept(graph, demand, uses) or _with_factors(graph, demand, whole, inner)


def _with_factors(
    graph: SignalGraph, demand: Demand, whole: Constraint, inner: Sequence[tuple[str, bool]]
) -> tuple[Constraint, ...] | Diagnostic:
    """A bound of row sums, and those of the inner factors of its products: their rows sum to 1 at most."""
    uses = [Use(id + "'" * turned, "", id, int(turned)) for id, turned in dict.fromkeys(inner)]
    made = [
        Constraint("norm", 1.0, demand.method, (use,), (), demand.line, f"norm({use.row}, Inf) <= 1")
        for use in uses
    ]
    names = [id for one in (whole, *made) for id in one.tensors]
    if demand.method == "parametrize" and len(set(names)) < len(names):
        twice = next(id for id in names if names.count(id) > 1)
        return _refusal(
            graph,
            demand,
            f"`{demand.text}` cannot be parametrised: `{twice}` stands in several factors of its products",
            advice='write `method = "project"`',
        )
    return unkept(graph, demand, uses) or (whole, *made)


def counts_wholes(demand: Demand) -> bool:
    """Whether a bound can do with states that count as one channel each, where these do not line up."""
    return demand.criterion == "pf" and demand.matrix is None and demand.method == "project"


def of_loops(graph: SignalGraph, demand: Demand, loops: list[Ways]) -> tuple[Constraint, ...] | Diagnostic:
    """The constraints on the assembled A: the rows of its loops share their budgets.

    Rows without parameters are no part of it: they are what they are, and proved with that.
    """
    uses: list[Use] = []
    inner: list[tuple[str, bool]] = []
    fixed: dict[str, float] = {}
    whole: set[str] = set()
    for ways in loops:
        if not any(way.tensors for listed in ways.values() for way in listed):
            continue
        odd = misaligned(graph, ways) if demand.criterion == "pf" else None
        if odd is not None:
            if not counts_wholes(demand):
                return not_by_channels(graph, None, demand, odd)
            whole |= wholes(graph, ways)
        for row, listed in ways.items():
            problem = _unshareable(row, listed, demand.criterion == "norm", demand.method == "project")
            if problem:
                message = f"`{demand.text}` cannot be projected onto: {problem[0]}"
                return _refusal(graph, demand, message, (Label(problem[1].edge.span, "read here"),))
            parts = list(dict.fromkeys(_rows_of(way.tensors[-1]) for way in listed if way.tensors))
            for way in listed:
                assert way.factor is not None
                if way.tensors:
                    *before, tensor = way.tensors
                    inner += [(one.id, one.transposed) for one in before]
                    part = 0 if demand.criterion == "pf" else parts.index(_rows_of(tensor))
                    uses.append(Use(row, way.source, tensor.id, int(tensor.transposed), way.factor, part))
                else:
                    fixed[row] = fixed.get(row, 0.0) + way.factor
            used = fixed.get(row, 0.0)
            if used >= demand.bound and (demand.criterion == "pf" or any(way.tensors for way in listed)):
                message = (
                    f"`{demand.text}` cannot hold: without any parameter, `{row}` has a gain of {used:g}"
                )
                first = next(way for way in listed if not way.tensors)
                return _refusal(graph, demand, message, (Label(first.edge.span, "read here"),))
    named = tuple(sorted(whole & {name for use in uses for name in (use.row, use.column)}))
    made = replace(_constraint(demand, uses, fixed), whole=named)
    return unkept(graph, demand, uses) or _with_factors(graph, demand, made, inner)


def _rows_of(tensor: Tensor) -> object:
    """What the rows of a parameter are: those of one axis of the state, or its own."""
    return (tensor.id, tensor.transposed) if tensor.rows is None else tensor.rows


def _unshareable(row: str, ways: tuple[Way, ...], products: bool, splits: bool) -> tuple[str, Way] | None:
    """Why the parameters of a row of A have no budget in common, and where.

    With `splits`, those that count different rows have parts of it each.
    """
    for way in ways:
        if way.factor is None:
            return f"an operator in the equation of `{row}` has no bound of its own", way
        if len(way.tensors) > 1 and not products:
            names = " and ".join(f"`{tensor.id}`" for tensor in way.tensors)
            return f"`{row}` reads `{way.source}` through a product of {names}", way
    held = [(way, way.tensors[-1]) for way in ways if way.tensors]
    rows = {tensor.rows for _, tensor in held}
    several = len({(tensor.id, tensor.transposed) for _, tensor in held}) > 1
    if not splits and several and (len(rows) > 1 or rows == {None}):
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


def _refusal(
    graph: SignalGraph,
    demand: Demand,
    message: str,
    labels: tuple[Label, ...] = (),
    advice: str = "bound the matrices one by one: `@wellposed norm(K, Inf) <= …`",
) -> Diagnostic:
    return Diagnostic("E0404", message, demand.span or graph.span, labels=labels, help=advice)


def sole(found: Ways, criterion: Criterion) -> bool:
    """Whether A is one parameter as it stands, of one state: what a criterion of one matrix projects.

    −W will do where a sign makes no difference.
    """
    listed = [way for ways in found.values() for way in ways]
    if len(listed) != 1 or len(found) != 1 or len(listed[0].tensors) != 1:
        return False
    return listed[0].sign == 1.0 or (criterion == "spectral" and listed[0].sign == -1.0)


def _is_one(demand: Demand) -> bool:
    assert demand.matrix is not None
    (first, *others) = demand.matrix or (None,)
    if first is None or others or len(first.tensors) != 1:
        return False
    return first.factor == 1.0 or (demand.criterion == "spectral" and first.factor == -1.0)
