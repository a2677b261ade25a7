"""Members of sets of matrices, made from the numbers that are trained by other means than the compiler's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

from random_programs.program import Draw, Shape


@dataclass(frozen=True)
class Member:
    """What stands behind `in`, the tensors that are trained, by endings of its name, and their matrix."""

    text: str
    tensors: dict[str, Shape]
    matrix: Callable[[Sequence[Tensor]], Tensor] = field(repr=False)

    @property
    def linear(self) -> bool:
        return not self.text.startswith(("Orthogonal", "Nonneg"))


def _where(text: str, mask: Tensor) -> Member:
    """The entries of a mask, row by row."""
    places = mask.nonzero()

    def matrix(held: Sequence[Tensor]) -> Tensor:
        made = torch.zeros(mask.shape, dtype=held[0].dtype)
        return made.index_put((places[:, 0], places[:, 1]), held[0])

    return Member(text, {"": (len(places),)}, matrix)


def _gathered(text: str, number: int, index: Tensor) -> Member:
    """Each entry is one of the numbers, by its index."""
    return Member(text, {"": (number,)}, lambda held: held[0][index])


def _upper(n: int, first: int) -> Callable[[Tensor], Tensor]:
    places = torch.triu_indices(n, n, first)
    return lambda numbers: torch.zeros(n, n, dtype=numbers.dtype).index_put((places[0], places[1]), numbers)


def _symmetric(n: int) -> Member:
    upper = _upper(n, 0)
    return Member(
        "Symmetric()", {"": (n * (n + 1) // 2,)}, lambda held: upper(held[0]) + upper(held[0]).triu(1).T
    )


def _skew(n: int) -> Member:
    upper = _upper(n, 1)
    return Member("Skew()", {"": (n * (n - 1) // 2,)}, lambda held: upper(held[0]) - upper(held[0]).T)


def _orthogonal(m: int, n: int) -> Member:
    large, small = max(m, n), min(m, n)
    places = [(i, j) for i in range(large) for j in range(min(i, small))]

    def matrix(held: Sequence[Tensor]) -> Tensor:
        rows, columns = torch.tensor(places).T
        below = torch.zeros(large, large, dtype=held[0].dtype).index_put((rows, columns), held[0])
        turned = torch.linalg.matrix_exp(below - below.T)[:, :small]
        return turned if m >= n else turned.T

    return Member("Orthogonal()", {"": (len(places),)}, matrix)


def _sparse(draw: Draw, m: int, n: int) -> Member:
    rows = [[draw(st.integers(0, 1)) for _ in range(n)] for _ in range(m)]
    rows[0][draw(st.integers(0, n - 1))] = 1
    if draw(st.booleans()):
        text = str(rows)
    else:
        pairs = [f"{i + 1} => {j + 1}" for i in range(m) for j in range(n) if rows[i][j]]
        text = "[" + ", ".join(pairs) + "]"
    return _where(f"Sparse({text})", torch.tensor(rows))


def _blocks(draw: Draw, n: int) -> list[int]:
    cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=2))) if n > 1 else []
    return [after - before for before, after in zip([0, *cuts], [*cuts, n])]


def _in_blocks(draw: Draw, n: int) -> Member:
    blocks = _blocks(draw, n)
    place = torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor(blocks))
    rows, columns = place[:, None], place[None]
    masks = {"BlockUpper": rows <= columns, "BlockLower": rows >= columns, "BlockDiagonal": rows == columns}
    if len(blocks) > 1:
        masks |= {"BlockStrictUpper": rows < columns, "BlockStrictLower": rows > columns}
    kind = draw(st.sampled_from(sorted(masks)))
    return _where(f"{kind}({blocks})", masks[kind])


@st.composite
def members(draw: Draw, m: int, n: int) -> Member:
    """A member of one of the sets that have matrices of this shape."""
    i, j = torch.arange(m)[:, None], torch.arange(n)[None]
    ways: list[Callable[[], Member]] = [
        lambda: _where("Diagonal()", i == j),
        lambda: _where("UpperTriangular()", i <= j),
        lambda: _where("LowerTriangular()", i >= j),
        lambda: _gathered("Toeplitz()", m + n - 1, i - j + n - 1),
        lambda: _low_rank(draw(st.integers(1, min(m, n, 2)))),
        lambda: Member("Nonneg()", {"": (m, n)}, lambda held: torch.logaddexp(held[0], torch.zeros(()))),
        lambda: _sparse(draw, m, n),
        lambda: _banded(draw(st.integers(-2, 0)), draw(st.integers(0, 2))),
    ]

    def _banded(lower: int, upper: int) -> Member:
        return _where(f"Banded({lower}, {upper})", (j - i >= lower) & (j - i <= upper))

    def _low_rank(rank: int) -> Member:
        return Member(
            f"LowRank({rank})",
            {"_left": (m, rank), "_right": (rank, n)},
            lambda held: torch.einsum("ik,kj->ij", *held),
        )

    if m != n or m > 1:
        ways.append(lambda: _orthogonal(m, n))
    if n > 1:
        ways.append(lambda: _where("StrictUpper()", i < j))
    if m > 1:
        ways.append(lambda: _where("StrictLower()", i > j))
    if m == n:
        ways += [
            lambda: _symmetric(n),
            lambda: _gathered("Circulant()", n, (i - j) % n),
            lambda: _in_blocks(draw, n),
        ]
        ways += [lambda: _skew(n)] * (n > 1)
    return draw(st.sampled_from(ways))()
