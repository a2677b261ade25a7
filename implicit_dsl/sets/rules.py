"""The sets of the language, each with what may be written in its brackets."""

from __future__ import annotations

from collections.abc import Iterable
from math import pi
from typing import Any

from implicit_dsl.operators.base import Formal
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.sets.base import MatrixSet, SetError, SetRule, matrix_shape, square_shape
from implicit_dsl.sets.linear import LINEAR

MOST_PATTERN = 200_000  # entries and rows of a pattern that is written out


def _linear(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    *arguments: Any,
    triangle: tuple[str, bool, int] | None = None,
) -> MatrixSet:
    made = LINEAR[kind](*shape, *arguments)
    if not made.count:
        raise SetError(
            f"the only matrix {list(shape)} in {name}(…) is zero", help="use a larger shape, or `zeros`"
        )
    return MatrixSet(name, kind, (*shape, *arguments), shape, (made.count,), triangle)


class _Diagonal(SetRule):
    name = "Diagonal"
    doc = (
        "Zero off the diagonal. It is applied entry by entry; one number for each diagonal entry is trained."
    )
    example = "input u[4]\nparam W[4, 4] in Diagonal()\noutput y[4] = W*u"

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        size = matrix_shape(self.name, shape)
        return _linear(self.name, "Diagonal", size, triangle=("both", False, min(size)))


class _Square(SetRule):
    """A set of square matrices without arguments, called as its class at run time."""

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        size = square_shape(self.name, shape)
        return _linear(self.name, self.name, (size, size))


class _Symmetric(_Square):
    name = "Symmetric"
    doc = "W' = W. The upper triangle is trained, row by row."
    example = "input u[4]\nparam W[4, 4] in Symmetric()\noutput y[4] = W*u"


class _Skew(_Square):
    name = "Skew"
    doc = "W' = -W. The upper triangle without its diagonal is trained, row by row."
    example = "input u[4]\nparam W[4, 4] in Skew()\noutput y[4] = W*u"


class _Circulant(_Square):
    name = "Circulant"
    doc = "Each row is the one above, moved on by one. The first column is trained."
    example = "input u[4]\nparam W[4, 4] in Circulant()\noutput y[4] = W*u"


class _Toeplitz(SetRule):
    name = "Toeplitz"
    doc = (
        "Constant along diagonals. Their numbers are trained, from the upper right corner to the lower left."
    )
    example = "input u[4]\nparam W[3, 4] in Toeplitz()\noutput y[3] = W*u"

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        return _linear(self.name, "Toeplitz", matrix_shape(self.name, shape))


class _Banded(SetRule):
    name = "Banded"
    formals = (
        Formal("lower", "index", "the lowest diagonal: -1 is the one below the main diagonal", required=True),
        Formal("upper", "index", "the highest diagonal: 1 is the one above it", required=True),
    )
    doc = "Zero outside of some diagonals around the main one: `Banded(-1, 1)` is tridiagonal."
    example = "input u[4]\nparam W[4, 4] in Banded(-1, 1)\noutput y[4] = W*u"

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        size = matrix_shape(self.name, shape)
        lower, upper = settings["lower"], settings["upper"]
        wrong = "lower" if lower > 0 else "upper" if upper < 0 else ""
        if wrong:
            raise SetError(
                "a band goes from a diagonal below the main one to one above: lower ≤ 0 ≤ upper",
                wrong,
                f"write `Banded({-abs(lower)}, {abs(upper)})`; one side is `StrictUpper()`, `StrictLower()`",
            )
        side = "upper" if lower == 0 else "lower" if upper == 0 else ""
        triangle = (side, False, min(size)) if side else None
        return _linear(self.name, "Banded", size, lower, upper, triangle=triangle)


class _Triangular(SetRule):
    """One side of the main diagonal."""

    def __init__(self, name: str, side: str, strict: bool) -> None:
        self.name = name
        self.side, self.strict = side, strict
        below = "below" if side == "upper" else "above"
        self.doc = f"Zero {below} the main diagonal{', and on it' if strict else ''}."
        self.example = f"input u[4]\nparam W[4, 4] in {name}()\noutput y[4] = W*u"

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        rows, columns = matrix_shape(self.name, shape)
        if self.side == "upper":
            lower, upper = int(self.strict), max(columns - 1, int(self.strict))
        else:
            lower, upper = -max(rows - 1, int(self.strict)), -int(self.strict)
        triangle = (self.side, self.strict, min(rows, columns))
        return _linear(self.name, "Banded", (rows, columns), lower, upper, triangle=triangle)


