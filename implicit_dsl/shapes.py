"""Shapes without the batch axis: integers, and sizes that are free until run time.

A free size is written `_` in the source. Windows and strides turn a size s into
⌊(s + a) / b⌋, and such maps compose to one of the same form,

    ⌊(⌊(s + a) / b⌋ + c) / d⌋ = ⌊(s + a + b c) / (b d)⌋,

so that a `Size` in this normal form is equal to another exactly when both are the
same function of s: equal shapes are proved, never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Size:
    """⌊(s + add) / divide⌋, where s is axis `axis` (from 0) of the input `source`."""

    source: str
    axis: int
    add: int = 0
    divide: int = 1

    def __str__(self) -> str:
        return "_"


Dim: TypeAlias = int | Size
Shape: TypeAlias = tuple[Dim, ...]


def floor_affine(dim: Dim, add: int, divide: int, then: int = 0) -> Dim:
    """⌊(dim + add) / divide⌋ + then."""
    if isinstance(dim, int):
        return (dim + add) // divide + then
    total = dim.add + dim.divide * add
    by = dim.divide * divide
    return Size(dim.source, dim.axis, total + by * then, by)


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
    return tuple(
        d
        if isinstance(d, int) or (d.source, d.axis) not in given
        else (given[d.source, d.axis] + d.add) // d.divide
        for d in shape
    )


def show(shape: Shape) -> str:
    """`[6, 28, _]`, as in the source."""
    return "[" + ", ".join(str(d) for d in shape) + "]"
