"""What a program asks of its loops: that they are well posed, how they are solved, how differentiated.

Plain data, written by `resolve` from the annotations `@wellposed`, `@solver` and `@backward`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, TypeVar, get_args

from implicit_dsl.source import Span

Criterion: TypeAlias = Literal["norm", "spectral", "pf", "monotone", "nemon", "prove", "unchecked"]
Method: TypeAlias = Literal["project", "parametrize"]
SolverName: TypeAlias = Literal[
    "auto", "picard", "anderson", "broyden", "forward_backward", "peaceman_rachford", "newton"
]
BackwardName: TypeAlias = Literal["implicit", "neumann", "jfb", "phantom", "unrolled"]
Failure: TypeAlias = Literal["raise", "warn", "fall_back"]

GroupAxis: TypeAlias = Literal["columns", "rows", "blocks", "whole"]
MeasureName: TypeAlias = Literal[
    "l1", "l2", "linf", "squares", "largest_row", "largest_column", "spectral", "nuclear"
]

CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
SOLVERS: tuple[SolverName, ...] = get_args(SolverName)
BACKWARDS: tuple[BackwardName, ...] = get_args(BackwardName)
TRUNCATED = "truncated"  # the gradient of a `recurrent`, which is no loop
FAILURES: tuple[Failure, ...] = get_args(Failure)


@dataclass(frozen=True, slots=True)
class MatrixTerm:
    """factor · T₁ T₂ …: each factor a parameter id and whether it is transposed; none: the identity."""

    factor: float = 1.0
    tensors: tuple[tuple[str, bool], ...] = ()


Matrix: TypeAlias = tuple[MatrixTerm, ...]  # a sum; the empty sum is zero


@dataclass(frozen=True, slots=True)
class Demand:
    """One `@wellposed`.

    `criterion` with its `bound`:
      norm       largest absolute row sum ≤ bound
      spectral   largest singular value ≤ bound
      pf         Perron root of the absolute matrix ≤ bound
      monotone   I − A ⪰ bound·I (symmetric part): bound is m > 0
      nemon      matrix measure μ∞ in a weighted norm ≤ bound
      prove      no constraint: the current weights are to be certified
      unchecked  no constraint and no certificate
    `matrix` is what it constrains: a layer or `param` (one term), a matrix expression, or None
    for the assembled A. `states` restrict it to the loops that hold them; empty: every loop.
    """

    criterion: Criterion
    bound: float = 1.0
    matrix: Matrix | None = None
    states: tuple[str, ...] = ()
    method: Method = "project"
    line: int = 0
    text: str = ""  # as written, such as `norm(A, Inf) <= 0.95`
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SolverDemand:
    """One `@solver`: a solver with its settings (typed and checked), for some loops or all."""

    name: SolverName | Literal["euler"] = "auto"
    settings: tuple[tuple[str, int | float | bool | str], ...] = ()
    states: tuple[str, ...] = ()
    line: int = 0
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class BackwardDemand:
    """One `@backward`: how the gradient of a loop is found."""

    name: BackwardName = "implicit"
    settings: tuple[tuple[str, int | float], ...] = ()
    states: tuple[str, ...] = ()
    line: int = 0
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Piece:
    """Entries of a tensor: some of its rows (axis 0) and columns (axis 1), None: all, numbered from 0."""

    tensor: str
    rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class SystemPart:
    """Blocks (to, from) of one of the assembled A, B, C, D, whose entries are made of some tensors."""

    matrix: str
    blocks: tuple[tuple[str, str], ...] = ()
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """Groups of entries: the columns or rows of some pieces side by side, each block, or all as one group.

    Its entries are those of `pieces`, or those of one part of an assembled matrix.
    """

    axis: GroupAxis
    pieces: tuple[Piece, ...] = ()
    part: SystemPart | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The ids of the tensors, each once."""
        held = self.part.tensors if self.part is not None else (piece.tensor for piece in self.pieces)
        return tuple(dict.fromkeys(held))


@dataclass(frozen=True, slots=True)
class Measured:
    """A number that says how large weights are.

    l1, l2, linf, squares: the sum over the groups of all families of this norm of each group (or of its
    square). largest_row, largest_column (sums of absolute entries), spectral, nuclear: of one matrix, which
    is a family of one group, or a `matrix` expression.
    """

    name: MeasureName
    families: tuple[Family, ...] = ()
    matrix: Matrix = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """The ids of the tensors, each once."""
        held = [id for family in self.families for id in family.tensors]
        held += [id for term in self.matrix for id, _ in term.tensors]
        return tuple(dict.fromkeys(held))


@dataclass(frozen=True, slots=True)
class SparseDemand:
    """One `@sparse`: a measure, which is a sum over groups, is at most `bound`."""

    measured: Measured
    bound: float
    line: int = 0
    text: str = ""  # as written, such as `columns(B) <= 1`
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PenaltyDemand:
    """One term of a `@penalty`: factor · measure."""

    factor: float
    measured: Measured
    line: int = 0
    text: str = ""  # as written, such as `0.1 * columns(B)`
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Demands:
    """All that one model asks, in the order of the source."""

    wellposed: tuple[Demand, ...] = ()
    solvers: tuple[SolverDemand, ...] = ()
    backwards: tuple[BackwardDemand, ...] = ()
    sparse: tuple[SparseDemand, ...] = ()
    penalties: tuple[PenaltyDemand, ...] = ()


NO_DEMANDS = Demands()


class _Stated(Protocol):
    @property
    def states(self) -> tuple[str, ...]: ...


_Demand = TypeVar("_Demand", bound=_Stated)


def applying(demands: Iterable[_Demand], loop: _Stated) -> _Demand | None:
    """The demand for a loop: one that names it goes before one for all."""
    listed = list(demands)
    named = [demand for demand in listed if set(demand.states) & set(loop.states)]
    general = [demand for demand in listed if not demand.states]
    return next(iter((*named, *general)), None)
