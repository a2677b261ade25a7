"""A, B, C and D as operators: applied block by block in float64, and made into matrices only when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import ENTRY_LIMIT, Layout, Partition, Tie, Triplets, refuse_above
from implicit_dsl.model import Chain
from implicit_dsl.operators import linear_rule
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse

    Vectors: TypeAlias = np.ndarray | torch.Tensor
    Reader: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

_CHUNK = 1 << 22  # numbers held at once while L Rᵀ is read at single entries: 32 MiB


@dataclass(frozen=True)
class BlockOperator:
    """M, Mᵀ, |M| or |M|ᵀ, for M one of A, B, C, D or one block of it.

    `M @ x` takes NumPy vectors (n,) and matrices (n, k), and torch tensors of the same
    shapes, and returns what it was given (computed in float64, torch tensors in their own
    dtype and on their own device again). No matrix is made for it: blocks are applied as
    operators, transposes are their adjoints.

    |M| is the exact entrywise absolute value. Where parallel terms add up in one block it
    is not the sum of the absolute values of the terms (|I + K| ≠ |I| + |K|), nor where
    entries of a kernel meet (reflected padding); that one block is made, within the limit
    on its entries, and kept.
    """

    layout: Layout
    weights: Mapping[str, np.ndarray] = field(repr=False)
    limit: int = ENTRY_LIMIT
    transposed: bool = False
    absolute: bool = False
    _made: dict[tuple[str, str], sparse.csr_array] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """`A`, `|A|.T`, …"""
        name = f"|{self.layout.matrix}|" if self.absolute else self.layout.matrix
        return f"{name}.T" if self.transposed else name

    @property
    def row_partition(self) -> Partition:
        return self.layout.cols if self.transposed else self.layout.rows

    @property
    def col_partition(self) -> Partition:
        return self.layout.rows if self.transposed else self.layout.cols

    @property
    def row_names(self) -> tuple[str, ...]:
        return self.row_partition.names

    @property
    def col_names(self) -> tuple[str, ...]:
        return self.col_partition.names

    @property
    def shape(self) -> tuple[int, int]:
        return self.row_partition.total, self.col_partition.total

    @property
    def nnz(self) -> int:
        """Entries in its pattern, those that are zero by value included; see `Layout.nnz`."""
        return self.layout.nnz()

    @property
    def T(self) -> BlockOperator:
        """The transpose."""
        return replace(self, transposed=not self.transposed)

    def __abs__(self) -> BlockOperator:
        return replace(self, absolute=True)

    def __getitem__(self, names: tuple[str, str]) -> BlockOperator:
        """The block (row, column) by names. Raises KeyError if there is none of those names."""
        row, col = reversed(names) if self.transposed else names
        return replace(self, layout=self.layout.block(row, col))

    def to_scipy(self, limit: int | None = None) -> sparse.csr_array:
        """The matrix in compressed rows, float64. Raises TooLarge above the limit on its entries."""
        made = self._triplets(limit).to_csr()
        made = abs(made) if self.absolute else made
        return made.T.tocsr() if self.transposed else made

    def to_numpy(self, limit: int | None = None) -> np.ndarray:
        """The dense matrix, float64. Raises TooLarge if it has more numbers than the limit."""
        rows, cols = self.shape
        refuse_above(self.limit if limit is None else limit, rows * cols, 8, self.name, self.shape)
        return np.asarray(self.to_scipy(limit).toarray())

    def _triplets(self, limit: int | None) -> Triplets:
        return self.layout.triplets(self.weights, self.limit if limit is None else limit)

    def __matmul__(self, x: Vectors) -> Vectors:
        """M x for x (n,) or (n, k). Raises ValueError if n is not the number of columns."""
        given = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(x, np.float64))
        if given.ndim not in (1, 2) or len(given) != self.shape[1]:
            raise ValueError(
                f"{self.name} has {self.shape[1]} columns, but is applied to shape {tuple(x.shape)}"
            )
        columns = given.detach().cpu().to(torch.float64).reshape(len(given), -1)
        result = self._applied(columns)
        result = result[:, 0] if given.ndim == 1 else result
        if isinstance(x, torch.Tensor):
            return result.to(x.device, x.dtype if x.dtype.is_floating_point else torch.float64)
        return np.asarray(result.numpy())

    def _applied(self, x: torch.Tensor) -> torch.Tensor:
        """M x on [columns, k] -> [rows, k], float64."""
        result = x.new_zeros(self.shape[0], x.shape[1])
        rows, cols = self.row_partition, self.col_partition
        for key, chains in self._blocks().items():
            row, col = reversed(key) if self.transposed else key
            piece = x[cols[col]]
            meeting = len(chains) > 1 or any(linear_rule(op).overlap(op) > 1 for op in chains[0])
            if self.absolute and meeting:
                made = self._absolute_block(key)
                product = (made.T if self.transposed else made) @ piece.numpy()
                result[rows[row]] += torch.from_numpy(product)
                continue
            for chain in chains:
                result[rows[row]] += self._through(chain, piece)
        return result

    def _blocks(self) -> dict[tuple[str, str], list[Chain]]:
        """The chains of each block that is not zero, by (row, column) of the layout."""
        found: dict[tuple[str, str], list[Chain]] = {}
        for summand in self.layout.summands():
            found.setdefault((summand.row, summand.col), []).append(summand.chain)
        return found

    def _absolute_block(self, key: tuple[str, str]) -> sparse.csr_array:
        """|M| of one block, made at most once."""
        if key not in self._made:
            self._made[key] = abs(self.layout.block(*key).triplets(self.weights, self.limit).to_csr())
        return self._made[key]

    def _through(self, chain: Chain, piece: torch.Tensor) -> torch.Tensor:
        """One chain, or its adjoint, on [size, k]."""
        if not chain:
            return piece
        batch, size = piece.shape[1], count((chain[0] if self.transposed else chain[-1]).source)
        if not self.transposed:
            made = self._linear(chain, piece.T.reshape(batch, *sizes(chain[0].source)))
            return made.reshape(batch, count(chain[-1].target)).T
        # the chain is linear: its adjoint is its vector-Jacobian product, at any point
        with torch.enable_grad():
            point = piece.new_zeros(batch, *sizes(chain[0].source), requires_grad=True)
            made = self._linear(chain, point)
            pulled = torch.autograd.grad(made, point, piece.T.reshape(made.shape))[0]
        return pulled.reshape(batch, size).T

    def _linear(self, chain: Chain, x: torch.Tensor) -> torch.Tensor:
        for op in chain:
            rule = linear_rule(op)
            tensors: Mapping[str, torch.Tensor] = {
                role: torch.from_numpy(self.weights[id]) for role, id in op.parameters
            }
            if self.absolute:
                op, tensors = rule.absolute(op, tensors)
            x = rule.apply(op, x, tensors)
        return x

    def ties(self) -> dict[str, Tie]:
        """For each parameter id its tie map into this matrix (constant parts have none)."""
        if self.absolute:
            raise ValueError(f"{self.name} is not linear in the parameters: it has no tie map")
        found: dict[str, list[Tie]] = {}
        for tie in self.layout.ties(self.weights):
            if tie.parameter is not None:
                found.setdefault(tie.parameter, []).append(tie)
        merged = {id: merge(parts) for id, parts in found.items()}
        if not self.transposed:
            return merged
        return {id: replace(tie, rows=tie.cols, cols=tie.rows) for id, tie in merged.items()}

    def adjoint(self, G: Any) -> dict[str, np.ndarray]:
        """The adjoint of the tie map: for each parameter id ∂⟨G, M⟩/∂θ, of the shape of θ.

        It collects Σ coefficient · G[row, col] on the entries of θ. G [rows, columns] is a
        dense or a SciPy matrix, a pair (L, R) of [rows, k] and [columns, k] that stands for
        L Rᵀ (which is not made), or a function (rows, cols) -> entries. Raises ValueError
        if its shape is not that of M.
        """
        read = _reader(G, self.shape, self.name)
        return {
            id: collect(tie, read(tie.rows, tie.cols), self.weights[id]) for id, tie in self.ties().items()
        }


def merge(parts: list[Tie]) -> Tie:
    """Several ties of one parameter as one, with one coefficient for each entry."""
    full = [np.broadcast_to(np.asarray(part.coefficients, np.float64), part.rows.shape) for part in parts]
    slots = [part.slots for part in parts if part.slots is not None]
    return Tie(
        parts[0].parameter,
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.cols for part in parts]),
        np.concatenate(slots),
        np.concatenate(full),
    )


def collect(tie: Tie, gradient: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Σ coefficient · gradient on the entries of θ, for the gradient at the entries of the tie."""
    assert tie.slots is not None, "a constant part is not tied to a parameter"
    return np.bincount(tie.slots, gradient * tie.coefficients, theta.size).reshape(theta.shape)


