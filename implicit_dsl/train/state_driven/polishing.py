"""Steps of Newton's method for rows on their supports: the minimum there, as far as no sign turns."""

from __future__ import annotations

import torch
from torch import Tensor

_SOLVE = 20.0  # multiplications in products that a solve with s unknowns takes as long as, for each of s³
_NUMBERS = 1 << 24  # of the matrices that are made at once
_AT_BOUND = 1 - 1e-9
_TURNS = 4  # entries that may become zero on the way, one after another


def polished(
    G: Tensor, Q: Tensor, thresholds: Tensor, weights: Tensor, bound: float, W: Tensor, work: float
) -> Tensor:
    """W [rows, d], each row moved towards the minimum on its support S with its signs σ.

    That is G_SS w + p_S σ + θ c = Q_S with c·w = κ where the ball is active, c = weights · σ on its entries,
    and no θ where it is not. The way ends where an entry becomes zero, which then leaves S, or at the ball:
    no objective rises, and every row stays feasible. Rows with singular equations stay, and those with the
    largest supports where all would take more than `work` multiplications.
    """
    found, rows, left = W.clone(), torch.arange(len(W), device=W.device), work
    for _ in range(_TURNS):
        sizes, order = (found[rows] != 0).sum(1).sort()
        spent = (_SOLVE * sizes.double() ** 3).cumsum(0)
        order = order[(sizes > 0) & (spent <= left)]
        left -= float(spent[len(order) - 1]) if len(order) else 0.0
        sizes = (found[rows] != 0).sum(1)
        turned = []
        while len(order):
            most = int(sizes[order[-1]]) + 1
            many = max(1, _NUMBERS // most**2)
            at, order = rows[order[-many:]], order[:-many]
            found[at], stopped = _moved(G, Q[at], thresholds[at], weights, bound, found[at], most)
            turned.append(at[stopped])
        rows = torch.cat(turned) if turned else rows[:0]
        if not len(rows):
            break
    return found


def _moved(
    G: Tensor, Q: Tensor, thresholds: Tensor, weights: Tensor, bound: float, W: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """The rows after one step, and whether an entry became zero; they have fewer than `most` entries."""
    n = len(weights)
    mask, at = (W != 0).to(torch.int8).sort(dim=1, descending=True, stable=True)
    mask, at = mask[:, : most - 1].bool(), at[:, : most - 1]
    given = W.gather(1, at)
    signs = given.sign()
    counted = torch.cat((weights, weights.new_zeros(W.shape[1] - n)))
    normal = torch.where(mask, counted[at] * signs, 0.0)
    blocks = torch.where(mask[:, :, None] & mask[:, None, :], G[at[:, :, None], at[:, None, :]], 0.0)
    blocks += torch.diag_embed((~mask).to(W))
    right = torch.where(mask, Q.gather(1, at) - thresholds.gather(1, at) * signs, 0.0)
    used = (given * normal).sum(1)
    active = used >= bound * _AT_BOUND
    aim, pressure = _on_face(blocks, right, normal, active, bound)
    inner = pressure < 0  # the ball does not hold these back
    if bool(inner.any()):
        aim[inner], _ = _on_face(blocks[inner], right[inner], normal[inner], active[inner] & False, bound)
    good = torch.isfinite(aim).all(1)
    aim = torch.where(good[:, None] & mask, aim, given)
    turning = (aim * signs <= 0) & mask & good[:, None]
    share = torch.where(turning, given / (given - aim), 1.0)
    way = share.amin(1)
    reach = (aim * normal).sum(1)
    room = torch.where(reach > bound, (bound - used).clamp_min(0.0) / (reach - used).clamp_min(1e-300), 1.0)
    room = torch.where(active & ~inner, 1.0, room)
    stopped = (way < 1) & (way <= room)
    way = torch.minimum(way, room)
    moved = given + way[:, None] * (aim - given)
    moved = torch.where(stopped[:, None] & turning & (share <= way[:, None]), 0.0, moved)
    return torch.zeros_like(W).scatter_(1, at, torch.where(mask, moved, 0.0)), stopped


def _on_face(
    blocks: Tensor, right: Tensor, normal: Tensor, active: Tensor, bound: float
) -> tuple[Tensor, Tensor]:
    """w [rows, s] and θ [rows] of the equations, bordered where the ball is active; NaN if singular."""
    rows, size = right.shape
    system = right.new_zeros(rows, size + 1, size + 1)
    system[:, :-1, :-1] = blocks
    border = torch.where(active[:, None], normal, 0.0)
    system[:, :-1, -1], system[:, -1, :-1] = border, border
    system[:, -1, -1] = (~active).to(right)
    right = torch.cat((right, bound * active.to(right)[:, None]), 1)
    solution, wrong = torch.linalg.solve_ex(system, right[:, :, None])
    solution = torch.where((wrong == 0)[:, None], solution[:, :, 0], float("nan"))
    return solution[:, :-1], solution[:, -1]