class _BlockTriangular(SetRule):
    """Blocks on one side of the diagonal blocks, or these alone."""

    formals = (Formal("blocks", "list", "the sizes of the blocks, which add up to n", required=True),)

    def __init__(self, name: str, side: str, strict: bool) -> None:
        self.name = name
        self.side, self.strict = side, strict
        kept = {"upper": "above", "lower": "below", "both": "on"}[side]
        kept += "" if strict or side == "both" else " or on"
        self.doc = f"Zero but for the blocks {kept} the diagonal of blocks, whose sizes are given."
        self.example = f"input u[5]\nparam W[5, 5] in {name}([2, 2, 1])\noutput y[5] = W*u"

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        size = square_shape(self.name, shape)
        blocks = _blocks(settings["blocks"], size)
        last = len(blocks) - 1
        lower = {"upper": int(self.strict), "lower": -last, "both": 0}[self.side]
        upper = {"upper": last, "lower": -int(self.strict), "both": 0}[self.side]
        triangle = (self.side, self.strict, len(blocks)) if self.strict else None
        return _linear(self.name, "BlockBanded", (size, size), blocks, lower, upper, triangle=triangle)


def _blocks(value: Any, size: int) -> tuple[int, ...]:
    """Sizes of blocks that add up to a size. Raises SetError."""
    if not isinstance(value, (tuple, range)) or not all(_is_whole(item) and item > 0 for item in value):
        raise SetError(
            "the sizes of blocks are a list of whole numbers, at least 1", "blocks", "write `[2, 2, 1]`"
        )
    blocks = tuple(map(int, value))
    if sum(blocks) != size:
        raise SetError(f"the blocks have {sum(blocks)} rows in all, and the matrix has {size}", "blocks")
    return blocks


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Sparse(SetRule):
    name = "Sparse"
    formals = (
        Formal(
            "pattern",
            "list",
            "a list of rows of 0 and 1, or of places `i => j`, counted from 1",
            required=True,
        ),
    )
    doc = "Zero but for a pattern that is known when compiling. Its entries are trained, row by row."
    example = (
        "input u[3]\nparam W[2, 3] in Sparse([[1, 0, 1], [0, 1, 0]])\n"
        "param V[3, 3] in Sparse([i => i % 3 + 1 for i in 1:3])\noutput y[2] = W*(V*u)"
    )

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        rows, columns = matrix_shape(self.name, shape)
        if rows > MOST_PATTERN:
            raise SetError(f"a matrix of a given pattern has at most {MOST_PATTERN} rows", "pattern")
        pattern = _pattern(settings["pattern"], rows, columns)
        if sum(map(len, pattern)) > MOST_PATTERN:
            raise SetError(f"a pattern has at most {MOST_PATTERN} entries", "pattern")
        triangle = None
        for side, strict in (("upper", True), ("lower", True), ("upper", False), ("lower", False)):
            if triangle is None and all(
                _on_side(i, j, side, strict) for i, held in enumerate(pattern) for j in held
            ):
                triangle = (side, strict, min(rows, columns))
        return _linear(self.name, "Sparse", (rows, columns), pattern, triangle=triangle)


def _on_side(i: int, j: int, side: str, strict: bool) -> bool:
    above = j - i if side == "upper" else i - j
    return above > 0 or (above == 0 and not strict)


