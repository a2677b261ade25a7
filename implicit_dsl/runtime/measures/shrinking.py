"""Proximal operators of norms of groups, in closed form or by Newton's method, many groups at once.

For rows a [groups, entries] with steps s > 0 of their own (one number, or [groups, entries]) each solves

    argmin_x  Σᵢ (xᵢ − aᵢ)² ∕ (2 sᵢ) + λ ‖x‖

which is the proximal operator in the metric of an optimiser with one step for each entry (Duchi, Hazan and
Singer 2011; Yun, Lozano and Yang 2021), and for equal steps the ordinary one (Parikh and Boyd 2014, §6).
"""

from __future__ import annotations

import torch
from torch import Tensor

_RISES = 100  # of Newton's method on a convex function that falls, from the left: it ends by itself


def shrink_entries(a: Tensor, steps: Tensor) -> Tensor:
    """The operator of Σ|x|, soft thresholding: sign(a) max(|a| − s, 0). `steps` are s λ, broadcast to a."""
    return a.sign() * (a.abs() - steps).clamp_min(0.0)


def scale_entries(a: Tensor, steps: Tensor) -> Tensor:
    """The operator of Σx²: a ∕ (1 + 2 s). `steps` are s λ, broadcast to a."""
    scaled: Tensor = a / (1.0 + 2.0 * steps)
    return scaled


def shrink_groups(a: Tensor, steps: Tensor) -> Tensor:
    """The operator of the sum of ‖x‖₂ over rows [groups, entries]. `steps` are s λ: [1, 1], or as a.

    With r = ‖x‖₂ it is xᵢ = aᵢ r ∕ (r + sᵢ), and r the root of Σ aᵢ² ∕ (r + sᵢ)² = 1; a row is zero if
    Σ (aᵢ ∕ sᵢ)² ≤ 1.
    """
    norms: Tensor = torch.linalg.vector_norm(a, dim=1, keepdim=True)
    if steps.shape[1] == 1:
        return a * (1.0 - steps / norms.clamp_min(torch.finfo(a.dtype).tiny)).clamp_min(0.0)
    free = (steps <= 0).any(1, keepdim=True) & (a != 0).any(1, keepdim=True)
    kept = ((a / steps.clamp_min(torch.finfo(a.dtype).tiny)).square().sum(1, keepdim=True) > 1.0) | free
    radius = (norms - steps.amax(1, keepdim=True)).clamp_min(0.0)
    radius = torch.where(radius > 0, radius, norms * torch.finfo(a.dtype).eps)
    for _ in range(_RISES):
        ratios = (a / (radius + steps)).square()
        excess = ratios.sum(1, keepdim=True) - 1.0
        slope = 2.0 * (ratios / (radius + steps)).sum(1, keepdim=True)
        # Newton on 1 ∕ √h, which is nearly linear: rises, and never beyond the root of a concave function
        size = excess + 1.0
        risen = radius + 2.0 * size * (1.0 - size.rsqrt()) / slope * size.sqrt()
        risen = torch.where(kept & (excess > 0), risen, radius)
        if not bool((risen > radius * (1 + 4 * torch.finfo(a.dtype).eps)).any()):
            break
        radius = risen
    return torch.where(kept, a * (radius / (radius + steps)), 0.0)


def cap_groups(a: Tensor, steps: Tensor) -> Tensor:
    """The operator of the sum of max|x| over rows [groups, entries]. `steps` are s λ: [1, 1], or as a.

    Entries are cut at μ with Σ (|aᵢ| − μ)₊ ∕ sᵢ = 1, or all zero where that needs no μ > 0: for equal steps
    a minus its projection onto the ball Σ|x| ≤ s (Moreau).
    """
    weights = (1.0 / steps.clamp_min(torch.finfo(a.dtype).tiny)).expand_as(a)
    sizes, order = a.abs().sort(1, descending=True)
    weights = weights.gather(1, order)
    caps = (((sizes * weights).cumsum(1) - 1.0) / weights.cumsum(1)).amax(1, keepdim=True).clamp_min(0.0)
    return torch.maximum(torch.minimum(a, caps), -caps)


__all__ = ["cap_groups", "scale_entries", "shrink_entries", "shrink_groups"]
