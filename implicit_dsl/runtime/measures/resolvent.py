"""(I − P)⁻¹ for P = K|A| ≥ 0 with a Perron root below 1, as a differentiable operator.

The entries of |A| are given one by one. Small matrices are factored; large ones are summed up,
Σ Pᵗ, which ends by itself where states do not read one another in circles. Derivatives take one solve with
the transposed matrix: of X = (I − P)⁻¹ G they are Λ = (I − P)⁻ᵀ ∂X for G, and (Kᵀ Λ) Xᵀ for |A|.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from implicit_dsl._lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

LARGEST_DENSE = 1_000  # states of a matrix that is factored
_TERMS = 50_000  # of Σ Pᵗ, until a certificate is found
_MOST_TERMS = 1_000_000  # of a sum behind it, so that it ends where a Perron root is as good as 1
_EXACT = 1e-15  # of a sum, beside its size in the norm of the certificate
_AT_ONCE = 1 << 22  # products that are held at once


@dataclass(frozen=True)
class Places:
    """A matrix whose entries stand at `rows` and `columns` [entries], each place once."""

    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]

    def to(self, like: Tensor) -> Places:
        """The same on the device of a tensor."""
        return Places(self.rows.to(like.device), self.columns.to(like.device), self.shape)

    def sparse(self, values: Tensor) -> Tensor:
        """The matrix as a sparse tensor."""
        indices = torch.stack([self.rows, self.columns])
        return torch.sparse_coo_tensor(indices, values, self.shape, check_invariants=False)

    def dense(self, values: Tensor) -> Tensor:
        """The matrix [rows, columns]."""
        return values.new_zeros(self.shape).index_put((self.rows, self.columns), values)

    def pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """(left rightᵀ) [entries] for left [rows, k] and right [columns, k], some entries at a time."""
        step = max(1, _AT_ONCE // max(1, left.shape[1]))
        parts = [
            (left[rows] * right[columns]).sum(1)
            for rows, columns in zip(torch.split(self.rows, step), torch.split(self.columns, step))
        ]
        return torch.cat(parts) if parts else left.new_zeros(0)


class _Product(torch.autograd.Function):
    """M x, or Mᵀ x, for the entries of M and x [columns, k], without more memory than x times a few."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, places: Places, turned: bool) -> Tensor:
        ctx.places, ctx.turned = places, turned
        ctx.save_for_backward(values, x)
        matrix = places.sparse(values)
        found: Tensor = torch.sparse.mm(matrix.t() if turned else matrix, x)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, x = ctx.saved_tensors
        places: Places = ctx.places
        matrix = places.sparse(values)
        pulled = torch.sparse.mm(matrix if ctx.turned else matrix.t(), grad.contiguous())
        left, right = (x, grad) if ctx.turned else (grad, x)
        return places.pairs(left, right), pulled, None, None


def product(values: Tensor, x: Tensor, places: Places, turned: bool = False) -> Tensor:
    """M x [rows, k] for the entries of M [entries], or Mᵀ x: differentiable in both."""
    apply: Any = _Product.apply
    found: Tensor = apply(values, x, places, turned)
    return found


class Engine(ABC):
    """What solves (I − P) X = G and (I − P)ᵀ X = G for one P; `vector` is a v > 0 with P v < v, or None."""

    vector: Tensor | None

    @abstractmethod
    def solve(self, G: Tensor, turned: bool) -> Tensor:
        """X [states, k]."""


class _Factored(Engine):
    """By a factorisation."""

    def __init__(self, P: Tensor) -> None:
        eye = torch.eye(len(P), dtype=P.dtype, device=P.device)
        self.factors, self.pivots, info = torch.linalg.lu_factor_ex(eye - P)
        self.vector = None
        if int(info) == 0:
            v = self.solve(P.new_ones(len(P), 1), False)[:, 0]
            if bool(v.isfinite().all()) and bool((v > 0).all()) and bool((P @ v < v).all()):
                self.vector = v

    def solve(self, G: Tensor, turned: bool) -> Tensor:
        found: Tensor = torch.linalg.lu_solve(self.factors, self.pivots, G, adjoint=turned)
        return found