def _reader(G: Any, shape: tuple[int, int], name: str) -> Reader:
    """A function that reads G at (rows, cols). Raises ValueError if G has another shape."""
    if isinstance(G, tuple):
        left, right = (np.asarray(part, np.float64) for part in G)
        _expect_shape((len(left), len(right)), shape, name)
        if left.shape[1:] != right.shape[1:] or left.ndim != 2:
            raise ValueError(
                f"L has shape {left.shape} and R {right.shape}: L Rᵀ needs [rows, k] and [columns, k]"
            )
        return lambda rows, cols: _product_entries(left, right, rows, cols)
    if sparse.issparse(G):
        _expect_shape(G.shape, shape, name)
        return lambda rows, cols: _sparse_entries(G.tocsr(), rows, cols)
    if callable(G):
        read: Reader = G
        return read
    dense = np.asarray(G)
    _expect_shape(dense.shape, shape, name)
    return lambda rows, cols: np.asarray(dense[rows, cols])


def _expect_shape(given: tuple[int, ...], wanted: tuple[int, int], name: str) -> None:
    if tuple(given) != wanted:
        raise ValueError(f"{name} has shape {wanted}, but the gradient has shape {tuple(given)}")


def _product_entries(left: np.ndarray, right: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """(L Rᵀ)[rows, cols], some entries at a time."""
    found, step = np.empty(len(rows)), max(1, _CHUNK // max(1, left.shape[1]))
    for start in range(0, len(rows), step):
        here = slice(start, start + step)
        found[here] = np.einsum("ek,ek->e", left[rows[here]], right[cols[here]])
    return found


def _sparse_entries(G: sparse.csr_array, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """G[rows, cols] by search in the row-major numbers of its entries; elsewhere it is zero."""
    G = G.copy()
    G.sum_duplicates()
    width = G.shape[1]
    numbers = np.repeat(np.arange(G.shape[0], dtype=np.int64), np.diff(G.indptr)) * width + G.indices
    wanted = rows.astype(np.int64) * width + cols
    at = np.searchsorted(numbers, wanted)
    there = at < len(numbers)
    there[there] = numbers[at[there]] == wanted[there]
    found = np.zeros(len(wanted))
    found[there] = G.data[at[there]]
    return found
