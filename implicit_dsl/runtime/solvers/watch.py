"""When residuals are looked at, and what is concluded from them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers.base import Equation, Norm, Solver

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

# A residual has fallen if it is this much below the best so far: Picard with a rate of 0.999 falls
# by more in the 16 steps of its patience.
PROGRESS = 0.99
# A residual that rests within so many times the noise of f consists of noise. Solvers amplify it:
# in steady state Picard by 1 + κ at most, accelerated ones by more.
NOISE_FACTOR = 16
# Above this many units of rounding noise is not looked for, which would cost an evaluation of f.
NOISE_LIMIT = 1e4
# From so many unknowns on f costs far more than a look: none is left out.
LARGE = 1 << 12
# Iterates that have grown by less do not run away.
GROWTH = 2.0
# Of the first residual: one that is larger has not fallen, in some directions at least.
FALLEN = 0.1

GOING_ON = -1


@dataclass(slots=True)
class Rows:
    """What is known of each sample (b,) that is still present. On the host: one transfer for each check.

    The numbers of steps belong to: the last look, the best residual, the last test for noise, the
    next look, and the end.
    """

    relative: np.ndarray  # residual at the last check, whoever it was for
    scale: np.ndarray  # what it is relative to
    first: np.ndarray  # the residual of the start, not relative
    first_scale: np.ndarray
    previous: np.ndarray  # and at the last one for this sample
    best: np.ndarray
    remaining: np.ndarray  # steps to go by its rate, if it was looked at in the last check, otherwise nan
    ended: np.ndarray  # a value of Status, or GOING_ON
    looked_step: np.ndarray
    best_step: np.ndarray
    tested_step: np.ndarray
    due: np.ndarray
    ended_step: np.ndarray

    @staticmethod
    def new(batch: int) -> Rows:
        relative, scale, first, first_scale, previous, remaining = (np.full(batch, np.nan) for _ in range(6))
        best = np.full(batch, np.inf)
        ended = np.full(batch, GOING_ON, np.int8)
        looked, best_step, tested, due, ended_step = (np.zeros(batch, np.int64) for _ in range(5))
        return Rows(
            relative, scale, first, first_scale, previous, best, remaining,
            ended, looked, best_step, tested, due, ended_step,
        )  # fmt: skip

    def take(self, places: np.ndarray) -> Rows:
        """Only the samples at these places."""
        return Rows(*(getattr(self, field.name)[places] for field in fields(Rows)))


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
        self.every_step = solver.reads_image and x.shape[1] >= LARGE
        self.next_check = 1
        self.rows = Rows.new(x.shape[0])
        self._places: np.ndarray | None = None  # of the rows in the whole batch; None: all of them
        self._all: Rows | None = None  # of the whole batch, once a sample has left
        self._x: Tensor | None = None

    # -- looking ---------------------------------------------------------------------------------

    def look(self, equation: Equation, x: Tensor, image: Tensor, measured: Tensor, step: int) -> bool:
        """Judge the samples that are due, by what `Norm.relative` says. Whether the solve is over."""
        rows = self.rows
        rows.relative, rows.scale = measured.to("cpu", torch.float64).numpy()
        if step == 1:
            rows.first, rows.first_scale = rows.relative * rows.scale, rows.scale
        looked = rows.due <= step
        looked &= (
            (rows.ended == GOING_ON) if self.solver.per_sample else (rows.ended != Status.NOT_FINITE.value)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            self._note(looked, step)
            verdict = self._judge(step)
        short = looked & ((verdict == GOING_ON) | (verdict == Status.STALLED.value))
        suspicious = short & (step - np.maximum(rows.best_step, rows.tested_step) >= self.solver.patience)
        suspicious &= (rows.relative <= NOISE_LIMIT * self.eps) & ~self._run_away()
        if suspicious.any():
            noise = self.noise(equation, x, image).to("cpu", torch.float64).numpy()
            verdict[suspicious & (rows.relative <= NOISE_FACTOR * noise)] = Status.FLOOR.value
            rows.tested_step[suspicious] = step
        # all go on to the end: what a sample was found to be stays, unless it gets better or worse
        stays = (verdict == GOING_ON) & (rows.ended > Status.CONVERGED.value)
        verdict[stays] = rows.ended[stays]
        ending = looked & (verdict != GOING_ON)
        rows.ended_step[ending & (rows.ended == GOING_ON)] = step
        rows.ended[looked] = verdict[looked]
        return self._plan(x, ending, step)

    def _note(self, looked: np.ndarray, step: int) -> None:
        """Rates, predictions and the next look of the samples that are looked at."""
        rows = self.rows
        slope = np.log(rows.relative / rows.previous) / (step - rows.looked_step)
        remaining = np.log(self.tolerance / rows.relative) / slope
        remaining[slope >= 0] = np.inf
        rows.remaining = np.where(looked, remaining, np.nan)
        # never further than half as many steps again: rates change
        most = np.where(np.isinf(remaining), 1 + step // 8, 1 + step // 2)
        ahead = np.fmax(1, np.fmin(remaining * self.solver.look_ahead, most)).astype(np.int64)
        ahead[np.isnan(slope) | self.every_step] = 1
        better = looked & (rows.relative < PROGRESS * rows.best)
        # those that are not looked at before the last step are looked at then
        rows.due[looked] = np.minimum(step + ahead, self.solver.last_step)[looked]
        rows.previous[looked] = rows.relative[looked]
        rows.looked_step[looked] = step
        rows.best[better] = rows.relative[better]
        rows.best_step[better] = step

    def _judge(self, step: int) -> np.ndarray:
        """What each sample would end with now."""
        rows = self.rows
        verdict = np.full_like(rows.ended, GOING_ON)
        if not self.proved:
            longest = max(self.solver.endurance, step // 2)
            verdict[step - rows.best_step >= longest] = Status.STALLED.value
        verdict[self._converged()] = Status.CONVERGED.value
        verdict[~np.isfinite(rows.relative)] = Status.NOT_FINITE.value
        return verdict

    def _converged(self) -> np.ndarray:
        """Which residuals are within the tolerance."""
        return np.asarray((self.rows.relative <= self.tolerance) & ~self._run_away())

    def _run_away(self) -> np.ndarray:
        """Which iterates have grown while their residual, as far as rounding shows it, has not fallen.

        Relative to these, as to those of z + 1, the residual falls below any tolerance.
        """
        rows = self.rows
        grown = rows.scale > GROWTH * np.maximum(rows.first_scale, 1.0)
        return np.asarray(grown & (np.maximum(rows.relative, self.eps) * rows.scale >= FALLEN * rows.first))

    def _plan(self, x: Tensor, ending: np.ndarray, step: int) -> bool:
        """When to look next. Whether the solve is over; if not, the results of samples that end are kept."""
        going_on = self.rows.ended == GOING_ON
        if not going_on.any() or step >= self.solver.last_step:
            return True
        due = self.rows.due[going_on]
        # all end together: not before the last of them
        self.next_check = max(step + 1, int(due.min() if self.solver.per_sample else due.max()))
        if self.solver.per_sample and ending.any():
            self._keep_results(x, ending)
        return False

    def noise(self, equation: Equation, x: Tensor, image: Tensor) -> Tensor:
        """How much rounding may change f(x), relative as the residual is: f is perturbed by one unit of x.

        An error analysis bounds the rounding of f by a few units of Σ |terms|, which is what
        a change of x by one unit with random signs makes visible.
        """
        column = torch.arange(x.shape[1], device=x.device)
        signs = ((column * 2654435761 >> 16) & 1).to(x.dtype).mul_(2).sub_(1)
        moved = equation.f(x * (1 + self.eps * signs))
        return self.norm.relative(moved - image, x)[0].clamp_(min=self.eps)

    def remaining(self, like: Tensor) -> Tensor:
        """How many steps each sample has to go by its own rate: see `Point.remaining`."""
        return torch.from_numpy(self.rows.remaining).to(like.device, torch.float32)

    # -- results ---------------------------------------------------------------------------------

    def leave(self) -> Tensor | None:
        """The places of the samples that go on, once these are no more than half; None before."""
        going_on = self.rows.ended == GOING_ON
        if not self.solver.per_sample or 2 * going_on.sum() > len(going_on):
            return None
        kept = going_on.nonzero()[0]
        self._places = kept if self._places is None else self._places[kept]
        self.rows = self.rows.take(kept)
        return torch.from_numpy(kept)

    def _keep_results(self, x: Tensor, leaving: np.ndarray) -> None:
        """Keep what the leaving samples ended with."""
        if self._x is None or self._all is None:
            self._x, self._all = torch.empty_like(x), Rows.new(len(leaving))
        places = leaving.nonzero()[0]
        into = places if self._places is None else self._places[places]
        index, from_index = (torch.from_numpy(given).to(x.device) for given in (into, places))
        self._x.index_copy_(0, index, x.index_select(0, from_index))
        for name in ("relative", "ended", "ended_step"):
            getattr(self._all, name)[into] = getattr(self.rows, name)[places]

    def solution(self, x: Tensor, step: int) -> Solution:
        """The results of all samples, of which those still present are at x."""
        rows = self.rows
        if (
            not self.solver.per_sample
        ):  # all went on to this step, and some may have got there after their end
            rows.ended[self._converged()] = Status.CONVERGED.value
            rows.ended_step[rows.ended != Status.NOT_FINITE.value] = step
        out_of_steps = rows.ended == GOING_ON
        rows.ended[out_of_steps] = Status.MAX_STEPS.value
        rows.ended_step[out_of_steps] = step
        if self._x is not None and self._all is not None:
            self._keep_results(x, rows.ended_step == step)
            x, rows = self._x, self._all
        found = (rows.relative, rows.ended_step, rows.ended)
        return Solution(x, *(torch.from_numpy(given).to(x.device) for given in found))
