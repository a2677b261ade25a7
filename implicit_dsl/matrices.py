"""The numbers: A, B, C, D, b and d as sparse matrices, and how they depend on the parameters.

Each parameter θ enters linearly, through its tie map:

    M[rows, cols] += coefficients · θ.flat[slots]

Rows of A, B and b are slots (entries of the pre-activation z), columns of A and C are
states; the two differ only where an activation takes several slots, as max-pooling does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Chain, ImplicitModel
from implicit_dsl.operators import linear_rule
from implicit_dsl.operators.base import Entries, Operator
from implicit_dsl.operators.monomial import Monomial
from implicit_dsl.shapes import count

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

Order: TypeAlias = Literal["upper", "lower"]
Weights: TypeAlias = "Mapping[str, np.ndarray]"

ENTRY_LIMIT = 100_000_000  # entries made at most: as triplets 1.5 GiB
ENTRY_BYTES = 16  # of a triplet: two int32 and a float64
_PIECE = 1 << 13  # entries read from a parameter at once
ONE = "1"  # the block that offsets read: the constant 1

_AXES = {
    "A": ("slots", "states"),
    "B": ("slots", "inputs"),
    "C": ("outputs", "states"),
    "D": ("outputs", "inputs"),
    "b": ("slots", ONE),
    "d": ("outputs", ONE),
}


class TooLarge(ValueError):  # noqa: N818 (it is raised for a size, not for a fault)
    """A matrix has more entries than the limit, and was not made."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Named blocks side by side: block k takes the indices offsets[k] … offsets[k] + sizes[k] − 1."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]

    @staticmethod
    def of(blocks: Iterable[tuple[str, int]]) -> Partition:
        """The partition into blocks of given names and sizes, in their order."""
        names, sizes, offsets, total = [], [], [], 0
        for name, size in blocks:
            names.append(name)
            sizes.append(size)
            offsets.append(total)
            total += size
        return Partition(tuple(names), tuple(sizes), tuple(offsets))

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def _position(self, name: str) -> int:
        if name not in self.names:
            raise KeyError(f"there is no block `{name}` here; there are {', '.join(self.names) or 'none'}")
        return self.names.index(name)

    def __getitem__(self, name: str) -> slice:
        """The indices of a block. Raises KeyError if there is none of that name."""
        at = self._position(name)
        return slice(self.offsets[at], self.offsets[at] + self.sizes[at])

    def size(self, name: str) -> int:
        """How many indices a block has. Raises KeyError if there is none of that name."""
        return self.sizes[self._position(name)]

    def only(self, name: str) -> Partition:
        """That block alone. Raises KeyError if there is none of that name."""
        return Partition.of([(name, self.size(name))])


def partition(model: ImplicitModel, axis: str, order: Order = "upper") -> Partition:
    """The blocks of `slots`, `states`, `inputs` or `outputs`, or of the constant "1".

    States and slots stand last first ("upper"), so that A is strictly block upper
    triangular where there are no loops, or first first ("lower").
    """
    states = model.states if order == "lower" else model.states[::-1]
    match axis:
        case "slots":
            return Partition.of((block.name, count(block.slots)) for block in states)
        case "states":
            return Partition.of((block.name, count(block.shape)) for block in states)
        case "inputs":
            return Partition.of((block.name, count(block.shape)) for block in model.inputs)
        case "outputs":
            return Partition.of((block.name, count(block.shape)) for block in model.outputs)
        case _ if axis == ONE:
            return Partition.of([(ONE, 1)])
        case _:
            raise ValueError(f"there is no axis `{axis}`: it is slots, states, inputs or outputs")


