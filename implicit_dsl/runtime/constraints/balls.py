"""Nearest points of weighted ℓ1 balls and of related sets, row by row, in closed form."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 16  # entries that are summed at once: in float64 they stay in the cache
_LOST = 0.999  # of r, at least, is left where θ was not rounded by more than r
_ROUNDS = 12  # over whole rows, at most: they find the entries that stay but for rounding


def row_sums(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σⱼ wⱼ |aⱼ| [rows] of a [rows, entries], in float64. `weights`: [entries] or [rows, entries]."""
    native = _native() if rows.is_cpu and (weights is None or weights.dtype == rows.dtype) else None
    found = None if native is None else native.row_sums(rows, weights)
    return found if found is not None else _sums_by_parts(rows, weights)


def _sums_by_parts(rows: Tensor, weights: Tensor | None) -> Tensor:
    step = max(1, _CHUNK // max(1, rows.shape[1])) if rows.is_cpu else max(1, len(rows))
    sums = []
    for start in range(0, max(1, len(rows)), step):
        part = rows[start : start + step].abs().double()
        if weights is not None:
            part *= weights[start : start + step] if weights.ndim == 2 else weights
        sums.append(part.sum(1))
    return torch.cat(sums)


def onto_balls(a: Tensor, radius: Tensor, weights: Tensor | None = None) -> Tensor:
    """argmin ‖x − a‖₂ subject to Σⱼ wⱼ|xⱼ| ≤ r, for each row of a [rows, entries].

    `radius` [rows] > 0, `weights` [entries] or [rows, entries] > 0, None: ones. That is
    xⱼ = sign(aⱼ) max(|aⱼ| − θ wⱼ, 0); θ is computed in float64, so that the result is exact to the rounding
    of its dtype. Rows inside, and those with numbers that are not finite, stay as they are.
    """
    if a.dtype in (torch.float16, torch.bfloat16):
        return onto_balls(a.float(), radius, weights).to(a.dtype)
    cast = None if weights is None else weights.to(a.dtype)
    native = _native() if a.is_cpu else None
    found = None if native is None else native.project_rows(a, radius, cast)
    return found if found is not None else _by_survivors(a, radius.double(), cast)


def onto_balls_(a: Tensor, radius: Tensor) -> bool:
    """The same in place, without memory of its own; False where that cannot be, and nothing is done.

    Whether it can is a matter of the tensor alone: the kernel, and contiguous rows on a CPU.
    """
    native = _native() if a.is_cpu and a.is_contiguous() else None
    return native is not None and native.project_rows(a, radius, None, a) is not None


@cache
def _native() -> Any:
    """The kernels; None in a standalone file where there is no package."""
    try:
        return import_module("implicit_dsl.runtime.native")
    except ImportError:
        return None


def _by_survivors(a: Tensor, radius: Tensor, weights: Tensor | None) -> Tensor:
    """`onto_balls` in PyTorch: every set S of entries gives the lower bound (Σ_S w|a| − r) ∕ Σ_S w² of θ.

    With S = the entries above the last bound it rises to θ in finitely many rounds (Michelot 1986). The
    first rounds see whole rows in the dtype of a, the last ones only the entries that are left, in float64.
    """
    sums = row_sums(a, weights)
    outside = ((sums > radius) & sums.isfinite()).nonzero()[:, 0]
    if not len(outside):
        return a
    given = a[outside]
    size, r = given.abs(), radius[outside]
    w = None if weights is None else weights[outside] if weights.ndim == 2 else weights.expand_as(size)
    cut = _cut(size, w, r)
    above = size > cut
    row_lengths, flat = above.sum(1), above.flatten().nonzero()[:, 0]
    row = flat // size.shape[1]
    sizes = size.flatten().index_select(0, flat).double()
    factors = torch.ones_like(sizes) if w is None else w.flatten().index_select(0, flat).double()
    theta = _threshold(sizes, factors, row, row_lengths, r)
    left = (sizes - theta.index_select(0, row) * factors).clamp_min(0.0)
    # θ is known to a rounding of the largest |a|, which may be far above r: what that adds or takes is scaled
    total = torch.segment_reduce(left * factors, "sum", lengths=row_lengths)
    lost = total < _LOST * r
    if bool(lost.any()):
        left = torch.where(lost[row] & (total == 0)[row], _highest(sizes, factors, row, row_lengths), left)
        total = torch.segment_reduce(left * factors, "sum", lengths=row_lengths)
    left *= (r / torch.where(lost, total, torch.maximum(total, r))).index_select(0, row)
    spread = torch.zeros_like(size.flatten()).scatter_(0, flat, left.to(a.dtype))
    projected = spread.view_as(size).copysign(given)
    if len(outside) == len(a):
        return projected
    found = a.clone()
    found[outside] = projected
    return found


def _cut(size: Tensor, w: Tensor | None, radius: Tensor) -> Tensor:
    """A lower bound of θ w, of the shape of `size` or a column, with few entries above it.

    Bounds are rounded down for sure, by far more than what float32 loses in a sum of 10⁵ terms.
    """
    down, count = 1 - 64 * torch.finfo(size.dtype).eps, -1
    if w is None:
        squares, theta = None, size.amax(1).double() - radius  # the bound of the largest entry alone
    else:
        squares = w * w
        theta = (size / w * down - radius.to(w)[:, None] / squares).amax(1).double()
    theta = (theta - (1 - down) * theta.abs()).clamp_min(0.0)
    for _ in range(_ROUNDS):
        theta = theta.to(size.dtype).double()
        cut = theta.to(size.dtype)[:, None] if w is None else theta.to(size.dtype)[:, None] * w
        left = (size - cut).clamp_min_(0.0)
        sums = (left if w is None else left * w).sum(1).double()
        above = torch.gt(size, cut, out=left)
        held = (above if squares is None else above.mul_(squares)).sum(1).double()
        theta = torch.maximum(theta, theta + (sums * down - radius) / held.clamp_min(1e-300) * down)
        found = int(held.sum()) if w is None else int((size > cut).sum())
        if found == count:
            break
        count = found
    lowered = (theta * down).to(size.dtype)[:, None]
    return lowered if w is None else lowered * w * down


def _highest(sizes: Tensor, factors: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """The nearest point up to a factor, if r is below the rounding of θ: entries with the largest |a| ∕ w."""
    ratios = sizes / factors
    tops = torch.segment_reduce(ratios, "max", lengths=lengths)
    return torch.where(ratios == tops.index_select(0, row), factors, 0.0)


def _threshold(sizes: Tensor, factors: Tensor, row: Tensor, lengths: Tensor, radius: Tensor) -> Tensor:
    """θ [rows], for entries in flat lists: sizes |a| and factors w, `lengths` of them in each row."""
    squared, held, theta = factors * factors, -1, torch.zeros_like(radius)
    while True:
        above = sizes > theta.index_select(0, row) * factors
        count = int(above.sum())
        if count == held:
            return theta
        held = count
        sums = torch.segment_reduce(sizes * factors * above, "sum", lengths=lengths)
        squares = torch.segment_reduce(squared * above, "sum", lengths=lengths)
        bound = (sums - radius) / squares
        theta = torch.where(bound > theta, bound, theta)  # NaN where rounding has left no entry


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
