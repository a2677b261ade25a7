"""Linear bounds of states applied to rows from behind: what rows of the states are of their slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np

    from implicit_dsl.operators.relaxation import Line, Lines
else:
    np = lazy_module("numpy")


def pulled_back(lines: Lines, used: Sequence[tuple[Line, np.ndarray]], slots: int) -> np.ndarray:
    """Σ part · slope over the lines that are used, each with its part [batch, rows, states] of the rows.

    Returns [batch, rows, slots]. States that read the same set of slots do so by one product of matrices.
    """
    batch, rows = used[0][1].shape[:2]
    k = np.zeros((batch, rows, slots))
    sets = lines.sets
    if sets is not None:
        read, states = sets  # [sets, places] and [sets, states of each]
        made = _sum(_of_sets(line, part, states) for line, part in used)
        k[:, :, read] = made.swapaxes(1, 2)
        return k
    for place, adding in enumerate(lines.adding):
        values = _sum(part * line.slope[:, None, place] for line, part in used)
        if adding is None:
            k[..., lines.index[place]] += values
        else:
            order, places, starts = adding
            k[..., places] += np.add.reduceat(values[..., order], starts, axis=-1)
    return k


def _of_sets(line: Line, part: np.ndarray, states: np.ndarray) -> np.ndarray:
    """[batch, sets, rows, places]."""
    slope = line.slope[:, :, states].transpose(0, 2, 3, 1)  # [batch, sets, states, places]
    return np.asarray(part[:, :, states].swapaxes(1, 2) @ slope)


def _sum(made: Iterator[np.ndarray]) -> np.ndarray:
    """Of new arrays, in the first of them."""
    total = next(made)
    for one in made:
        total += one
    return total
