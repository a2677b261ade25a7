"""Transposes of what PyTorch's functions do to tensors [batch, channels, …], where it has none for itself."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_transposed(y: Tensor, cells: tuple[int, ...], mode: str) -> Tensor:
    """Mᵀ y for M x = F.pad(x, cells, mode): each cell of the padding goes to the one that it is a copy of."""
    for number in range(len(cells) // 2):
        y = _folded(y, y.ndim - 1 - number, cells[2 * number], cells[2 * number + 1], mode)
    return y


def _folded(y: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size = y.shape[axis] - before - after
    x = y.narrow(axis, before, size)
    for cells, start, first in ((before, 0, True), (after, before + size, False)):
        if cells == 0:
            continue
        part = y.narrow(axis, start, cells)
        match mode:
            case "reflect":
                part = part.flip(axis)
                at = 1 if first else size - 1 - cells
            case "circular":
                at = size - cells if first else 0
            case _:  # replicate
                part = part.sum(axis, keepdim=True)
                at = 0 if first else size - 1
        behind = size - at - part.shape[axis]
        x = x + F.pad(part, (0, 0) * (y.ndim - 1 - axis) + (at, behind))
    return x


def avg_pool_transposed(
    y: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], pad: tuple[int, ...], more: tuple[int, ...]
) -> Tensor:
    """Mᵀ y for M x = F.avg_pool(x, kernel, stride, pad); `more` cells at the end of x are not read."""
    back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(kernel) - 1]
    share = y.new_full((y.shape[1], 1, *kernel), 1 / prod(kernel))
    return back(y, share, None, stride, pad, more, y.shape[1])


def interpolate_transposed(y: Tensor, factor: tuple[int, ...], align_corners: bool) -> Tensor:
    """Mᵀ y for M x = F.interpolate(x, scale_factor=factor, mode="linear" and so on, align_corners=…)."""
    for axis, times in enumerate(factor, 2):

        def finer(unit: Tensor, times: int = times) -> Tensor:
            return F.interpolate(unit, scale_factor=times, mode="linear", align_corners=align_corners)

        y = _transposed_along(y, axis, y.shape[axis] // times, finer)
    return y


def adaptive_avg_pool_transposed(y: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Mᵀ y for M x = F.adaptive_avg_pool(x, …), with x of these sizes behind the channels."""
    for axis, size in enumerate(sizes, 2):

        def pooled(unit: Tensor, outputs: int = y.shape[axis]) -> Tensor:
            return F.adaptive_avg_pool1d(unit, outputs)

        y = _transposed_along(y, axis, size, pooled)
    return y


def _transposed_along(y: Tensor, axis: int, size: int, apply: Callable[[Tensor], Tensor]) -> Tensor:
    """The transpose along one axis, from what the operator makes of the unit vectors [1, size, size]."""
    made = apply(torch.eye(size, dtype=y.dtype, device=y.device)[None])[0]
    return (y.movedim(axis, -1) @ made.mT).movedim(-1, axis)
