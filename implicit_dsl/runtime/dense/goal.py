"""What a solve over rows is to reach, and the norms in which it is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Below this many units of rounding a residual is noise: there the solve ends once it stops falling.
FLOOR_UNITS = 64


@dataclass(frozen=True, slots=True)
class Goal:
    """‖x − f(x)‖ ≤ tolerance · max(1, ‖x‖) for each row, or ≤ tolerance · ‖x‖ for an adjoint.

    The norm is max |·| for the equilibrium and its dual, Σ |·|, for the adjoint, in which Aᵀ
    has the rate that A has in the first. `contracts`: f is known not to expand in this norm.
    Then f(x) is returned for the x that was measured, whose residual is at most the same.
    """

    tolerance: float
    max_steps: int
    adjoint: bool = False
    contracts: bool = False

    def floor(self, dtype: torch.dtype) -> float:
        """The residual below which the end of progress is the end of precision."""
        return FLOOR_UNITS * torch.finfo(dtype).eps

    def size(self, rows: Tensor) -> Tensor:
        """The norm of each row (b, n) -> (b,). As two passes: `vector_norm` and `aminmax` by row are slow."""
        return rows.abs().sum(1) if self.adjoint else rows.abs().amax(1)

    def size_(self, rows: Tensor) -> Tensor:
        """The same, which leaves the magnitudes in `rows`."""
        return rows.abs_().sum(1) if self.adjoint else rows.abs_().amax(1)

    def limit(self, x: Tensor) -> Tensor:
        """The largest residual (b,) with which rows x are done."""
        size = self.size(x)
        return (size if self.adjoint else size.clamp_(min=1.0)).mul_(self.tolerance)

    def relative(self, size: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Residuals, relative to the scale that a limit belongs to; 0 / 0 = 0, as for a zero gradient."""
        with np.errstate(all="ignore"):
            return np.where(size == 0, size, size / limit * self.tolerance)

    def result(self, x: Tensor, image: Tensor) -> Tensor:
        """What is returned once x has been measured against its image f(x)."""
        return image if self.contracts else x
