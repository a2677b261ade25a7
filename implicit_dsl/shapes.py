"""Shapes without the batch axis: integers, and sizes that are free until run time.

A free size is written `_` in the source. Windows, strides and finer grids turn a size s into
⌊(t s + a) / d⌋, and such maps compose: to one of the same form where d divides t or t = 1,

    ⌊(⌊(t s + a) / d⌋ + c) / e⌋ = ⌊(t s + a + d c) / (d e)⌋,

and to one behind the other where not, as in 2⌊s / 2⌋. Factors that t and d have in common are taken out. Two
sizes of one such form are one function of s: equal shapes are proved, never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Size:
    """⌊(times · s + add) / divide⌋, with s the size `of`, or axis `axis` (from 0) of the input `source`."""

    source: str
    axis: int
    add: int = 0
    divide: int = 1
    times: int = 1
    of: Size | None = None

    def __str__(self) -> str:
        return "_"


@dataclass(frozen=True, slots=True)
class Total:
    """The number of entries of all of some shapes, some of which have free sizes."""

    shapes: tuple[Shape, ...]

    def __str__(self) -> str:
        return "_"


Dim: TypeAlias = int | Size | Total
Shape: TypeAlias = tuple[Dim, ...]


def affine(dim: Dim, times: int, add: int, divide: int) -> Dim:
    """⌊(times · dim + add) / divide⌋."""
    if isinstance(dim, int):
        return (times * dim + add) // divide
    assert isinstance(dim, Size), "totals are of what an activation takes, and no operator follows"
    common = gcd(times, divide)
    times, add, divide = times // common, add // common, divide // common
    if times != 1 and dim.divide != 1:
        return Size(dim.source, dim.axis, add, divide, times, dim)
    if times == 1:  # both floors are one
        times, add, divide = dim.times, dim.add + add * dim.divide, divide * dim.divide
    else:
        times, add = times * dim.times, times * dim.add + add
    if dim.of is not None:
        return affine(dim.of, times, add, divide)
    common = gcd(times, divide)
    return Size(dim.source, dim.axis, add // common, divide // common, times // common)


def floor_affine(dim: Dim, add: int, divide: int, then: int = 0) -> Dim:
    """⌊(dim + add) / divide⌋ + then."""
    return affine(dim, 1, add + divide * then, divide)


def windows(dim: Dim, kernel: int, stride: int, pad: int, dilation: int = 1) -> Dim:
    """How many windows fit: ⌊(dim + 2 pad − dilation (kernel − 1) − 1) / stride⌋ + 1."""
    return floor_affine(dim, 2 * pad - dilation * (kernel - 1) - 1, stride, 1)


def known(shape: Shape) -> tuple[int, ...] | None:
    """The shape as integers, or None if a size is free."""
    sizes = tuple(d for d in shape if isinstance(d, int))
    return sizes if len(sizes) == len(shape) else None


def sizes(shape: Shape) -> tuple[int, ...]:
    """The shape as integers, where no size is free any more."""
    bound = known(shape)
    assert bound is not None, "free sizes are bound before anything is counted"
    return bound


def count(shape: Shape) -> int:
    """The number of entries of a known shape."""
    return prod(sizes(shape))


def bind(shape: Shape, given: dict[tuple[str, int], int]) -> tuple[int, ...]:
    """The shape once the free axes of the inputs are given."""
    return sizes(bind_some(shape, given))


def bind_some(shape: Shape, given: dict[tuple[str, int], int]) -> Shape:
    """The shape once some free axes of the inputs are given."""
    return tuple(bind_size(dim, given) for dim in shape)


def bind_size(dim: Dim, given: dict[tuple[str, int], int]) -> Dim:
    """One size of it."""
    match dim:
        case int():
            return dim
        case Total(shapes):
            bound = [known(bind_some(shape, given)) for shape in shapes]
            found = [prod(shape) for shape in bound if shape is not None]
            return sum(found) if len(found) == len(shapes) else dim
    if dim.of is not None:
        inner = bind_size(dim.of, given)
        return affine(inner, dim.times, dim.add, dim.divide) if isinstance(inner, int) else dim
    if (dim.source, dim.axis) not in given:
        return dim
    return (dim.times * given[dim.source, dim.axis] + dim.add) // dim.divide


def show(shape: Shape) -> str:
    """`[6, 28, _]`, as in the source."""
    return "[" + ", ".join(str(d) for d in shape) + "]"


def per_channel(shape: Shape) -> str:
    """What makes of a vector [channels] one that broadcasts over a shape with channels first: `[:, None]`."""
    return f"[:{', None' * (len(shape) - 1)}]" if len(shape) > 1 else ""
