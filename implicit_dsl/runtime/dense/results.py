"""Which rows of a batch are done, with what result."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.rows import Rows


class Results:
    """The results of the rows that have left. Row numbers are those of the whole batch.

    A row leaves at the first check that it passes and is not touched again, so that its
    result depends on no other row.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self._x: Tensor | None = None
        self._residual: Tensor | None = None
        self._steps: Tensor | None = None

    def open(self, like: Tensor) -> None:
        """Make room for the rows of `like` (batch, n)."""
        self._x = torch.empty_like(like)
        self._residual = like.new_full((len(like),), float("inf"))
        self._steps = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def enter_all(self, x: Tensor, size: Tensor, scale: Tensor, step: int) -> None:
        """Enter a result for every row at once; nothing is copied."""
        self._x, self._residual = x, relative(size, scale)
        self._steps = torch.full((len(x),), step, dtype=torch.int64, device=x.device)

    def enter(self, numbers: Tensor, x: Tensor, size: Tensor, scale: Tensor, step: int) -> None:
        """Enter a result for the rows of these numbers."""
        self.x.index_copy_(0, numbers, x)
        self.residual.index_copy_(0, numbers, relative(size, scale))
        self.steps.index_fill_(0, numbers, step)

    def found(self) -> Found:
        """All results."""
        return Found(self.x, self.residual, self.steps)

    @property
    def empty(self) -> bool:
        """Whether nothing has been entered."""
        return self._x is None

    @property
    def x(self) -> Tensor:
        assert self._x is not None
        return self._x

    @property
    def residual(self) -> Tensor:
        assert self._residual is not None
        return self._residual

    @property
    def steps(self) -> Tensor:
        assert self._steps is not None
        return self._steps


class Front:
    """The rows of a batch that are still in the products, and which of them are still wanted."""

    def __init__(self, rows: Rows, results: Results, numbers: Tensor | None = None) -> None:
        self.rows, self.results = rows, results
        self.numbers = numbers  # in the batch; None: all of them, in order
        self.wanted: Tensor | None = None  # those that have not left; None: all
        self.left = 0
        self.before: Tensor | None = None  # sizes at the last check, where the floor may be reached

    def leave(self, size: Tensor, scale: Tensor, result: Tensor, step: int) -> bool:
        """Let the rows go whose residual is small enough, or not finite. Whether none remains."""
        goal = self.results.goal
        going_on = (size > goal.tolerance * scale) & (size < float("inf"))
        if goal.tolerance < goal.floor(size.dtype):
            if self.before is not None:
                going_on &= (size > goal.floor(size.dtype) * scale) | (size < self.before)
            self.before = size
        if self.wanted is not None:
            going_on &= self.wanted
        remaining = int(going_on.sum())
        if remaining < len(size) - self.left:
            leaving = None if remaining == 0 and self.wanted is None else going_on.logical_not()
            if leaving is not None and self.wanted is not None:
                leaving &= self.wanted
            self._enter(leaving, size, scale, result, step)
            self.wanted, self.left = going_on, len(size) - remaining
        return remaining == 0

    def suspend(self, size: Tensor, scale: Tensor, result: Tensor, step: int) -> Tensor:
        """Enter the rows that have not left as they are. Their numbers."""
        return self._enter(self.wanted, size, scale, result, step)

    def drop(self, share: int) -> Tensor | None:
        """Drop the rows that have left once they are 1 / share of all. Places of those that stay."""
        if self.wanted is None or self.left * share < len(self.wanted):
            return None
        kept = self.wanted.nonzero().squeeze(1)
        self.numbers = kept if self.numbers is None else self.numbers.index_select(0, kept)
        self.rows = self.rows.take(kept)
        self.before = None if self.before is None else self.before.index_select(0, kept)
        self.wanted, self.left = None, 0
        return kept

    def _enter(self, chosen: Tensor | None, size: Tensor, scale: Tensor, result: Tensor, step: int) -> Tensor:
        """Enter the chosen rows, or all, in the results. Their numbers."""
        if chosen is None and self.numbers is None:
            self.results.enter_all(result, size, scale, step)
            return torch.arange(len(result), device=result.device)
        if self.results.empty:
            self.results.open(result)
        numbers = self.numbers
        if chosen is not None:
            places = chosen.nonzero().squeeze(1)
            result, size, scale = (given.index_select(0, places) for given in (result, size, scale))
            numbers = places if numbers is None else numbers.index_select(0, places)
        assert numbers is not None
        self.results.enter(numbers, result, size, scale, step)
        return numbers


def relative(size: Tensor, scale: Tensor) -> Tensor:
    """size / scale, and 0 / 0 = 0: the adjoint of a zero gradient is zero."""
    return torch.where(size == 0, size, size / scale)
