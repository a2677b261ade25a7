"""When acceleration rests, because a sample makes no progress with it."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.base import Point
from implicit_dsl.runtime.solvers.picard import average

# Steps without progress, after which a sample goes on by plain averaged steps, and for how many at
# first. Each rest is twice as long as the one before: what plain steps reach is reached in the end, also
# behind a plateau that acceleration would leave again and again.
PATIENCE = STAMINA_REST = 40
STAMINA_PROGRESS = 0.99
RESTING_DAMPING = 0.5


class Stamina:
    """The smallest residual of each sample (b,) since it last began to accelerate, and whether it rests."""

    def __init__(self, start: Tensor) -> None:
        self.best = start.new_full((start.shape[0],), torch.inf, dtype=torch.float32)
        self.best_step = torch.zeros_like(self.best, dtype=torch.int64)
        self.until = self.best_step.clone()  # it rests before this step
        self.length = torch.full_like(self.best_step, STAMINA_REST)  # of its next rest

    def take(self, places: Tensor) -> None:
        """Keep only the samples at these places."""
        self.best, self.best_step = self.best[places], self.best_step[places]
        self.until, self.length = self.until[places], self.length[places]

    def spend(self, size: Tensor, step: int, accelerated: Tensor | None = None) -> None:
        """Note the sizes (b,) of the residuals at this step; samples that are not accelerated do not tire."""
        size = size.to(self.best.dtype)
        better = size < STAMINA_PROGRESS * self.best  # false for nan
        if accelerated is not None:
            better |= ~accelerated
        self.best = torch.where(better, size, self.best)
        self.best_step = torch.where(better, step, self.best_step)
        tired = step - self.best_step > PATIENCE
        self.until = torch.where(tired, step + self.length, self.until)
        self.length = torch.where(tired, 2 * self.length, self.length)
        self.best = torch.where(tired, torch.inf, self.best)
        self.best_step = torch.maximum(self.best_step, self.until)  # its patience is new after a rest

    def rests(self, step: int) -> Tensor:
        """Which samples rest at this step, (b,)."""
        return step < self.until

    def choose(self, accelerated: Tensor, point: Point, averaging: float) -> Tensor:
        """The accelerated step (b, n), or an averaged one for the samples that rest."""
        if point.step <= PATIENCE:  # nobody is tired yet
            return accelerated
        resting = self.rests(point.step)[:, None]
        return torch.where(resting, average(point, RESTING_DAMPING * averaging), accelerated)
