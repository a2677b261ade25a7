"""From entries to cells: how a matrix of any size becomes a picture of about a thousand cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.pictures.spy import Spy

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

MOST_CELLS = 1000
LARGEST_CELL = 40  # pixels, so that a 1 × 1 matrix does not fill the page
MOST_RATIO = 6  # of the long side to the short one, beyond which a picture is but a line


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a matrix as drawn: `entries` of it fall into `cells`, each `pixel` pixels long."""

    entries: int
    cells: int
    pixel: int

    @property
    def length(self) -> int:
        """In pixels."""
        return self.cells * self.pixel

    def edge(self, entry: int) -> int:
        """The pixel at which the cell of an entry begins."""
        return entry * self.cells // max(1, self.entries) * self.pixel

    def cell_of(self) -> np.ndarray:
        """The cell of each entry."""
        return np.arange(self.entries) * self.cells // max(1, self.entries)


def axes(n_rows: int, n_cols: int, most: int = MOST_CELLS, largest: int = LARGEST_CELL) -> tuple[Axis, Axis]:
    """The two axes of a picture: true to scale unless the matrix is more than 6 times as long as wide."""
    short, long = sorted((max(1, n_rows), max(1, n_cols)))
    cells = min(long, most)
    pixel = min(largest, most // cells)
    length = cells * pixel
    wanted = max(length * short // long, -(-length // MOST_RATIO))
    few = min(short, wanted)
    axis_long, axis_short = Axis(long, cells, pixel), Axis(short, few, -(-wanted // few))
    return (axis_long, axis_short) if n_rows >= n_cols else (axis_short, axis_long)


def occupied(spy: Spy, rows: Axis, cols: Axis) -> np.ndarray:
    """The grid of cells [rows.cells, cols.cells]: True where an entry falls."""
    grid = np.zeros(rows.cells * cols.cells, dtype=np.bool_)
    if len(spy.rows):
        # Tables instead of a division for each entry: there may be millions of them.
        grid[(rows.cell_of() * cols.cells)[spy.rows] + cols.cell_of()[spy.cols]] = True
    return grid.reshape(rows.cells, cols.cells)


@dataclass(frozen=True, slots=True)
class Runs:
    """Occupied cells as runs: `length` cells from `first` on, in row (or column) `line`."""

    vertical: bool
    line: np.ndarray
    first: np.ndarray
    length: np.ndarray


def _along_rows(grid: np.ndarray, vertical: bool) -> Runs:
    lines, cells = grid.shape
    framed = np.zeros((lines, cells + 2), dtype=np.bool_)
    framed[:, 1:-1] = grid
    change = np.flatnonzero(framed[:, 1:] != framed[:, :-1])
    starts, ends = change[::2], change[1::2]
    return Runs(vertical, starts // (cells + 1), starts % (cells + 1), ends - starts)


def runs(grid: np.ndarray) -> Runs:
    """The occupied cells as rows or as columns of runs, whichever are fewer."""
    across, down = _along_rows(grid, False), _along_rows(np.ascontiguousarray(grid.T), True)
    return down if len(down.line) < len(across.line) else across


def path(found: Runs) -> str:
    """Path data that strokes each run through the middle of its cells, with a pen one cell wide."""
    if not len(found.line):
        return ""
    size = int(max(found.line.max(), (found.first + found.length).max())) + 1
    # Each number is written once and looked up afterwards: a picture has thousands of runs.
    # Shifting the pen by half a cell is left to the transform, which keeps numbers short.
    lead, follow, pen = ("M{}", " {}", "v{}") if found.vertical else ("M{}", " {}", "h{}")
    words = [np.array([word.format(i) for i in range(size)], dtype=object) for word in (lead, follow, pen)]
    x, y = (found.line, found.first) if found.vertical else (found.first, found.line)
    pieces = np.stack([words[0][x], words[1][y], words[2][found.length]], axis=1)
    return "".join(pieces.ravel().tolist())
