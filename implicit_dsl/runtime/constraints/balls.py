"""Nearest points of weighted ℓ1 balls and of related sets, row by row, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def onto_balls(a: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
    """argmin ‖x − a‖₂ subject to Σⱼ wⱼ|xⱼ| ≤ r, for each row of a [rows, entries].

    `radius` [rows] > 0, `weights` [entries] or [rows, entries] > 0. With the ratios |aⱼ|/wⱼ in falling
    order and θₖ = (Σᵢ≤ₖ wᵢ|aᵢ| − r) / Σᵢ≤ₖ wᵢ², the threshold is θ at the last k whose
    ratio exceeds it (Held, Wolfe and Crowder 1974; Duchi et al. 2008 for w = 1).
    """
    size, weights = a.abs(), weights.expand_as(a)
    outside = (size * weights).sum(1) > radius
    if not bool(outside.any()):
        return a
    inner, w, r = size[outside], weights[outside], radius[outside]
    ratios, order = (inner / w).sort(dim=1, descending=True)
    sorted_w = w.gather(1, order)
    totals = (sorted_w * sorted_w * ratios).cumsum(1)  # w|a| = w² · ratio
    squares = (sorted_w * sorted_w).cumsum(1)
    thresholds = (totals - r[:, None]) / squares
    last = (ratios > thresholds).sum(1, keepdim=True).clamp_min(1) - 1
    theta = thresholds.gather(1, last)
    found = a.clone()
    found[outside] = a[outside].sign() * (inner - theta * w).clamp_min(0.0)
    return found


def onto_measures(a: Tensor, bound: float) -> Tensor:
    """argmin ‖x − a‖_F subject to xᵢᵢ + Σ_{j≠i} |xᵢⱼ| ≤ m in each row of a square matrix.

    The diagonal moves by −θ and the others are thresholded by θ: with |aᵢⱼ| in falling order,
    θₖ = (aᵢᵢ + Σ_{j≤k} |aᵢⱼ| − m) / (k + 1) for k = 0, 1, …, at the last k with |aᵢₖ| > θₖ (KKT).
    """
    diagonal = a.diagonal()
    others = a - torch.diag(diagonal)
    size = others.abs()
    outside = diagonal + size.sum(1) > bound
    if not bool(outside.any()):
        return a
    falling = size[outside].sort(dim=1, descending=True)[0]
    counts = torch.arange(falling.shape[1] + 1, dtype=a.dtype, device=a.device) + 1
    totals = torch.cat((torch.zeros_like(falling[:, :1]), falling.cumsum(1)), 1)
    thresholds = (diagonal[outside, None] + totals - bound) / counts
    last = (falling > thresholds[:, 1:]).sum(1, keepdim=True)
    theta = thresholds.gather(1, last)
    moved = others.clone()
    moved[outside] = others[outside].sign() * (size[outside] - theta).clamp_min(0.0)
    shift = torch.zeros_like(diagonal)
    shift[outside] = theta[:, 0]
    return moved + torch.diag(diagonal - shift)
