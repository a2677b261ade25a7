"""When residuals are looked at, and what is concluded from them."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers.base import Equation, Norm, Solver

# A residual has fallen if it is this much below the best so far: Picard with a rate of 0.999 falls
# by more in FLOOR_PATIENCE steps.
PROGRESS = 0.99
FLOOR_PATIENCE = 16
# A residual that rests within so many times the noise of f consists of noise. Solvers amplify it:
# in steady state Picard by 1 + κ at most, accelerated ones by more.
NOISE_FACTOR = 16
# Above this many units of rounding noise is not looked for, which would cost an evaluation of f.
NOISE_LIMIT = 1e4
# Without a proof of convergence, a solve ends that made no progress in so many steps, or in the
# second half of all steps. Long chains of states may rest for as many sweeps as they have links.
STALL_PATIENCE = 200

_GOING_ON = -1


class Watch:
    """The residuals of the samples that are still in the solve, and the results of those that have left.

    Each sample has its own schedule of checks, made from its own residuals: at the first two
    steps, then where its rate predicts that it is done. A residual that is known by chance,
    because another sample is looked at, is not used. So no sample depends on another.
    """

    def __init__(self, solver: Solver, norm: Norm, x: Tensor, proved: bool) -> None:
        self.solver, self.norm, self.proved = solver, norm, proved
        self.tolerance = solver.tolerance_for(x.dtype)
        self.eps = torch.finfo(x.dtype).eps
        self.batch = x.shape[0]
        self.next_check = 1
        self.places: Tensor | None = None  # of the present samples in the whole batch; None: all of them
        self.alive = self.batch  # how many of the present ones go on
        self.relative = norm.relative(x, x)  # overwritten at the first check
        self.ended = torch.full_like(self.relative, _GOING_ON, dtype=torch.int8)
        self.previous, self.best = (torch.full_like(self.relative, torch.nan) for _ in range(2))
        self.best.fill_(torch.inf)
        self.remaining = self.previous.clone()
        self.previous_step, self.best_step, self.tested_step, self.due, self.ended_step = (
            torch.zeros_like(self.ended, dtype=torch.int64) for _ in range(5)
        )
        self._results: tuple[Tensor, ...] = ()

    # -- looking ---------------------------------------------------------------------------------

    def look(self, equation: Equation, x: Tensor, image: Tensor, residual: Tensor, step: int) -> bool:
        """Judge the samples that are due at this step. Whether the solve is over."""
        self.relative = self.norm.relative(residual, x)
        self.due = self.due.clamp(max=self.solver.last_step)
        looked = (self.due <= step) & (self.ended != Status.NOT_FINITE.value)
        if self.solver.per_sample:
            looked &= self.ended == _GOING_ON
        self._note(looked, step)
        verdict, suspicious = self._judge(step)
        suspicious &= looked
        going_on, next_check, doubt = self._read(torch.where(looked, verdict, self.ended), suspicious)
        if doubt:
            noise = self.noise(equation, x, image)
            floor = suspicious & (self.relative <= NOISE_FACTOR * noise) & (verdict == _GOING_ON)
            verdict = torch.where(floor, Status.FLOOR.value, verdict)
            self.tested_step = torch.where(suspicious, step, self.tested_step)
            going_on, next_check, _ = self._read(torch.where(looked, verdict, self.ended), suspicious)
        self._close(torch.where(looked, verdict, self.ended), x, step)
        self.next_check = max(next_check, step + 1)
        before, self.alive = self.alive, going_on
        if going_on == 0 or step >= self.solver.last_step:
            return True
        if self.solver.per_sample and going_on < before:
            self._file(x, (self.ended != _GOING_ON) & looked)
        return False

    def _note(self, looked: Tensor, step: int) -> None:
        """Rates, predictions and the next check of the samples that are looked at."""
        slope = (self.relative / self.previous).log_() / (step - self.previous_step)
        missing = (self.tolerance / self.relative).log_()
        remaining = torch.where(slope < 0, missing / slope, torch.where(slope >= 0, torch.inf, slope))
        # never further than half as many steps again: rates change
        most = torch.where(remaining < torch.inf, 1 + step // 2, 1 + step // 8)
        ahead = (remaining * self.solver.look_ahead).nan_to_num_(1.0).minimum(most).clamp_(min=1).long()
        self.remaining = torch.where(looked, remaining, torch.nan)
        self.due = torch.where(looked, step + ahead, self.due)
        self.previous = torch.where(looked, self.relative, self.previous)
        self.previous_step = torch.where(looked, step, self.previous_step)
        better = looked & (self.relative < PROGRESS * self.best)
        self.best = torch.where(better, self.relative, self.best)
        self.best_step = torch.where(better, step, self.best_step)

    def _judge(self, step: int) -> tuple[Tensor, Tensor]:
        """What each sample would end with, and which may rest on the floor of the number format."""
        idle = step - self.best_step
        suspicious = (step - self.best_step.maximum(self.tested_step)) >= FLOOR_PATIENCE
        suspicious &= (self.relative <= NOISE_LIMIT * self.eps) & (self.relative > self.tolerance)
        verdict = torch.full_like(self.ended, _GOING_ON)
        if not self.proved:
            stalled = idle >= max(STALL_PATIENCE, step // 2)
            verdict = torch.where(stalled, Status.STALLED.value, verdict)
        verdict = torch.where(self.relative <= self.tolerance, Status.CONVERGED.value, verdict)
        return torch.where(self.relative.isfinite(), verdict, Status.NOT_FINITE.value), suspicious

    def _read(self, ended: Tensor, suspicious: Tensor) -> tuple[int, int, bool]:
        """How many go on, the next check, and whether there are suspicious ones: one transfer."""
        going_on = ended == _GOING_ON
        far = torch.iinfo(torch.int64).max if self.solver.per_sample else 0
        due = torch.where(going_on, self.due, far)
        due = due.amin() if self.solver.per_sample else due.amax()
        count, check, doubt = torch.stack((going_on.sum(), due, suspicious.sum())).tolist()
        return count, check, doubt > 0

    def _close(self, ended: Tensor, x: Tensor, step: int) -> None:
        self.ended_step = torch.where((ended != _GOING_ON) & (self.ended == _GOING_ON), step, self.ended_step)
        self.ended = ended

    def noise(self, equation: Equation, x: Tensor, image: Tensor) -> Tensor:
        """How much rounding may change f(x), relative as the residual is: f is perturbed by one unit of x.

        An error analysis bounds the rounding of f by a few units of Σ |terms|, which is what
        a change of x by one unit with random signs makes visible.
        """
        column = torch.arange(x.shape[1], device=x.device)
        signs = ((column * 2654435761 >> 16) & 1).to(x.dtype).mul_(2).sub_(1)
        moved = equation.f(x * (1 + self.eps * signs))
        return self.norm.relative(moved - image, x).clamp_(min=self.eps)

    # -- results ---------------------------------------------------------------------------------

    def _file(self, x: Tensor, leaving: Tensor) -> None:
        """Keep what the leaving samples ended with."""
        places = leaving.nonzero().squeeze(1)
        rows = places if self.places is None else self.places[places]
        made = (x, self.relative, self.ended_step, self.ended)
        if not self._results:
            x_all = x.new_empty((self.batch, x.shape[1]))
            self._results = (x_all, *(given.new_empty(self.batch) for given in made[1:]))
        for kept, given in zip(self._results, made, strict=True):
            kept.index_copy_(0, rows, given.index_select(0, places))

    def keep(self) -> Tensor | None:
        """The places of the samples that go on, once these are no more than half; None before."""
        if 2 * self.alive > len(self.ended) or not self.solver.per_sample:
            return None
        kept = (self.ended == _GOING_ON).nonzero().squeeze(1)
        self.places = kept if self.places is None else self.places[kept]
        for name in ("relative", "ended", "previous", "best", "remaining"):
            setattr(self, name, getattr(self, name)[kept])
        for name in ("previous_step", "best_step", "tested_step", "due", "ended_step"):
            setattr(self, name, getattr(self, name)[kept])
        return kept

    def solution(self, x: Tensor, step: int) -> Solution:
        """The results of all samples, of which those still present are at x."""
        met = self.relative <= self.tolerance
        if not self.solver.per_sample:  # a sample may have gone on after its own end, and got there
            self.ended = torch.where(met, Status.CONVERGED.value, self.ended)
            ran_on = self.ended != Status.NOT_FINITE.value
            self.ended_step = torch.where(ran_on, step, self.ended_step)
        out_of_steps = self.ended == _GOING_ON
        self.ended = torch.where(out_of_steps, Status.MAX_STEPS.value, self.ended)
        self.ended_step = torch.where(out_of_steps, step, self.ended_step)
        if not self._results:
            return Solution(x, self.relative, self.ended_step, self.ended)
        self._file(x, out_of_steps | (self.ended_step == step))
        return Solution(*self._results)
