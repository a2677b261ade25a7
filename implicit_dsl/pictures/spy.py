"""What a picture of a matrix shows: where its entries stand, and which blocks its axes are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import Layout, Partition, partition
from implicit_dsl.model import ImplicitModel

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Blocks: TypeAlias = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Spy:
    """A pattern of n_rows × n_cols with entries at (rows, cols), and the named blocks of its axes.

    `note` is said in the caption. `quadrants` are the numbers of row and column blocks that
    belong to A where the picture is the whole of [A B; C D]; (0, 0) otherwise. `loops` are the
    parts of A in which states read one another in circles: first row, row behind, first column,
    column behind.
    """

    title: str
    rows: np.ndarray
    cols: np.ndarray
    n_rows: int
    n_cols: int
    row_blocks: Blocks
    col_blocks: Blocks
    note: str = ""
    quadrants: tuple[int, int] = (0, 0)
    loops: tuple[tuple[int, int, int, int], ...] = ()

    def __post_init__(self) -> None:
        axes = (("row", self.row_blocks, self.n_rows), ("column", self.col_blocks, self.n_cols))
        for what, blocks, size in axes:
            total = sum(extent for _, extent in blocks)
            if blocks and total != size:
                raise ValueError(
                    f"the {what} blocks have {total} entries together, but the matrix has {size}"
                )
        if len(self.rows) != len(self.cols):
            raise ValueError(f"{len(self.rows)} row numbers, but {len(self.cols)} column numbers")

    @property
    def density(self) -> float:
        """The share of places that hold an entry."""
        places = self.n_rows * self.n_cols
        return len(self.rows) / places if places else 0.0


_EQUATIONS = {"A": "x = φ(Ax + Bu)", "B": "x = φ(Ax + Bu)", "C": "y = Cx + Du", "D": "y = Cx + Du"}


def spy_of(model: ImplicitModel, matrix: Literal["A", "B", "C", "D", "all"] = "A") -> Spy:
    """Where a matrix of the model has entries, or the whole of [A B; C D]; the last state stands first.

    Needs no weights. Raises ValueError if a size of the model is free, or if there is no such matrix.
    """
    if model.free:
        name, axis = model.free[0]
        raise ValueError(
            f"axis {axis + 1} of `{name}` is free: give its size, such as bind({{'{name}': (…)}})"
        )
    pooled = any(block.slots != block.shape for block in model.states)
    note = "rows are slots of z = Ax + Bu, columns are states" if pooled and matrix in ("A", "all") else ""
    if matrix == "all":
        return _whole(model, note)
    layout = Layout.of(model, matrix)
    rows, cols = _places(layout)
    title = f"{matrix} of {model.name}  ·  {_EQUATIONS[matrix]}"
    height, width = layout.shape
    loops = _loops(model) if matrix == "A" else ()
    return Spy(
        title, rows, cols, height, width, _blocks(layout.rows), _blocks(layout.cols), note, loops=loops
    )


def _whole(model: ImplicitModel, note: str) -> Spy:
    slots, states = partition(model, "slots"), partition(model, "states")
    outputs, inputs = partition(model, "outputs"), partition(model, "inputs")
    rows, cols = [], []
    for matrix, below, beside in (("A", 0, 0), ("B", 0, 1), ("C", 1, 0), ("D", 1, 1)):
        down, across = _places(Layout.of(model, matrix))
        rows.append(down + below * slots.total)
        cols.append(across + beside * states.total)
    return Spy(
        f"[A B; C D] of {model.name}  ·  x = φ(Ax + Bu), y = Cx + Du",
        np.concatenate(rows),
        np.concatenate(cols),
        slots.total + outputs.total,
        states.total + inputs.total,
        _blocks(slots) + _blocks(outputs),
        _blocks(states) + _blocks(inputs),
        note,
        (len(slots.names), len(states.names)),
        _loops(model),
    )


def _loops(model: ImplicitModel) -> tuple[tuple[int, int, int, int], ...]:
    """Where the loops stand: their states are neighbours in any solvable order."""
    found = []
    for loop in model.loops:
        sides = []
        for axis in ("slots", "states"):
            parts = [partition(model, axis)[name] for name in loop.states]
            sides += [min(part.start for part in parts), max(part.stop for part in parts)]
        found.append((sides[0], sides[1], sides[2], sides[3]))
    return tuple(found)


def _blocks(axis: Partition) -> Blocks:
    return tuple(zip(axis.names, axis.sizes))


def _places(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The entries, each once, even where parallel terms meet."""
    rows, cols, _, across = layout.pattern()
    if layout.nnz() == len(rows):
        return rows, cols
    once = np.unique(rows.astype(np.int64) * across.total + cols)
    return once // across.total, once % across.total
