"""What a set of matrices is to the compiler, and what its rule has to say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from implicit_dsl.operators.base import Formal, Setting
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.sets.linear import LINEAR, LinearSet


@dataclass(frozen=True, slots=True)
class MatrixSet:
    """A set of tensors of one shape, which are made of a trained tensor of the shape `free`.

    `name` is what the language calls it; `kind` and `arguments` are the class of the runtime that makes its
    members, and what that is given. `triangle` is "upper" or "lower" if all members are triangular, with
    whether their diagonals are zero and the number of blocks that lie on it.
    """

    name: str
    kind: str
    arguments: tuple[Setting, ...]
    shape: tuple[int, ...]
    free: tuple[int, ...]
    triangle: tuple[str, bool, int] | None = None

    @property
    def linear(self) -> LinearSet | None:
        """Where the trained numbers stand, if members are linear in them."""
        made = LINEAR.get(self.kind)
        return None if made is None else made(*self.arguments)

    @property
    def symmetry(self) -> int:
        """1 if W' = W for all members, −1 if W' = −W, else 0."""
        square = self.shape[0] == self.shape[-1]
        return {"Symmetric": 1, "Skew": -1, "Diagonal": int(square)}.get(self.kind, 0)


class SetError(Exception):
    """A tensor cannot be in this set. `argument` is the formal to blame, '' the shape."""

    def __init__(self, message: str, argument: str = "", help: str = "") -> None:
        super().__init__(message)
        self.message, self.argument, self.help = message, argument, help


class SetRule(ABC):
    """All that the language knows of one set. `example` is a body that uses it."""

    name: str
    formals: tuple[Formal, ...] = ()
    doc: str = ""
    example: str = ""

    @abstractmethod
    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        """The set for tensors of a shape. Raises SetError if there is none."""

    def start(self, made: MatrixSet, given: Initialiser) -> Initialiser:
        """How the trained tensor starts. Raises SetError for an initialiser that it cannot start from.

        Numbers of linear sets are drawn one by one; glorot and kaiming count the entries that a row and a
        column have on average.
        """
        if given.name == "orthogonal":
            raise SetError(
                f"`orthogonal` makes full matrices, which are not in {self.name}(…)",
                help="write `kaiming()` or `normal(0.1)`, or `in Orthogonal()`",
            )
        if given.name not in ("glorot", "kaiming"):
            return given
        linear = made.linear
        assert linear is not None
        in_row, in_column = linear.entries / linear.rows, linear.entries / linear.columns
        bound = (6 / (in_row + in_column)) if given.name == "glorot" else 1 / in_row
        return Initialiser("uniform", (bound**0.5,))


def matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of a matrix. Raises SetError for other tensors."""
    if len(shape) != 2:
        axes = "1 axis" if len(shape) == 1 else f"{len(shape)} axes"
        raise SetError(f"{name}() is a set of matrices [m, n], and this has {axes}")
    return shape[0], shape[1]


def square_shape(name: str, shape: tuple[int, ...]) -> int:
    """The size of a square matrix. Raises SetError for other tensors."""
    rows, columns = matrix_shape(name, shape)
    if rows != columns:
        raise SetError(f"{name}() is a set of square matrices, and this is [{rows}, {columns}]")
    return rows
