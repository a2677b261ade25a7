"""What a solve over rows has found."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.goal import FLOOR_UNITS
from implicit_dsl.runtime.solution import Solution, Status

# Relative residual and steps of each row (batch,), or numbers if they are the same for all.
Report: TypeAlias = tuple[Tensor | float, Tensor | int]


class Found(NamedTuple):
    """x (batch, n), with what there is to tell of it: `report` is made when it is asked for.

    `norm` is ‖A‖ = max_i Σ_j |A_ij| where it was computed on the way. `counted`: the residual is
    the one that is proved, and was not measured. `worst`: no residual is above it; None: not known.
    `away` (batch,): rows whose residual is small only beside an x that runs away; None: there are none.
    """

    x: Tensor
    report: Callable[[], Report]
    norm: float | None = None
    counted: bool = False
    worst: float | None = None
    away: Tensor | None = None

    def solved(self, tolerance: float) -> bool:
        """Whether every row is within the tolerance. May read from the device."""
        if self.away is not None:
            return False
        if self.worst is not None:
            return self.worst <= tolerance
        residual, _ = self.report()
        return bool(residual.max() <= tolerance) if isinstance(residual, Tensor) else residual <= tolerance

    def rows(self) -> tuple[Tensor, Tensor]:
        """Residual (batch,) in the dtype of x, and steps (batch,)."""
        residual, steps = self.report()
        like = torch.empty(len(self.x), dtype=self.x.dtype, device=self.x.device)
        made = torch.as_tensor(steps, dtype=torch.int64, device=like.device).expand(like.shape)
        return torch.as_tensor(residual, dtype=like.dtype, device=like.device).expand(like.shape), made

    def solution(self, tolerance: float) -> Solution:
        """The same with a status for each row."""
        residual, steps = self.rows()
        status = torch.full(residual.shape, Status.MAX_STEPS.value, dtype=torch.int8, device=residual.device)
        status[residual <= FLOOR_UNITS * torch.finfo(self.x.dtype).eps] = Status.FLOOR.value
        status[residual <= tolerance] = Status.COUNTED.value if self.counted else Status.CONVERGED.value
        status[~residual.isfinite()] = Status.NOT_FINITE.value
        if self.away is not None:
            status[self.away] = Status.STALLED.value
        return Solution(self.x, residual.double(), steps, status)


def found_row(x: Tensor, residual: float, steps: int) -> Found:
    """One row, with its numbers."""
    return Found(x, lambda: (residual, steps), worst=residual)
