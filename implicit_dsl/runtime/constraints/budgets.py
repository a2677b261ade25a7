"""Rows of tensors that share budgets of weighted absolute sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints.balls import onto_balls
from implicit_dsl.runtime.constraints.base import Weights, like_rows, matrix_rows


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor in the rows of a group; `weights` [rows, entries] are those of its entries' sizes."""

    tensor: str
    axis: int
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share their budgets: for each row o, Σ over parts and entries of w|T[o, …]| ≤ radius[o]."""

    parts: tuple[Part, ...]
    radius: Tensor  # [rows]

    def sums(self, weights: Weights) -> Tensor:
        """The weighted row sums [rows], in float64."""
        return torch.stack(
            [(matrix_rows(weights[p.tensor].double(), p.axis).abs() * p.weights).sum(1) for p in self.parts]
        ).sum(0)

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        """The nearest tensors whose rows are within their budgets, in float64."""
        rows = [matrix_rows(weights[part.tensor], part.axis) for part in self.parts]
        joined = onto_balls(
            torch.cat(rows, 1), self.radius, torch.cat([part.weights for part in self.parts], 1)
        )
        pieces = torch.split(joined, [row.shape[1] for row in rows], 1)
        return {
            part.tensor: like_rows(piece, weights[part.tensor], part.axis)
            for part, piece in zip(self.parts, pieces)
        }
