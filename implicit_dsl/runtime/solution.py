"""What a solver found: the last iterate of each sample, its residual, and how the solve ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class Status(Enum):
    """How the solve of a sample ended, from best to worst. The values are those of `Solution.status`."""

    CONVERGED = 0
    COUNTED = 1
    FLOOR = 2
    MAX_STEPS = 3
    STALLED = 4
    NOT_FINITE = 5

    @property
    def solved(self) -> bool:
        """Whether the result is as good as was asked, or as the number format allows."""
        return self.value <= Status.FLOOR.value

    @property
    def meaning(self) -> str:
        """What happened, in a few words."""
        return _MEANINGS[self]

    @property
    def advice(self) -> str:
        """What to do about it; empty if nothing."""
        return _ADVICE[self]


_MEANINGS = {
    Status.CONVERGED: "the residual is within the tolerance",
    Status.COUNTED: "as many steps as are proved to suffice were made",
    Status.FLOOR: "the residual is as small as rounding allows, which is above the tolerance",
    Status.MAX_STEPS: "the steps ran out before the residual was within the tolerance",
    Status.STALLED: "the residual does not fall any more, and is far above what rounding explains",
    Status.NOT_FINITE: "the iterates are not finite",
}

_ADVICE = {
    Status.CONVERGED: "",
    Status.COUNTED: "",
    Status.FLOOR: "raise the tolerance, or compute in a wider number format",
    Status.MAX_STEPS: "allow more steps (maxiter) or a larger residual (tol), choose another solver "
    "(anderson, broyden, newton), or bound the weights of the loop with @wellposed",
    Status.STALLED: "make the loop well posed with @wellposed, or choose a solver that needs less of it, "
    "such as newton",
    Status.NOT_FINITE: "look for inputs or weights that are not finite; if there are none, the iteration "
    "diverges: make the loop well posed with @wellposed",
}


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The result of a solve, for each sample.

    x         (batch, n)  the last iterate
    residual  (batch,)    ‖x − f(x)‖ of that x, relative as the tolerance is; float64, or float32 where
                          the device has no wider format
    steps     (batch,)    int64: steps made; for NOT_FINITE the step at which that was found
    status    (batch,)    int8: values of `Status`

    The properties read from the device.
    """

    x: Tensor
    residual: Tensor
    steps: Tensor
    status: Tensor

    @property
    def worst_status(self) -> Status:
        """The worst way in which a sample ended; CONVERGED for no samples."""
        return Status(int(self.status.max())) if self.status.numel() else Status.CONVERGED

    @property
    def solved(self) -> bool:
        """Whether every sample is."""
        return self.worst_status.solved

    @property
    def worst_residual(self) -> float:
        """The largest residual, nan if there is one; 0 for no samples."""
        return float(self.residual.max()) if self.residual.numel() else 0.0

    @property
    def most_steps(self) -> int:
        """The steps of the sample that took the most."""
        return int(self.steps.max()) if self.steps.numel() else 0

    @property
    def mean_steps(self) -> float:
        """The mean over samples; 0 for no samples."""
        return float(self.steps.to(torch.float64).mean()) if self.steps.numel() else 0.0

    def count(self, status: Status) -> int:
        """How many samples ended so."""
        return int((self.status == status.value).sum())
