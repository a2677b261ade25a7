"""Maxima and minima of values, and of pieces of one value (maxout, Goodfellow et al. 2013)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    ActivationRule,
    Expression,
    Formal,
    Operator,
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.relaxation import Lines, largest_lines, mirrored
from implicit_dsl.operators.slots import EntryByEntry
from implicit_dsl.shapes import Shape, count, show, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class _Extremum(EntryByEntry):
    """The larger or smaller of two values, entry by entry: it moves no more than either does at most."""

    done = "compared"
    homogeneous = True
    has_useful_majorant = True
    sign: ClassVar[int]

    def monotone(self, operator: Operator) -> bool:
        return True

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        a, b = parts
        return np.asarray(self.sign * np.maximum(self.sign * a, self.sign * b))

    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b = parts
        first = (1 + np.sign(self.sign * (a - b))) / 2  # half of it to each of two that are equal
        return np.asarray(g * first), np.asarray(g * (1 - first))

    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        da, db = changes
        return np.asarray(np.maximum(da, db))

    def gain(self, operator: Operator) -> float:
        return 1.0

    def reads(self, operator: Operator) -> int:
        return 2

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        ends = (lower, upper) if self.sign > 0 else (-upper, -lower)
        places = np.arange(count(operator.source), dtype=float).reshape(1, *sizes(operator.source))
        index, *bounds = (
            np.stack([part.reshape(len(z), -1) for part in self.parts(operator, z)], 1)
            for z in (places, *ends)
        )
        made = largest_lines(index[0].astype(np.intp), np.ones(index.shape[1:], bool), *bounds)
        return made if self.sign > 0 else mirrored(made)

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        a, b = parts
        return Expression(f"torch.{self.kind}({a.text}, {b.text})")


class Maximum(_Extremum):
    kind = "maximum"
    doc = "The larger of two values entry by entry: `max(a, b)`."
    example = "input a[4], b[4]\noutput y[4] = max(a, b)"
    sign = 1


class Minimum(_Extremum):
    kind = "minimum"
    doc = "The smaller of two values entry by entry: `min(a, b)`."
    example = "input a[4], b[4]\noutput y[4] = min(a, b)"
    sign = -1


class Maxout(ActivationRule):
    """The largest of `pieces` neighbours along an axis, which becomes shorter by that factor."""

    kind = "maxout"
    names = ("maxout",)
    formals = (
        Formal("pieces", "integer", "how many neighbours each maximum is taken of", default=2),
        Formal("dim", "axis", "the axis, counted from 1; if not given, the first", default=1),
    )
    elementwise = False
    homogeneous = True
    doc = "The largest of `pieces` neighbouring channels: `maxout(x; pieces = 2)` makes [4, …] of [8, …]."
    example = "input u[6]\noutput y[3] = maxout(Dense(6) * u)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        pieces, dim = settings["pieces"], settings["dim"]
        if dim > len(source):
            raise ShapeError(f"a value of shape {show(source)} has no axis {dim}", "not an axis", "dim")
        size = source[dim - 1]
        if not isinstance(size, int) or size % pieces:
            what = f"does not divide the {size} entries" if isinstance(size, int) else "needs a known size"
            raise ShapeError(
                f"maxout in {pieces} pieces {what} of axis {dim} of {show(source)}",
                "a number of pieces that divides the axis",
                "pieces" if isinstance(size, int) else "",
            )
        target = (*source[: dim - 1], size // pieces, *source[dim:])
        return Operator(self.kind, source, target, (("dim", dim), ("pieces", pieces)))

    def axes(self, operator: Operator) -> tuple[int | None, ...]:
        return tuple(None if axis == operator["dim"] - 1 else axis for axis in range(len(operator.target)))

    def _groups(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        """z [batch, *source] with the pieces along an axis of their own, behind that of the groups."""
        target, dim = sizes(operator.target), operator["dim"]
        return z.reshape(len(z), *target[:dim], operator["pieces"], *target[dim:])

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(self._groups(operator, z).max(operator["dim"] + 1))

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        groups, axis = self._groups(operator, z), operator["dim"] + 1
        largest = groups == groups.max(axis, keepdims=True)  # equal ones share, as in `amax`
        return np.asarray(np.expand_dims(g, axis) * largest / largest.sum(axis, keepdims=True)).reshape(
            z.shape
        )

    def reads(self, operator: Operator) -> int:
        return int(operator["pieces"])

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        places = np.arange(count(operator.source)).reshape(1, *sizes(operator.source))
        axis = operator["dim"] + 1
        index, *bounds = (
            np.moveaxis(self._groups(operator, z), axis, 1).reshape(len(z), operator["pieces"], -1)
            for z in (places, lower, upper)
        )
        return largest_lines(index[0], np.ones(index.shape[1:], bool), *bounds)

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        return self.reference(operator, change)  # |max u − max v| ≤ max |u − v|

    def gain(self, operator: Operator) -> float:
        return 1.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        dim, pieces = operator["dim"], operator["pieces"]
        return Expression(f"torch.unflatten({z.text}, {dim}, (-1, {pieces})).amax({dim + 1})")


RULES: tuple[Rule, ...] = (Maximum(), Minimum(), Maxout())
