"""The optimality conditions of rows on their supports, solved exactly."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 600  # entries of a support
_NUMBERS = 1 << 24  # of the matrices that are made at once
_AT_BOUND = 1 - 1e-9


def polished(G: Tensor, Q: Tensor, thresholds: Tensor, weights: Tensor, bound: float, W: Tensor) -> Tensor:
    """W [rows, d] with each row solved on its support S with its signs σ: G_SS w + p_S σ + θ c = Q_S, c·w = κ.

    c = weights · σ over the ball where it is active, and no θ where it is not. Rows keep what they have where
    their signs or that of θ would turn, where the equations are singular, and where S is too large.
    """
    found, sizes = W.clone(), (W != 0).sum(1)
    order = sizes.argsort()
    order = order[(sizes[order] > 0) & (sizes[order] <= _LARGEST)]
    while len(order):
        most = int(sizes[order[-1]]) + 1
        many = max(1, _NUMBERS // most**2)
        chosen, order = order[-many:], order[:-many]
        found[chosen] = _on_support(G, Q[chosen], thresholds[chosen], weights, bound, W[chosen], most)
    return found


def _on_support(
    G: Tensor, Q: Tensor, thresholds: Tensor, weights: Tensor, bound: float, W: Tensor, most: int
) -> Tensor:
    """The same for rows with fewer than `most` entries: their systems are filled up with ones."""
    n, rows = len(weights), len(W)
    mask, at = (W != 0).to(torch.int8).sort(dim=1, descending=True, stable=True)
    mask, at = mask[:, : most - 1].bool(), at[:, : most - 1]
    signs = W.gather(1, at).sign()
    counted = torch.cat((weights, weights.new_zeros(W.shape[1] - n)))
    normal = torch.where(mask, counted[at] * signs, 0.0)
    active = (W[:, :n].abs() * weights).sum(1) >= bound * _AT_BOUND
    border = torch.where(active[:, None], normal, 0.0)
    system = W.new_zeros(rows, most, most)
    both = mask[:, :, None] & mask[:, None, :]
    system[:, :-1, :-1] = torch.where(both, G[at[:, :, None], at[:, None, :]], 0.0)
    system[:, :-1, :-1] += torch.diag_embed((~mask).to(W))
    system[:, :-1, -1], system[:, -1, :-1] = border, border
    system[:, -1, -1] = (~active).to(W)
    right = torch.where(mask, Q.gather(1, at) - thresholds.gather(1, at) * signs, 0.0)
    right = torch.cat((right, torch.where(active, bound, 0.0)[:, None]), 1)
    solution, wrong = torch.linalg.solve_ex(system, right[:, :, None])
    solution = solution[:, :, 0]
    entries = solution[:, :-1]
    good = (wrong == 0) & torch.isfinite(solution).all(1) & (solution[:, -1] >= 0)
    good &= ((entries.sign() == signs) | ~mask).all(1)
    exact = torch.zeros_like(W).scatter_(1, at, torch.where(mask, entries, 0.0))
    return torch.where(good[:, None], exact, W)
