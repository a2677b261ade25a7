"""Which rows of a batch are done, with what result. What is known of rows is kept on the host."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.rows import Rows

Figures: TypeAlias = "np.ndarray"  # one for each row
_LEFT = -1e30  # the limit of a row that has left: never reached, and finite


class Check(NamedTuple):
    """The residuals (rows,) at a step."""

    size: Figures
    step: int


class Entry(NamedTuple):
    """Rows that have left: their numbers (None: all), residuals with their limits, and steps."""

    numbers: Figures | None
    size: Figures
    limit: Figures
    steps: Figures | int


class Results:
    """The results of the rows that have left. Row numbers are those of the whole batch.

    A row leaves at the first check that it passes and is not touched again, so that its
    result depends on no other row.
    """

    def __init__(self, goal: Goal, batch: int) -> None:
        self.goal, self.batch = goal, batch
        self.x: Tensor | None = None
        self.solved = True  # as long as no row has left for another reason
        self._entries: list[Entry] = []

    def enter(
        self, numbers: Figures | None, x: Tensor, size: Figures, limit: Figures, steps: Figures | int
    ) -> None:
        """Enter a result for the rows of these numbers; None: for all, and nothing is copied."""
        if numbers is None:
            self.x, self._entries = x, []
        else:
            if self.x is None:
                self.x = x.new_empty((self.batch, x.shape[1]))
            self.x.index_copy_(0, on_device(numbers, x), x)
        self._entries.append(Entry(numbers, size, limit, steps))

    def found(self) -> Found:
        """All results."""
        assert self.x is not None
        return Found(self.x, self._report, worst=self.goal.tolerance if self.solved else None)

    def _report(self) -> tuple[Tensor, Tensor]:
        assert self.x is not None
        residual, steps = np.full(self.batch, np.nan), np.zeros(self.batch, dtype=np.int64)
        for numbers, size, limit, made in self._entries:
            chosen = slice(None) if numbers is None else numbers
            residual[chosen], steps[chosen] = self.goal.relative(size, limit), made
        return torch.from_numpy(residual), torch.from_numpy(steps)


class Front:
    """Rows that are iterated together, and which of them are still wanted."""

    def __init__(self, rows: Rows, results: Results, numbers: Figures | None = None) -> None:
        self.rows, self.results, self.goal = rows, results, results.goal
        self.numbers = numbers  # in the batch; None: all of them, in order
        self.present = self.remaining = rows.c.shape[0]
        self.limit: Figures | None = None  # residual of each row below which a closer look pays
        self.check: Check | None = None  # the last
        dtype = rows.c.dtype
        self.floor = self.goal.floor(dtype) if self.goal.tolerance < self.goal.floor(dtype) else 0.0

    def look(self, size: Figures, x: Tensor, image: Tensor, step: int) -> bool:
        """Let the rows go whose residual is small enough, or not finite. Whether none remains.

        What residuals are relative to is computed only for rows that may be done, from one earlier
        look: that is three passes less over x in most looks.
        """
        goal, before = self.goal, self.check
        self.check = Check(size, step)
        if self.limit is None:
            self.limit = on_host(goal.limit(goal.result(x, image)))
        far = size > self.limit
        if far.all() and size.max() < np.inf and not self.floor:
            return False
        result = goal.result(x, image)
        limit = on_host(goal.limit(result))
        wanted = self.wanted
        near = ~far & wanted  # and those that are not finite
        leaving = near & ~(size > limit)
        lost = ~(size < np.inf) & wanted  # for good
        if lost.any():
            self.results.solved = False
            leaving |= lost
        if self.floor and before is not None:
            noisy = wanted & (size <= self.floor / goal.tolerance * limit) & (size >= before.size)
            self.results.solved &= not noisy.any()
            leaving |= noisy
        self.limit = np.where(near, limit, self.limit)
        count = int(np.count_nonzero(leaving))
        if count:
            self._enter(leaving if count < self.present else None, result, size, limit, step)
            self.remaining -= count
            self.limit[leaving] = _LEFT
        return self.remaining == 0

    @property
    def wanted(self) -> Figures:
        """Which rows have not left; a limit that is no number is that of one."""
        assert self.limit is not None
        return ~(self.limit < 0)

    def suspend(self, x: Tensor, image: Tensor) -> None:
        """Enter the rows that have not left as they are."""
        assert self.check is not None
        (size, step), result = self.check, self.goal.result(x, image)
        self.results.solved = False
        wanted = None if self.remaining == self.present else self.wanted
        self._enter(wanted, result, size, on_host(self.goal.limit(result)), step)

    def drop(self, share: float) -> Tensor | None:
        """Drop the rows that have left once they are that share of all. Places of those that stay."""
        if self.limit is None or self.remaining == self.present:
            return None
        if self.present - self.remaining < share * self.present:
            return None
        return self.keep(np.flatnonzero(self.wanted))

    def keep(self, kept: Figures) -> Tensor:
        """Only the rows at these places from now on: the places, for their tensors."""
        places = on_device(kept, self.rows.c)
        self.numbers = kept if self.numbers is None else self.numbers[kept]
        self.rows = self.rows.take(places)
        self.limit = None if self.limit is None else self.limit[kept]
        self.check = None if self.check is None else Check(self.check.size[kept], self.check.step)
        self.present = self.remaining = len(kept)
        return places

    def piece(self, first: int, last: int) -> Front:
        """The rows from one place to before another; nothing is copied."""
        numbers = np.arange(first, last) if self.numbers is None else self.numbers[first:last]
        return Front(self.rows.between(first, last), self.results, numbers)

    def _enter(
        self, chosen: Figures | None, result: Tensor, size: Figures, limit: Figures, step: int
    ) -> None:
        """Enter the chosen rows, or all that are present, in the results."""
        numbers = self.numbers
        if chosen is not None:
            places = np.flatnonzero(chosen)
            result = result.index_select(0, on_device(places, result))
            size, limit = size[places], limit[places]
            numbers = places if numbers is None else numbers[places]
        self.results.enter(numbers, result, size, limit, step)


def on_host(values: Tensor) -> Figures:
    """Values (rows,) as an array. It waits for the device."""
    return np.asarray(values.cpu().numpy() if values.device.type != "cpu" else values.numpy())


def on_device(places: Figures, like: Tensor) -> Tensor:
    """Places, or what is known of rows, where a tensor is."""
    made = torch.from_numpy(places)
    return made if like.device.type == "cpu" else made.to(like.device)
