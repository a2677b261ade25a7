"""What the sets that parameters are in prove of a loop, and which bounds can be kept within them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from implicit_dsl.certify.gains import Way, Ways, matrix_of
from implicit_dsl.demands import Demand, Matrix
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.graph import SignalGraph
from implicit_dsl.guarantees import Use
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.sets import MatrixSet

Held: TypeAlias = Mapping[str, MatrixSet]

_OTHER = {"upper": "lower", "lower": "upper", "both": "both"}


def held_in(graph: SignalGraph) -> dict[str, MatrixSet]:
    """The sets that parameters are in, by id."""
    return {made.id: made.within for made in graph.parameters if made.within is not None}


# --------------------------------------------------------------------------- what is proved


def by_construction(graph: SignalGraph, demand: Demand, loops: list[Ways]) -> bool:
    """Whether what is demanded of one matrix holds whatever the parameters are."""
    matrix = demand.matrix
    if matrix is None and len(loops) == 1 and len(loops[0]) == 1:
        matrix = matrix_of(loops[0])
    if matrix is None:
        return False
    if demand.criterion == "monotone":
        found = largest_symmetric(matrix, held_in(graph))
        return found is not None and found <= 1 - demand.bound
    if demand.criterion == "spectral":
        norm = largest_norm(matrix, held_in(graph))
        return norm is not None and norm <= demand.bound
    return False


def largest_symmetric(matrix: Matrix, held: Held) -> float | None:
    """c in (A + A')/2 ⪯ c I, whatever the parameters are: A = c I − Σ P'P + Σ (S − S') + skew matrices, and
    orthogonal ones, whose symmetric part is at most I."""
    total = 0.0
    skew: dict[str, dict[bool, float]] = {}
    for term in matrix:
        match term.tensors:
            case ():
                total += term.factor
            case ((id, turned),):
                made = held.get(id)
                if made is not None and made.kind == "Orthogonal":
                    total += abs(term.factor)
                elif made is None or made.symmetry != -1:
                    parts = skew.setdefault(id, {False: 0.0, True: 0.0})
                    parts[turned] += term.factor
            case ((left, first), (right, then)) if left == right:
                # −P'P ⪯ 0 and −PP' ⪯ 0; a symmetric P is its transpose, a skew one that of −P
                symmetry = held[left].symmetry if left in held else 0
                sign = 1.0 if first != then else float(symmetry)
                if sign == 0 or sign * term.factor > 0:
                    return None
            case _:
                return None
    # the symmetric part of a S + b S' is (a + b)/2 (S + S')
    return total if all(parts[False] == -parts[True] for parts in skew.values()) else None


def largest_norm(matrix: Matrix, held: Held) -> float | None:
    """c in ‖A‖₂ ≤ c, whatever the parameters are: for sums of products of orthogonal matrices."""
    for term in matrix:
        if any(id not in held or held[id].kind != "Orthogonal" for id, _ in term.tensors):
            return None
    return sum(abs(term.factor) for term in matrix)


def is_triangular(graph: SignalGraph, found: Ways) -> bool:
    """Whether the matrix of a loop with one state is strictly triangular, and φ acts entry by entry.

    Then the first entry depends on no other, the next one on that alone, and so on: there is one solution,
    whatever the numbers are, and as many sweeps as there are entries find it exactly.
    """
    if len(found) != 1:
        return False
    ((name, listed),) = found.items()
    if not _by_entries(graph.by_name[name].activation):
        return False
    held = held_in(graph)
    sides = {_side(way, held) for way in listed}
    return sides in ({"upper"}, {"lower"})


def _by_entries(activation: Operator | None) -> bool:
    return activation is None or activation_rule(activation).elementwise


def _side(way: Way, held: Held) -> str:
    """The side of the diagonal on which the matrix of a way is, if it is strictly triangular, else ''."""
    if way.sign is None or not way.tensors:
        return ""
    sides, strict = set(), False
    for tensor in way.tensors:
        triangle = held[tensor.id].triangle if tensor.id in held else None
        if triangle is None:
            return ""
        side, without_diagonal, _ = triangle
        sides.add(_OTHER[side] if tensor.transposed else side)
        strict = strict or without_diagonal
    sides.discard("both")
    return sides.pop() if strict and len(sides) == 1 else ""


# --------------------------------------------------------------------------- what can be kept


def unkept(graph: SignalGraph, demand: Demand, uses: list[Use]) -> Diagnostic | None:
    """Why a bound cannot be kept on parameters that are in sets (E0404)."""
    held = held_in(graph)
    for id in dict.fromkeys(use.tensor for use in uses):
        if id not in held:
            continue
        found = _unkept(demand, id, held[id])
        if found is not None:
            why, help = found
            declared = next(made for made in graph.parameters if made.id == id)
            return Diagnostic(
                "E0404",
                f"`{demand.text}` cannot be kept within {held[id].name}(…): {why}",
                demand.span or graph.span,
                labels=(Label(declared.span, f"`{id}` is declared here"),),
                help=help,
            )
    return None


_ROWS = "bound the rows instead: `norm(A, Inf) <= 0.95`"


def _unkept(demand: Demand, id: str, made: MatrixSet) -> tuple[str, str] | None:
    criterion, linear = demand.criterion, made.linear
    parametrised = demand.method == "parametrize"
    if made.kind == "Orthogonal":
        why = f"the singular values of `{id}` are all 1"
        return why, f"multiply it by a number where it is applied, as in 0.9*{id}, and bound nothing"
    if linear is None:
        if parametrised and criterion in ("norm", "pf", "spectral"):
            return None
        help = 'write `method = "parametrize"`' if criterion in ("norm", "pf", "spectral") else _ROWS
        return f"`{id}` is not linear in what is trained, so nothing can be projected", help
    if parametrised:
        if criterion in ("monotone", "nemon"):
            return "its parametrisation is a full matrix", 'write `method = "project"`, or ' + _ROWS
        if criterion == "pf" and not linear.scales_rows:
            return "its parametrisation scales rows and columns one by one", _ROWS
        return None
    if criterion in ("spectral", "monotone") and not linear.normal:
        help = _ROWS if criterion == "monotone" else f'write `method = "parametrize"`, or {_ROWS}'
        return "the nearest matrix is found by clipping eigenvalues, which leads out of the set", help
    if criterion == "monotone" and demand.bound > 1:
        return "of its multiples only zero could be within the bound", "use m of at most 1"
    if criterion == "nemon" and not demand.bound > 0:
        return "of its multiples only zero could be within the bound", "use a larger bound, or " + _ROWS
    return None
