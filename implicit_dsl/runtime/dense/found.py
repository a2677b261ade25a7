"""What a solve over rows has found."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Found:
    """x (batch, n) with the relative residual and the steps of each row, as numbers if they are all equal."""

    x: Tensor
    residual: Tensor | float
    steps: Tensor | int

    @property
    def worst(self) -> float:
        """The largest residual; nan if one is."""
        if isinstance(self.residual, Tensor):
            return float(self.residual.max()) if self.residual.numel() else 0.0
        return self.residual
