"""Matrices in sets, made of the tensors that are trained: `param W[n, n] in Symmetric()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from implicit_dsl.runtime.implicit.recording import recorded
from implicit_dsl.runtime.matrix_functions import exponential, widened
from implicit_dsl.runtime.sharding import whole
from implicit_dsl.sets.linear import LinearSet


@dataclass(frozen=True, slots=True)
class Rotating(LinearSet):
    """S = −Sᵀ, zero but for its first `kept` rows and columns.

    θ are the entries of these columns below the diagonal, row by row.
    """

    tied = True
    signed = True
    kept: int

    @property
    def count(self) -> int:
        return self.kept * self.rows - self.kept * (self.kept + 1) // 2

    def inside(self, i: Any, j: Any) -> Any:
        return (i != j) & ((i < self.kept) | (j < self.kept))

    def numbers(self, i: Any, j: Any) -> Any:
        row, column = (i + j + abs(i - j)) // 2, (i + j - abs(i - j)) // 2
        full = (row + self.kept - abs(row - self.kept)) // 2  # rows above it that are not cut
        return full * (full - 1) // 2 + (row - full) * self.kept + column

    def sign(self, i: Any, j: Any) -> Any:
        return 1 - 2 * (i < j)


@dataclass(frozen=True, slots=True)
class Orthogonal:
    """Orthonormal columns, or rows where there are fewer: W = exp(S)[:, :k], with S skew.

    θ are the entries of the first k columns of S below its diagonal, row by row; the rest of S is zero.
    Every matrix of this kind is reached, but with k = n only those of determinant 1.
    """

    rows: int
    columns: int

    def matrix(self, free: Tensor) -> Tensor:
        """W [rows, columns]."""
        n, k = max(self.rows, self.columns), min(self.rows, self.columns)
        W = exponential(matrix_of(Rotating(n, n, k), free))[:, :k]
        return W.mT if self.rows < self.columns else W


@dataclass(frozen=True, slots=True)
class Nonneg:
    """W = log(1 + exp(θ)), entry by entry: positive, and of the shape of θ."""

    shape: tuple[int, ...]

    def matrix(self, free: Tensor) -> Tensor:
        """W [shape]."""
        return F.softplus(free)


Structure: TypeAlias = LinearSet | Orthogonal | Nonneg


def matrix_of(structure: Structure, free: Tensor) -> Tensor:
    """The member [rows, columns] of a set that a trained tensor stands for."""
    if not isinstance(structure, LinearSet):
        return structure.matrix(free)
    values = widened(free) if structure.tied else free  # their gradients are summed
    signed = [values, -values] if structure.signed else [values]
    chosen = torch.cat((*signed, values.new_zeros(1))).index_select(0, _places_of(structure, free.device))
    return chosen.reshape(structure.rows, structure.columns).to(free.dtype)


def _places_of(structure: LinearSet, device: torch.device) -> Tensor:
    """`_chosen`, made once. In a graph it is computed: a constant there would be as large as the matrix."""
    transformed = torch._C._are_functorch_transforms_active()  # what is made in there is of that level
    return _chosen(structure, device) if recorded() or transformed else _kept(structure, device)


def _chosen(structure: LinearSet, device: torch.device) -> Tensor:
    """Which of the numbers θ, then −θ if there are signs, then 0 stands at each place, row by row."""
    i, j = _places(structure.rows, structure.columns, device)
    chosen, end = structure.numbers(i, j), structure.count
    if structure.signed:
        chosen, end = torch.where(structure.sign(i, j) < 0, chosen + end, chosen), 2 * end
    return torch.where(structure.inside(i, j), chosen, end).reshape(-1)


@lru_cache(maxsize=32)  # each is as large as its matrix
def _kept(structure: LinearSet, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _chosen(structure, device)


def used_of(structure: Structure, matrix: Tensor) -> Tensor:
    """What generated code takes of a member: of a square diagonal matrix its diagonal."""
    return matrix.diagonal() if isinstance(structure, LinearSet) and structure.is_diagonal else matrix


def weight_of(structure: Structure, free: Tensor) -> Tensor:
    """The same of a trained tensor."""
    if isinstance(structure, LinearSet) and structure.is_diagonal:
        return free
    return matrix_of(structure, free)


def nearest_of(structure: LinearSet, matrix: Tensor) -> Tensor:
    """θ of the member nearest to a matrix in the Frobenius norm: entries that are tied are averaged."""
    places, count = _places_of(structure, matrix.device), structure.count
    slots = (2 if structure.signed else 1) * count + 1
    sums = matrix.new_zeros(slots).index_add_(0, places, matrix.reshape(-1))
    if not structure.tied:
        return sums[:count]
    held = torch.bincount(places, minlength=slots)
    if structure.signed:
        return (sums[:count] - sums[count:-1]) / (held[:count] + held[count:-1])
    return sums[:count] / held[:count]


def members(module: nn.Module, structures: Mapping[str, Structure]) -> dict[str, Tensor]:
    """What `forward` takes of the matrices in sets, by the ids of the trained tensors of a module."""
    return {id: weight_of(made, whole(getattr(module, id))) for id, made in structures.items()}


def start_nonneg_(free: Tensor, low: float = 1e-6) -> None:
    """θ of the absolute values of a tensor, in place; what is below `low` is `low`."""
    with torch.no_grad():
        size = free.abs().clamp_min(low)
        free.copy_(size + torch.log(-torch.expm1(-size)))  # log(exp(w) − 1)


def _places(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)[None]


__all__ = [
    "Nonneg",
    "Orthogonal",
    "Structure",
    "matrix_of",
    "members",
    "nearest_of",
    "start_nonneg_",
    "used_of",
    "weight_of",
]
