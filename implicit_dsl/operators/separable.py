"""Constant operators that act along each axis behind the channels by itself: M = I ⊗ M₁ ⊗ M₂ ⊗ …"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Entries, Expression, LinearRule, Operator
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")

Along: TypeAlias = "tuple[tuple[int, int, float], ...]"  # (row, column, entry) of the matrix of one axis


class Separable(LinearRule):
    """Entries are not negative, and sum to 1 at most in each row."""

    @abstractmethod
    def along(self, operator: Operator, axis: int) -> Along:
        """The matrix of an axis behind the channels (from 1)."""

    def entry_count(self, operator: Operator) -> int:
        axes = range(1, len(operator.source))
        return count(operator.source[:1]) * prod(len(self.along(operator, axis)) for axis in axes)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        channels = np.arange(count(operator.source[:1]), dtype=np.int32)
        rows, cols, values = channels, channels, np.ones(len(channels))
        for axis, (inner, outer) in enumerate(zip(sizes(operator.source), sizes(operator.target))):
            if axis == 0:
                continue
            row, col, value = (np.array(part) for part in zip(*self.along(operator, axis)))
            rows = (rows[:, None] * outer + row).reshape(-1)
            cols = (cols[:, None] * inner + col).reshape(-1)
            values = (values[:, None] * value).reshape(-1)
        alike = float(values[0]) if values.min() == values.max() else None  # one factor alone is exact
        return (Entries("", rows, cols, None, values if alike is None else alike),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        for axis in range(1, len(operator.source)):
            rows, cols, values = zip(*self.along(operator, axis))
            shape = (len(values), *(1,) * (x.ndim - axis - 2))
            picked = x.index_select(axis + 1, x.new_tensor(cols, dtype=torch.int64))
            picked = picked * x.new_tensor(values).reshape(shape)
            size = (*x.shape[: axis + 1], sizes(operator.target)[axis], *x.shape[axis + 2 :])
            x = x.new_zeros(size).index_add(axis + 1, x.new_tensor(rows, dtype=torch.int64), picked)
        return x

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return 1.0

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return (0, *(None,) * (len(operator.target) - 1))
