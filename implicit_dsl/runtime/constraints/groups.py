"""Sums over groups of the largest entry of each, Σ_g max |w_g| ≤ κ: columns that are zero as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints.base import (
    Constraint,
    Weights,
    inward,
    like_rows,
    matrix_rows,
)

_CAPPING_ROUNDS = 200  # of Newton's method on a convex function of pieces, which ends by itself


@dataclass(frozen=True)
class GroupBound(Constraint):
    """Σ_g max |w_g| ≤ κ, over the groups of all families: the ball of the norm ℓ1,∞.

    Blocks with one `row` are a family: their tensors have the same groups, which their `axis` counts.
    `nearest` is the Euclidean projection (Quattoni et al. 2009), which makes whole groups zero.
    """

    @property
    def measure(self) -> str:
        return "the sum of the largest entries of its groups"

    def measured(self, weights: Weights) -> float:
        groups = self._families({id: weight.double() for id, weight in weights.items()})
        return sum(float(rows.amax(1).sum()) for _, rows in groups)

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        if self.measured(weights) <= self.bound:
            return dict(weights)
        eps = max((weight.dtype for weight in weights.values()), key=lambda dtype: torch.finfo(dtype).eps)
        wide = {id: weight.double() for id, weight in weights.items()}
        families = self._families(wide)
        caps = _caps([rows for _, rows in families], inward(self.bound, eps))
        found = dict(wide)
        for (held, _), cap in zip(families, caps):
            for id, axis in held:
                rows = matrix_rows(found[id], axis)
                found[id] = like_rows(rows.clamp(-cap[:, None], cap[:, None]), found[id], axis)
        return {id: found[id].to(weight.dtype) for id, weight in weights.items()}

    def made(self, weights: Weights) -> dict[str, Tensor]:
        total = torch.stack([rows.amax(1).sum() for _, rows in self._families(weights)]).sum()
        return {id: weight * (self.bound / total.clamp_min(self.bound)) for id, weight in weights.items()}

    def _families(self, weights: Weights) -> list[tuple[list[tuple[str, int]], Tensor]]:
        """The tensors of each family, and the sizes of the entries of its groups [groups, entries]."""
        found: dict[str, list[tuple[str, int]]] = {}
        for block in self.blocks:
            found.setdefault(block.row, []).append((block.tensor, block.axis))
        return [
            (held, torch.cat([matrix_rows(weights[id], axis).abs() for id, axis in held], 1))
            for held in found.values()
        ]


def _caps(families: list[Tensor], bound: float) -> list[Tensor]:
    """The largest size μ_g [groups] that entries of each group keep, Σ μ_g = bound.

    What is cut off is the same θ in all groups that keep something: Σ_i max(|a_i| − μ, 0) = θ. So
    μ(θ) = max(0, max_k (S_k − θ) ÷ k) with S_k the sum of the k largest, and Σ μ_g(θ) is convex and falls:
    Newton's method from θ = 0 rises to the solution in finitely many steps.
    """
    sums = [rows.sort(1, descending=True).values.cumsum(1) for rows in families]
    counts = [torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype, device=rows.device) for rows in sums]
    theta = 0.0
    caps: list[Tensor] = []
    for _ in range(_CAPPING_ROUNDS):
        caps, total, slope = [], 0.0, 0.0
        for held, count in zip(sums, counts):
            best = ((held - theta) / count).max(1)
            caps.append(best.values.clamp_min(0.0))
            kept = best.values > 0
            total += float(caps[-1].sum())
            slope += float((1.0 / count[best.indices])[kept].sum())
        risen = theta + (total - bound) / slope if slope > 0 else theta
        if not risen > theta:
            break
        theta = risen
    return caps


__all__ = ["GroupBound"]
