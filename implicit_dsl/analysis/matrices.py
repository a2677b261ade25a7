"""Blocks of A, B, C and D as what bounds need: products with a block, its transpose, and its magnitudes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import Layout
from implicit_dsl.model import Chain
from implicit_dsl.operators import linear_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.shapes import Shape, count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

MOST_ENTRIES = 20_000_000  # of a block that is made; above, its operators are applied
_DENSE, _DENSITY = 4_000_000, 0.1  # a block is dense if it has no more entries in all, or is that full


class Block(ABC):
    """A block M [rows, cols]. All arrays are [batch, ·] in float64, and results as rounding leaves them.

    `terms`: how many products an entry of a result adds up, at most.
    """

    terms: int

    @abstractmethod
    def apply(self, x: np.ndarray) -> np.ndarray:
        """M x."""

    @abstractmethod
    def pull(self, k: np.ndarray) -> np.ndarray:
        """Mᵀ k."""

    @abstractmethod
    def magnitude(self, x: np.ndarray) -> np.ndarray:
        """|M| x, or more, for x ≥ 0."""


class Made(Block):
    """A block whose entries are there: dense, or in compressed rows."""

    def __init__(self, matrix: sparse.csr_array) -> None:
        rows, cols = matrix.shape
        matrix.sum_duplicates()
        full = max(1, rows * cols)
        self._matrix = matrix.toarray() if full <= _DENSE or matrix.nnz > _DENSITY * full else matrix
        self._size = abs(self._matrix)
        self.terms = int(np.diff(matrix.indptr).max(initial=0)) + 1

    def apply(self, x: np.ndarray) -> np.ndarray:
        return _times(self._matrix, x)

    def pull(self, k: np.ndarray) -> np.ndarray:
        return _times(self._matrix.T, k)

    def magnitude(self, x: np.ndarray) -> np.ndarray:
        return _times(self._size, x)

    def csr(self) -> sparse.csr_array:
        """The block in compressed rows."""
        return sparse.csr_array(self._matrix)

    def own(self) -> np.ndarray:
        """The diagonal."""
        return np.asarray(self._matrix.diagonal())

    def without_diagonal(self) -> Made:
        """The same with zeros on the diagonal."""
        kept = sparse.coo_array(self._matrix)
        off = kept.row != kept.col
        entries = (kept.data[off], (kept.row[off], kept.col[off]))
        return Made(sparse.csr_array(entries, shape=kept.shape))


def _times(M: np.ndarray | sparse.csr_array, x: np.ndarray) -> np.ndarray:
    """x Mᵀ for x [..., cols]."""
    flat = x.reshape(-1, x.shape[-1])
    made = flat @ M.T if isinstance(M, np.ndarray) else np.ascontiguousarray((M @ flat.T).T)
    return np.asarray(made).reshape(*x.shape[:-1], M.shape[0])


class Applied(Block):
    """A block as the sum of chains of operators, without making it."""

    def __init__(
        self, chains: Sequence[Chain], weights: Mapping[str, np.ndarray], source: Shape, target: Shape
    ) -> None:
        self._chains, self._weights = chains, weights
        self._source, self._target = sizes(source), sizes(target)
        each = (count(op.source) * linear_rule(op).overlap(op) for chain in chains for op in chain)
        self.terms = sum(each) + len(chains)

    def apply(self, x: np.ndarray) -> np.ndarray:
        return _numbers(self._signed(_tensor(x, self._source)), x)

    def pull(self, k: np.ndarray) -> np.ndarray:
        x = torch.zeros(k.size // max(1, k.shape[-1]), *self._source, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            made = self._signed(x)
        (pulled,) = torch.autograd.grad(made, x, _tensor(k, self._target))
        return _numbers(pulled, k)

    def magnitude(self, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            given = _tensor(x, self._source)
            made = torch.stack([_chain(given, parts) for parts in self._magnitudes]).sum(0)
        return _numbers(made, x)

    def _signed(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [_chain(x, [(op, self._tensors(op)) for op in chain]) for chain in self._chains]
        ).sum(0)

    def _tensors(self, operator: Operator) -> Mapping[str, torch.Tensor]:
        return {role: torch.from_numpy(self._weights[id]) for role, id in operator.parameters}

    @cached_property
    def _magnitudes(self) -> list[list[tuple[Operator, Mapping[str, torch.Tensor]]]]:
        return [[linear_rule(op).absolute(op, self._tensors(op)) for op in chain] for chain in self._chains]


def _chain(x: torch.Tensor, parts: Sequence[tuple[Operator, Mapping[str, torch.Tensor]]]) -> torch.Tensor:
    for operator, tensors in parts:
        x = linear_rule(operator).apply(operator, x, tensors)
    return x


def _tensor(x: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float64)).reshape(-1, *shape)


def _numbers(made: torch.Tensor, like: np.ndarray) -> np.ndarray:
    return np.asarray(made.detach().reshape(*like.shape[:-1], -1).numpy())


def block_of(
    layout: Layout,
    chains: Sequence[Chain],
    weights: Mapping[str, np.ndarray],
    source: Shape,
    target: Shape,
    most: int = MOST_ENTRIES,
) -> Block:
    """One block, which `layout` has alone, made if it has few entries enough."""
    if layout.entry_count() <= most:
        return Made(layout.triplets(weights).to_csr())
    return Applied(chains, weights, source, target)