@dataclass(frozen=True, slots=True)
class Tie:
    """M[rows, cols] += coefficients · θ.flat[slots], where θ is the tensor with the id `parameter`.

    A constant part has no parameter and no slots: its entries are the coefficients. All
    arrays are [entries]; one coefficient alone stands for all entries.
    """

    parameter: str | None
    rows: np.ndarray
    cols: np.ndarray
    slots: np.ndarray | None
    coefficients: np.ndarray | float = 1.0

    def write(self, weights: Weights, values: np.ndarray) -> None:
        """Put the numbers that stand at (rows, cols) into `values` [entries]."""
        if self.parameter is None or self.slots is None:
            values[:] = self.coefficients
            return
        theta = weights[self.parameter].reshape(-1)
        # piece by piece: NumPy widens the slots to 64 bits first, and fresh memory costs more than reading
        for start in range(0, len(values), _PIECE):
            piece = slice(start, start + _PIECE)
            values[piece] = theta[self.slots[piece]]
        if not (isinstance(self.coefficients, float) and self.coefficients == 1.0):
            values *= self.coefficients


class Pattern(NamedTuple):
    """Where a matrix has entries [entries]; positions of parallel terms, and of tied entries, may repeat."""

    rows: np.ndarray
    cols: np.ndarray
    row_partition: Partition
    col_partition: Partition


class Triplets(NamedTuple):
    """M[rows, cols] += values, each [entries]."""

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    row_partition: Partition
    col_partition: Partition

    def to_csr(self) -> sparse.csr_array:
        """The matrix in compressed rows; entries that are zero by value stay in its pattern."""
        shape = (self.row_partition.total, self.col_partition.total)
        return sparse.csr_array((self.values, (self.rows, self.cols)), shape=shape)


