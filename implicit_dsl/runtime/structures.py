"""Matrices in sets, made of the tensors that are trained: `param W[n, n] in Symmetric()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from implicit_dsl.sets.linear import LinearSet


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
        i, j = _places(n, n, free.device)
        below = (j < i) & (j < k)
        lower = _put(free, below, _in_row_order(below))
        W: Tensor = torch.linalg.matrix_exp(lower - lower.mT)[:, :k]
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
    i, j = _places(structure.rows, structure.columns, free.device)
    placed = _put(free, structure.inside(i, j), structure.numbers(i, j))
    sign = structure.sign(i, j)
    return placed * sign if isinstance(sign, Tensor) else placed


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
    i, j = _places(structure.rows, structure.columns, matrix.device)
    inside, numbers = structure.inside(i, j), structure.numbers(i, j)
    entries: Tensor = (matrix * structure.sign(i, j))[inside]
    if not structure.tied:
        return entries
    total = torch.stack((entries, torch.ones_like(entries)))
    sums = total.new_zeros(2, structure.count).index_add_(1, numbers[inside], total)
    return sums[0] / sums[1]


def members(module: nn.Module, structures: Mapping[str, Structure]) -> dict[str, Tensor]:
    """What `forward` takes of the matrices in sets, by the ids of the trained tensors of a module."""
    return {id: weight_of(made, getattr(module, id)) for id, made in structures.items()}


def start_nonneg_(free: Tensor, low: float = 1e-6) -> None:
    """θ of the absolute values of a tensor, in place; what is below `low` is `low`."""
    with torch.no_grad():
        size = free.abs().clamp_min(low)
        free.copy_(size + torch.log(-torch.expm1(-size)))  # log(exp(w) − 1)


def _places(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)[None]


def _in_row_order(inside: Tensor) -> Tensor:
    """The number of each place inside, row by row."""
    return inside.reshape(-1).cumsum(0).reshape(inside.shape) - 1


def _put(free: Tensor, inside: Tensor, numbers: Tensor) -> Tensor:
    """free[numbers] inside, and zero elsewhere."""
    return torch.where(inside, free[numbers.clamp_min(0)], free.new_zeros(()))


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
