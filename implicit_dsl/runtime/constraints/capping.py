"""Sizes at which the entries of groups are cut off, so that the largest of each add up to a bound."""

from __future__ import annotations

import torch
from torch import Tensor

_CAPPING_ROUNDS = 200  # of Newton's method on a convex function of pieces, which ends by itself


def caps_of(families: list[Tensor], bound: float) -> list[Tensor]:
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


__all__ = ["caps_of"]
