"""Rows of tensors that share budgets of weighted absolute sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints.balls import onto_balls, row_sums
from implicit_dsl.runtime.constraints.base import Weights, like_rows, matrix_rows


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor in the rows of a group; `weights` [rows, entries] are those of its entries' sizes.

    Where all rows have the same, or all entries, they are expanded and take no memory.
    """

    tensor: str
    axis: int
    weights: Tensor

    @property
    def shared(self) -> Tensor:
        """The weights as [entries] if all rows have the same."""
        return self.weights[0] if len(self.weights) and self.weights.stride(0) == 0 else self.weights

    @property
    def factor(self) -> float | None:
        """The weight, if all entries have the same."""
        same = [size == 1 or step == 0 for size, step in zip(self.weights.shape, self.weights.stride())]
        return float(self.weights[0, 0]) if self.weights.numel() and all(same) else None


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share their budgets: for each row o, Σ over parts and entries of w|T[o, …]| ≤ radius[o]."""

    parts: tuple[Part, ...]
    radius: Tensor  # [rows]

    def sums(self, weights: Weights) -> Tensor:
        """The weighted row sums [rows], in float64."""
        sums = [_weighted_sums(matrix_rows(weights[part.tensor], part.axis), part) for part in self.parts]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        """The nearest tensors whose rows are within their budgets: in their dtype if that is one, or float64.

        In float32 a row sum is above its budget by two units of rounding at most: one of the weights, and
        one of the entries.
        """
        dtypes = {weights[part.tensor].dtype for part in self.parts}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float64
        if dtype not in (torch.float32, torch.float64):
            dtype = torch.float64
        rows = [matrix_rows(weights[part.tensor], part.axis).to(dtype) for part in self.parts]
        factors = {part.factor for part in self.parts}
        factor = factors.pop() if len(factors) == 1 else None
        joined = rows[0] if len(rows) == 1 else torch.cat(rows, 1)
        if factor is not None:
            joined = onto_balls(joined, self.radius / factor)
        elif len(rows) == 1:
            joined = onto_balls(joined, self.radius, self.parts[0].shared)
        else:
            joined = onto_balls(joined, self.radius, torch.cat([part.weights for part in self.parts], 1))
        pieces = torch.split(joined, [row.shape[1] for row in rows], 1)
        return {
            part.tensor: like_rows(piece, weights[part.tensor], part.axis)
            for part, piece in zip(self.parts, pieces)
        }


def _weighted_sums(rows: Tensor, part: Part) -> Tensor:
    """Σ w|a| of each row of a tensor, in float64."""
    if part.factor is not None:
        return row_sums(rows) * part.factor
    return row_sums(rows.double(), part.shared)
