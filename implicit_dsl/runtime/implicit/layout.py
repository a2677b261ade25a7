"""States as the rows of one matrix (batch, n), and back: by views where there is one state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of the numbers of some states in a row.

    `shapes` are without the batch. A state kept with its channels last in memory has its row in
    that order, so that nothing is copied.
    """

    shapes: tuple[tuple[int, ...], ...]
    channels_last: tuple[bool, ...]

    @staticmethod
    def of(states: Sequence[Tensor], companions: Sequence[Tensor] = ()) -> Layout:
        """The layout of states [batch, *shape].

        Channels are last where a state has them so, or where something of the same rank that
        comes in has: a step then runs in that format from the first sweep on.
        """
        last = {tensor.ndim for tensor in companions if _channels_last(tensor)}
        return Layout(
            tuple(tuple(state.shape[1:]) for state in states),
            tuple(_channels_last(state) or (state.ndim in last and state.ndim == 4) for state in states),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each state has in a row."""
        return tuple(prod(shape) for shape in self.shapes)

    def join(self, states: Sequence[Tensor]) -> Tensor:
        """States [batch, *shape] as rows (batch, n)."""
        batch = len(states[0])
        rows = [
            (state.movedim(1, -1) if last else state).reshape(batch, size)
            for state, last, size in zip(states, self.channels_last, self.sizes)
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Rows (batch, n) as states [batch, *shape]: views."""
        rows = (x,) if len(self.shapes) == 1 else x.split(self.sizes, 1)  # type: ignore[no-untyped-call]
        return tuple(
            row.reshape(len(x), *shape[1:], shape[0]).movedim(-1, 1) if last else row.reshape(len(x), *shape)
            for row, shape, last in zip(rows, self.shapes, self.channels_last)
        )

    def state_at(self, column: int) -> int:
        """The number of the state that a column of the rows belongs to."""
        for number, size in enumerate(self.sizes):
            if column < size:
                return number
            column -= size
        raise AssertionError("a column of no state")


def _channels_last(tensor: Tensor) -> bool:
    """Whether the channels of [batch, channels, height, width] are last in memory, and only so."""
    return (
        tensor.ndim == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def rows_of(tensor: Tensor, index: Tensor) -> Tensor:
    """Some samples of [batch, …], in the memory format of the whole."""
    if _channels_last(tensor):
        return tensor.movedim(1, -1).index_select(0, index).movedim(-1, 1)
    return tensor.index_select(0, index)
