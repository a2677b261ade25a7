"""Sets of matrices that are linear subspaces: which number of a vector stands where, and with which sign.

Each is one formula over row and column numbers. It holds for NumPy arrays and for torch tensors alike,
so that the matrix form, the projections and the generated code rest on the same words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class LinearSet(ABC):
    """Matrices W [rows, columns] with W[i, j] = sign(i, j) · θ[numbers(i, j)], and 0 elsewhere.

    `tied`: a number of θ may stand at several places. `signed`: with signs −1 and 1. `scales_rows`:
    diag(f) W is in the set for each W of it. `normal`: so is W h(WᵀW) for each function h, as where
    singular values are clipped. `same_rows`: all rows, and all columns, hold the same numbers.
    """

    tied: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    scales_rows: ClassVar[bool] = True
    normal: ClassVar[bool] = False
    same_rows: ClassVar[bool] = False
    rows: int
    columns: int

    @property
    @abstractmethod
    def count(self) -> int:
        """How many numbers θ has."""

    @property
    def entries(self) -> int:
        """How many entries of W may differ from zero."""
        return self.rows * self.columns if self.tied else self.count

    @property
    def is_diagonal(self) -> bool:
        """Whether W x is θ times x, entry by entry."""
        return False

    @abstractmethod
    def inside(self, i: Any, j: Any) -> Any:
        """Whether the entry (i, j) may differ from zero: booleans [rows, columns]."""

    def numbers(self, i: Any, j: Any) -> Any:
        """The number of θ at each place inside, for i [rows, 1] and j [1, columns]. Here: row by row."""
        inside = self.inside(i, j)
        return inside.reshape(-1).cumsum(0).reshape(inside.shape) - 1

    def sign(self, i: Any, j: Any) -> Any:
        """The factor at each place."""
        return 1


@dataclass(frozen=True, slots=True)
class Diagonal(LinearSet):
    """W[i, i] = θ[i]."""

    normal = True

    @property
    def count(self) -> int:
        return min(self.rows, self.columns)

    @property
    def is_diagonal(self) -> bool:
        return self.rows == self.columns

    def inside(self, i: Any, j: Any) -> Any:
        return i == j


@dataclass(frozen=True, slots=True)
class Banded(LinearSet):
    """Zero outside of the diagonals `lower` ≤ j − i ≤ `upper`."""

    lower: int
    upper: int

    @property
    def count(self) -> int:
        return max(0, self._up_to(self.upper) - self._up_to(self.lower - 1))

    def _up_to(self, diagonal: int) -> int:
        """How many entries have j − i ≤ `diagonal`: i + diagonal + 1 in row i, between 0 and all."""

        def summed(last: int) -> int:
            kept = min(max(last, 0), self.columns)
            return kept * (kept + 1) // 2 + self.columns * max(0, last - self.columns)

        return summed(self.rows + diagonal) - summed(diagonal)

    def inside(self, i: Any, j: Any) -> Any:
        return (j - i >= self.lower) & (j - i <= self.upper)


@dataclass(frozen=True, slots=True)
class BlockBanded(LinearSet):
    """Zero where the numbers of the blocks of i and j do not have `lower` ≤ block(j) − block(i) ≤ `upper`.

    `blocks` are the sizes of the blocks of rows, which are those of columns.
    """

    blocks: tuple[int, ...]
    lower: int
    upper: int

    @property
    def count(self) -> int:
        sizes = tuple(enumerate(self.blocks))
        return sum(m * n for a, m in sizes for b, n in sizes if self.lower <= b - a <= self.upper)

    def inside(self, i: Any, j: Any) -> Any:
        a, b = self._block(i), self._block(j)
        return (b - a >= self.lower) & (b - a <= self.upper)

    def _block(self, i: Any) -> Any:
        """The number of the block that an index is in: how many blocks end before it."""
        found, end = 0 * i, 0
        for size in self.blocks[:-1]:
            end += size
            found = found + (i >= end)
        return found


@dataclass(frozen=True, slots=True)
class Sparse(LinearSet):
    """Zero but for a pattern: for each row, the columns (from 0) where it has entries."""

    pattern: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        return sum(map(len, self.pattern))

    def inside(self, i: Any, j: Any) -> Any:
        inside = (0 * i + 0 * j).reshape(-1) > 0
        inside[[row * self.columns + at for row, held in enumerate(self.pattern) for at in held]] = True
        return inside.reshape(self.rows, self.columns)

    def __hash__(self) -> int:
        return hash((self.rows, self.columns, self.pattern[0]))  # not of all: it is asked for at each call


@dataclass(frozen=True, slots=True)
class Symmetric(LinearSet):
    """W = Wᵀ: θ is its upper triangle, row by row."""

    tied = True
    scales_rows = False
    normal = True

    @property
    def count(self) -> int:
        return self.rows * (self.rows + 1) // 2

    def inside(self, i: Any, j: Any) -> Any:
        return (i >= 0) & (j >= 0)

    def numbers(self, i: Any, j: Any) -> Any:
        row, column = (i + j - abs(i - j)) // 2, (i + j + abs(i - j)) // 2
        return row * (2 * self.rows - row - 1) // 2 + column


@dataclass(frozen=True, slots=True)
class Skew(LinearSet):
    """W = −Wᵀ: θ is its upper triangle without the diagonal, row by row."""

    tied = True
    signed = True
    scales_rows = False
    normal = True

    @property
    def count(self) -> int:
        return self.rows * (self.rows - 1) // 2

    @property
    def entries(self) -> int:
        return self.rows * (self.rows - 1)

    def inside(self, i: Any, j: Any) -> Any:
        return i != j

    def numbers(self, i: Any, j: Any) -> Any:
        row, column = (i + j - abs(i - j)) // 2, (i + j + abs(i - j)) // 2
        return row * (2 * self.rows - row - 3) // 2 + column - 1

    def sign(self, i: Any, j: Any) -> Any:
        return 1 - 2 * (i > j)


@dataclass(frozen=True, slots=True)
class Toeplitz(LinearSet):
    """W[i, j] = θ[i − j + columns − 1]: constant along diagonals, from the upper right to the lower left."""

    tied = True
    scales_rows = False

    @property
    def count(self) -> int:
        return self.rows + self.columns - 1

    def inside(self, i: Any, j: Any) -> Any:
        return (i >= 0) & (j >= 0)

    def numbers(self, i: Any, j: Any) -> Any:
        return i - j + self.columns - 1


@dataclass(frozen=True, slots=True)
class Circulant(LinearSet):
    """W[i, j] = θ[(i − j) mod n]: θ is its first column, as in `scipy.linalg.circulant`."""

    tied = True
    scales_rows = False
    normal = True
    same_rows = True

    @property
    def count(self) -> int:
        return self.rows

    def inside(self, i: Any, j: Any) -> Any:
        return (i >= 0) & (j >= 0)

    def numbers(self, i: Any, j: Any) -> Any:
        return (i - j) % self.rows


LINEAR: dict[str, Callable[..., LinearSet]] = {
    made.__name__: made
    for made in (Diagonal, Banded, BlockBanded, Sparse, Symmetric, Skew, Toeplitz, Circulant)
}