class Summand(NamedTuple):
    """A chain in the block (row, col), or, in b and d, the offset of that chain (`bias`)."""

    row: str
    col: str
    chain: Chain
    bias: bool = False

    @property
    def mixing(self) -> int | None:
        """The position of its mixing operator: all others permute, pick and scale."""
        found = [at for at, op in enumerate(self.chain) if linear_rule(op).mixing]
        assert len(found) <= 1, "a chain has at most one mixing operator"
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Layout:
    """One of A, B, C, D, b, d, or some of its blocks: which chains stand where."""

    model: ImplicitModel
    matrix: str
    rows: Partition
    cols: Partition

    @staticmethod
    def of(model: ImplicitModel, matrix: str, order: Order = "upper") -> Layout:
        """The whole of a matrix, for a model without free sizes. Raises ValueError if there is none such."""
        if matrix not in _AXES:
            raise ValueError(f"there is no matrix `{matrix}`: it is one of {', '.join(_AXES)}")
        rows, cols = _AXES[matrix]
        return Layout(model, matrix, partition(model, rows, order), partition(model, cols, order))

    def block(self, row: str, col: str) -> Layout:
        """One block of it. Raises KeyError if there is none of those names."""
        return replace(self, rows=self.rows.only(row), cols=self.cols.only(col))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.total, self.cols.total

    def summands(self) -> Iterator[Summand]:
        """What the blocks are sums of, row after row and from left to right."""
        for row in self.rows.names:
            terms = self.model.terms_of[row]
            if self.matrix in ("b", "d"):
                yield from (Summand(row, ONE, term.chain) for term in terms if term.source is None)
                yield from (Summand(row, ONE, term.chain, bias=True) for term in terms)
            else:
                for col in self.cols.names:
                    yield from (Summand(row, col, term.chain) for term in terms if term.source == col)

    def entry_count(self) -> int:
        """How many triplets there are, at most: slices may drop some, parallel terms may meet."""
        return sum(self._summand_count(summand) for summand in self.summands())

    def _summand_count(self, summand: Summand) -> int:
        at, chain = summand.mixing, summand.chain
        if at is None:
            smallest = [self.rows.size(summand.row)] + [linear_rule(op).entry_count(op) for op in chain]
            return 0 if summand.bias else min(smallest)
        op = chain[at]
        return linear_rule(op).offset_count(op) if summand.bias else linear_rule(op).entry_count(op)

    def check(self, limit: int) -> None:
        """Raises TooLarge if the matrix has more entries than `limit`."""
        refuse_above(limit, self.entry_count(), ENTRY_BYTES, self.matrix, self.shape)

    def ties(self, weights: Weights | None = None, only: Summand | None = None) -> Iterator[Tie]:
        """How its entries (or those of one summand) depend on parameters, in the numbering of this layout.

        Only running statistics are read from `weights` (coefficients of batch
        normalisation); without weights they are those of a new layer.
        """
        for row, col, part in self._parts(weights, only):
            yield replace(part, rows=part.rows + row, cols=part.cols + col)

    def _parts(self, weights: Weights | None, only: Summand | None = None) -> Iterator[tuple[int, int, Tie]]:
        """Ties numbered within their blocks, with the row and the column where the block begins."""
        for summand in self.summands() if only is None else (only,):
            row, col = self.rows[summand.row].start, self.cols[summand.col].start
            for part in _summand_ties(summand, self.cols.size(summand.col), weights):
                yield row, col, part

    def triplets(self, weights: Weights, limit: int = ENTRY_LIMIT) -> Triplets:
        """The matrix in float64, from tensors by id. Raises TooLarge above `limit` entries."""
        rows, cols, values = self._filled(weights, limit)
        return Triplets(rows, cols, values, self.rows, self.cols)

    def pattern(self, limit: int = ENTRY_LIMIT) -> Pattern:
        """Where it has entries; needs no weights. Raises TooLarge above `limit` entries."""
        rows, cols, _ = self._filled(None, limit)
        return Pattern(rows, cols, self.rows, self.cols)

    def _filled(self, weights: Weights | None, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and, with weights, values: part after part, so that one is held at a time."""
        self.check(limit)
        most, done = self.entry_count(), 0
        rows, cols = np.empty((2, most), dtype=np.int32 if max(self.shape) < 2**31 else np.int64)
        values = np.empty(0 if weights is None else most)
        for row, col, part in self._parts(weights):
            here = slice(done, done + len(part.rows))
            np.add(part.rows, row, out=rows[here], casting="same_kind")
            np.add(part.cols, col, out=cols[here], casting="same_kind")
            if weights is not None:
                part.write(weights, values[here])
            done = here.stop
        return rows[:done], cols[:done], values[:done]

    def nnz(self) -> int:
        """The exact number of entries, counting positions of parallel terms once.

        Only blocks with parallel terms or slices have their pattern made, one at a time.
        """
        blocks: dict[tuple[str, str], list[Summand]] = {}
        for summand in self.summands():
            blocks.setdefault((summand.row, summand.col), []).append(summand)
        total = 0
        for key, summands in blocks.items():
            if len(summands) == 1 and _keeps_all(summands[0]):
                # an offset has one position for each output, also where two tensors share in it
                entries = self._summand_count(summands[0])
                total += min(entries, self.rows.size(summands[0].row)) if summands[0].bias else entries
            else:
                rows, cols, _, over = self.block(*key).pattern()
                total += len(np.unique(rows.astype(np.int64) * over.total + cols))
        return total


def pattern(model: ImplicitModel, matrix: str, order: Order = "upper", limit: int = ENTRY_LIMIT) -> Pattern:
    """Where a matrix has entries, and its blocks; needs no weights. Raises TooLarge above `limit` entries."""
    return Layout.of(model, matrix, order).pattern(limit)


def triplets(
    model: ImplicitModel, matrix: str, weights: Weights, order: Order = "upper", limit: int = ENTRY_LIMIT
) -> Triplets:
    """A matrix in float64, from tensors by id. Raises TooLarge above `limit` entries."""
    return Layout.of(model, matrix, order).triplets(weights, limit)


def refuse_above(limit: int, entries: int, each: int, name: str, shape: tuple[int, int]) -> None:
    """Raises TooLarge if there are more `entries`, of so many bytes `each`, than `limit`."""
    if entries > limit:
        rows, cols = shape
        raise TooLarge(
            f"{name} is {rows} × {cols} with {entries} entries, about {entries * each / 2**30:.3g} GiB, "
            f"above the limit of {limit}: use the operator form, which makes no matrix (`{name} @ x`), "
            f"or allow it with `limit={entries}`"
        )


def _keeps_all(summand: Summand) -> bool:
    """Whether no monomial operator of the chain drops entries of the others, and none of these meet."""
    if any(linear_rule(op).overlap(op) > 1 for op in summand.chain):
        return False
    others = [op for op in summand.chain if not linear_rule(op).mixing]
    return all(count(op.source) == count(op.target) == linear_rule(op).entry_count(op) for op in others)


def _picks(chain: Chain) -> tuple[np.ndarray | None, float]:
    """A chain of monomial operators as (for each row its column or −1, or None for all in order; factor)."""
    columns: np.ndarray | None = None
    factor = 1.0
    for op in chain:
        rule = linear_rule(op)
        assert isinstance(rule, Monomial), f"`{op.kind}` says that it is not mixing"
        factor *= rule.factor(op)
        own = rule.columns(op)
        if len(own) == count(op.source) and np.array_equal(own, np.arange(len(own))):
            continue
        columns = own if columns is None else np.where(own >= 0, columns[own], -1)
    return columns, factor


def _summand_ties(summand: Summand, width: int, weights: Weights | None) -> Iterator[Tie]:
    """The matrix of a chain on a block of size `width`, numbered within its block."""
    at, chain = summand.mixing, summand.chain
    if at is None:
        if not summand.bias:
            yield _monomial_tie(chain, width)
        return
    op, rule = chain[at], linear_rule(chain[at])
    made = (rule.offsets if summand.bias else rule.entries)(op, _buffers(op, weights))
    before = (None, 1.0) if summand.bias else _picks(chain[:at])
    after, size = _picks(chain[at + 1 :]), count(op.target)
    for entries in made:
        yield _composed(entries, op, before, after, size)


def _monomial_tie(chain: Chain, width: int) -> Tie:
    columns, factor = _picks(chain)
    if columns is None:
        diagonal = np.arange(width, dtype=np.int32)
        return Tie(None, diagonal, diagonal, None, factor)
    rows = np.flatnonzero(columns >= 0)
    return Tie(None, rows, columns[rows], None, factor)


_Picks: TypeAlias = "tuple[np.ndarray | None, float]"


def _composed(entries: Entries, op: Operator, before: _Picks, after: _Picks, size: int) -> Tie:
    """Q M P for the entries of M, where P picks its inputs and Q its outputs (of which there are `size`)."""
    rows, cols, slots, coefficients = entries.rows, entries.cols, entries.slots, entries.coefficients
    parameter = op.parameter(entries.role) if slots is not None else None
    factor = before[1] * after[1]
    if factor != 1.0:
        coefficients = coefficients * factor
    if before[0] is not None:  # (M P)[i, columns[j]] = M[i, j]
        cols = before[0][cols]
    if after[0] is not None:  # (Q M)[r, j] = M[columns[r], j]
        picked = np.flatnonzero(after[0] >= 0)
        inverse = np.full(size, -1)
        inverse[after[0][picked]] = picked
        rows = inverse[rows]
    if before[0] is not None or after[0] is not None:
        keep = (rows >= 0) & (cols >= 0)
        rows, cols = rows[keep], cols[keep]
        slots = None if slots is None else slots[keep]
        coefficients = coefficients[keep] if isinstance(coefficients, np.ndarray) else coefficients
    return Tie(parameter, rows, cols, slots, coefficients)


def _buffers(op: Operator, weights: Weights | None) -> dict[str, Any]:
    """The tensors of an operator by role; without weights, the statistics of a new layer."""
    if weights is not None:
        return {role: weights[id] for role, id in op.parameters}
    fixed = (spec for spec in linear_rule(op).parameters(op) if not spec.trainable)
    return {spec.role: np.full(spec.shape, float(spec.role == "running_var")) for spec in fixed}