def _pattern(value: Any, rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    """For each row the columns, from 0, of the entries. Raises SetError."""
    help = "write rows of 0 and 1, `[[1, 0], [0, 1]]`, or places, `[1 => 2, 2 => 1]`"
    if not isinstance(value, tuple) or not value:
        raise SetError("a pattern is a list of rows, or of places", "pattern", help)
    places = [getattr(item, "left", None) for item in value]
    if all(place is not None for place in places):
        return _of_places([(item.left, item.right) for item in value], rows, columns, help)
    if len(value) != rows:
        raise SetError(f"the pattern has {len(value)} rows, and the matrix has {rows}", "pattern")
    found = []
    for number, row in enumerate(value, 1):
        if not isinstance(row, tuple) or not all(
            item in (0, 1) for item in row if isinstance(item, (int, float))
        ):
            raise SetError("a pattern is made of 0 and 1", "pattern", help)
        if len(row) != columns or not all(isinstance(item, (int, float)) for item in row):
            raise SetError(
                f"row {number} of the pattern has {len(row)} entries, and the matrix has {columns} columns",
                "pattern",
            )
        found.append(tuple(at for at, item in enumerate(row) if item))
    return tuple(found)


def _of_places(
    places: Iterable[tuple[Any, Any]], rows: int, columns: int, help: str
) -> tuple[tuple[int, ...], ...]:
    found: list[set[int]] = [set() for _ in range(rows)]
    for i, j in places:
        if not _is_whole(i) or not _is_whole(j):
            raise SetError("a place is a pair of whole numbers", "pattern", help)
        if not (1 <= i <= rows and 1 <= j <= columns):
            raise SetError(f"there is no place {i} => {j} in a matrix [{rows}, {columns}]", "pattern")
        found[i - 1].add(j - 1)
    return tuple(tuple(sorted(row)) for row in found)


class _Orthogonal(SetRule):
    name = "Orthogonal"
    doc = (
        "Orthonormal columns, or rows if there are fewer: the first columns of exp(S) with S skew, whose "
        "numbers are trained. Square ones are rotations (determinant 1)."
    )
    example = "input u[4]\nparam W[3, 4] in Orthogonal()\noutput y[3] = W*u"

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        rows, columns = matrix_shape(self.name, shape)
        size, kept = max(rows, columns), min(rows, columns)
        free = kept * size - kept * (kept + 1) // 2
        if not free:
            raise SetError(
                "the only rotation of one number is 1",
                help="a matrix of at least two rows or columns is needed",
            )
        return MatrixSet(self.name, "Orthogonal", (rows, columns), shape, (free,))

    def start(self, made: MatrixSet, given: Initialiser) -> Initialiser:
        """S is normal with a spectral norm of about π, up to which exp is one to one."""
        if given.name not in ("orthogonal", "kaiming"):  # kaiming is what is taken where nothing is said
            raise SetError(
                f"an orthogonal matrix does not start from `{given.name}`",
                help="leave it out, or write `orthogonal()`: a random rotation",
            )
        return Initialiser("normal", (pi / (2 * max(made.shape) ** 0.5),))


class _Nonneg(SetRule):
    name = "Nonneg"
    doc = (
        "Entries above zero, of a tensor of any shape: log(1 + exp(θ)), with θ trained. "
        "Entries may come as near to zero as floating point goes."
    )
    example = "input u[4]\nparam W[3, 4] in Nonneg()\noutput y[3] = W*u"

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        return MatrixSet(self.name, "Nonneg", (shape,), shape, shape)

    def start(self, made: MatrixSet, given: Initialiser) -> Initialiser:
        if given.name in ("zeros", "orthogonal") or (given.name == "constant" and given.numbers[0] <= 0):
            raise SetError(
                f"entries above zero do not start from `{given.name}`",
                help="write `constant(0.01)`, or `uniform(0.1)`: absolute values are taken",
            )
        return given  # of which absolute values are taken


class _LowRank(SetRule):
    """Two factors, which resolution makes parameters of their own."""

    name = "LowRank"
    formals = (Formal("rank", "integer", "how many columns the left factor has", required=True),)
    doc = (
        "W = L R with L [m, rank] and R [rank, n], trained as `W_left` and `W_right`, "
        "which the program calls `W.left` and `W.right`. It is applied as two products."
    )
    example = "input u[4]\nparam W[5, 4] in LowRank(2)\noutput y[5] = W*u"

    def of(self, shape: tuple[int, ...], settings: dict[str, Any]) -> MatrixSet:
        rows, columns = matrix_shape(self.name, shape)
        rank = settings["rank"]
        if rank > min(rows, columns):
            raise SetError(f"a matrix [{rows}, {columns}] has at most rank {min(rows, columns)}", "rank")
        return MatrixSet(self.name, "LowRank", (rank,), shape, ())


SETS: dict[str, SetRule] = {
    rule.name: rule
    for rule in (
        _Diagonal(),
        _Symmetric(),
        _Skew(),
        _Banded(),
        _Triangular("UpperTriangular", "upper", False),
        _Triangular("LowerTriangular", "lower", False),
        _Triangular("StrictUpper", "upper", True),
        _Triangular("StrictLower", "lower", True),
        _BlockTriangular("BlockUpper", "upper", False),
        _BlockTriangular("BlockLower", "lower", False),
        _BlockTriangular("BlockStrictUpper", "upper", True),
        _BlockTriangular("BlockStrictLower", "lower", True),
        _BlockTriangular("BlockDiagonal", "both", False),
        _Toeplitz(),
        _Circulant(),
        _Orthogonal(),
        _LowRank(),
        _Nonneg(),
        _Sparse(),
    )
}
