"""What a solve over rows has found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.goal import FLOOR_UNITS
from implicit_dsl.runtime.solution import Solution, Status


class Found(NamedTuple):
    """x (batch, n) with the relative residual and the steps of each row, as numbers if they are all equal.

    `norm` is ‖A‖ = max_i Σ_j |A_ij| where it was computed on the way. `counted`: the residual is
    the one that is proved, and was not measured. `worst`: the largest residual, where it is known.
    """

    x: Tensor
    residual: Tensor | float
    steps: Tensor | int  # of any dtype
    norm: float | None = None
    counted: bool = False
    worst: float | None = None

    def solved(self, tolerance: float) -> bool:
        """Whether every row is within the tolerance. Reads from the device."""
        if self.worst is not None:
            return self.worst <= tolerance
        if isinstance(self.residual, Tensor):
            return bool(self.residual.max() <= tolerance)
        return self.residual <= tolerance

    def solution(self, tolerance: float) -> Solution:
        """The same with a status for each row."""
        batch, device = len(self.x), self.x.device
        residual = torch.as_tensor(self.residual, dtype=torch.float64, device=device).expand(batch)
        steps = torch.as_tensor(self.steps, dtype=torch.int64, device=device).expand(batch)
        status = torch.full((batch,), Status.MAX_STEPS.value, dtype=torch.int8, device=device)
        status[residual <= FLOOR_UNITS * torch.finfo(self.x.dtype).eps] = Status.FLOOR.value
        status[residual <= tolerance] = Status.COUNTED.value if self.counted else Status.CONVERGED.value
        status[~residual.isfinite()] = Status.NOT_FINITE.value
        return Solution(self.x, residual, steps, status)