class _Summed(Engine):
    """By the sum Σ Pᵗ G, on the CPU."""

    def __init__(self, P: sparse.csr_array, like: Tensor) -> None:
        self.P, self.turned, self.like = P, P.T.tocsr(), like
        self.v: np.ndarray | None = None
        self.rate = 0.0
        term, total = np.ones(P.shape[0]), np.ones(P.shape[0])
        for _ in range(_TERMS):
            before, term = term, P @ term
            held = before > 0
            if (term[held] >= before[held]).all() and held.any():
                break  # its Perron root is at least 1 (Collatz and Wielandt)
            if (term < 1.0).all():  # P v = v − 1 + term
                self.rate = float((P @ total / total).max(initial=0.0))
                self.v = total if _terms(self.rate) <= _MOST_TERMS else None
                break
            total = total + term
        self.vector = None if self.v is None else torch.from_numpy(self.v).to(like)

    def solve(self, G: Tensor, turned: bool) -> Tensor:
        assert self.v is not None, "there is a certificate"
        P = self.turned if turned else self.P
        term = G.detach().cpu().numpy()
        total = term.copy()
        while True:
            term = P @ term
            total += term
            # P contracts max |xᵢ| ∕ vᵢ, and its transpose Σ vᵢ |xᵢ|, by the rate
            left, size = (self._size(one, turned) for one in (term, total))
            if not (left * self.rate > _EXACT * (1 - self.rate) * size).any():
                return torch.from_numpy(total).to(self.like)

    def _size(self, x: np.ndarray, turned: bool) -> np.ndarray:
        assert self.v is not None
        v = self.v[:, None]
        found = (v * np.abs(x)).sum(0) if turned else (np.abs(x) / v).max(0, initial=0.0)
        return np.asarray(found)


def _terms(rate: float) -> float:
    """How many terms a sum takes at most, whose sizes shrink by `rate`, until the rest is below `_EXACT`."""
    if not rate < 1:
        return float("inf")
    return log(_EXACT * (1 - rate)) / log(rate) if rate > 0 else 1.0


def engine_of(values: Tensor, places: Places, K: sparse.csr_array) -> Engine:
    """The engine of P = K|A|, for the entries of |A| [entries] and K [states, slots]."""
    values = values.detach()
    if places.shape[1] <= LARGEST_DENSE:
        scale = torch.from_numpy(K.toarray()).to(values)
        return _Factored(scale @ places.dense(values))
    triplets = (values.cpu().numpy(), (places.rows.cpu().numpy(), places.columns.cpu().numpy()))
    return _Summed((K @ sparse.csr_array(triplets, shape=places.shape)).tocsr(), values)


class _Resolvent(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, G: Tensor, engine: Engine, K: Tensor, places: Places, turned: bool
    ) -> Tensor:
        X = engine.solve(G, turned)
        ctx.engine, ctx.K, ctx.places, ctx.turned = engine, K, places, turned
        ctx.save_for_backward(X)
        return X

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (X,) = ctx.saved_tensors
        pulled = ctx.engine.solve(grad.contiguous(), not ctx.turned)
        left, right = (X, pulled) if ctx.turned else (pulled, X)
        at = ctx.places.pairs(torch.sparse.mm(ctx.K.t(), left), right)
        return at, pulled, None, None, None, None


def resolvent(
    values: Tensor, G: Tensor, engine: Engine, K: Tensor, places: Places, turned: bool = False
) -> Tensor:
    """(I − K|A|)⁻¹ G [states, k], or (I − K|A|)⁻ᵀ G: differentiable in the entries of |A| and in G."""
    apply: Any = _Resolvent.apply
    found: Tensor = apply(values, G, engine, K, places, turned)
    return found


__all__ = ["LARGEST_DENSE", "Engine", "Places", "engine_of", "product", "resolvent"]
