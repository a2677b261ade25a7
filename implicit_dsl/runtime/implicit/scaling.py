"""Linear equations in units of their right-hand sides.

A gradient may have any size: that of a scaled loss is near the largest number of its format,
that of a saturated one near the smallest. Sums of such numbers overflow, and their residuals are
made of rounding. Divided by a power of two they are what they are otherwise, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from implicit_dsl.runtime.implicit.linearisation import Tensors


def unit_of(right: Sequence[Tensor]) -> Tensor:
    """The power of two (batch,) by which the largest entry of each sample is in [1, 2); 1 for 0, inf, nan."""
    largest = torch.stack([_largest(tensor) for tensor in right]).amax(0)
    mantissa, _ = torch.frexp(largest)
    usual = (largest > 0) & largest.isfinite()
    return torch.where(usual, largest / torch.where(usual, 2 * mantissa, 1), 1)


def _largest(tensor: Tensor) -> Tensor:
    """max|·| of each sample."""
    rows = tensor.reshape(len(tensor), -1)
    return rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows))


def divided(tensors: Sequence[Tensor], unit: Tensor) -> Tensors:
    """Tensors [batch, …] in that unit."""
    return tuple(tensor / _along(unit, tensor) for tensor in tensors)


def multiplied(tensors: Sequence[Tensor], unit: Tensor) -> Tensors:
    """Back again."""
    return tuple(tensor * _along(unit, tensor) for tensor in tensors)


def _along(unit: Tensor, tensor: Tensor) -> Tensor:
    return unit.reshape(-1, *(1,) * (tensor.ndim - 1))
