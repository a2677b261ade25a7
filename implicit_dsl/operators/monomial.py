"""Partial permutations with factors: reshapes, slices, places in a concatenation, scalings.

Each row and each column of their matrices holds at most one entry, so they compose with
any other operator entry by entry, also in absolute value.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Entries, Expression, LinearRule, Operator, Rule, Settings, ShapeError
from implicit_dsl.shapes import Shape, count, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


class Monomial(LinearRule):
    """A linear operator with at most one entry in each row and column, and no parameters."""

    mixing = False

    @abstractmethod
    def columns(self, operator: Operator) -> np.ndarray:
        """For each row the column that it reads, or -1 for a row of zeros."""

    def factor(self, operator: Operator) -> float:
        return 1.0

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return abs(self.factor(operator))

    def entry_count(self, operator: Operator) -> int:
        return min(count(operator.source), count(operator.target))

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        cols = self.columns(operator)
        rows = np.flatnonzero(cols >= 0)
        return (Entries("", rows, cols[rows], None, self.factor(operator)),)


def _positions(shape: Shape) -> Any:
    """The row-major number of each entry of a shape, in that shape."""
    return np.arange(count(shape)).reshape(sizes(shape))


class Scale(Monomial):
    kind = "scale"
    doc = "A number times a value: `0.5*x`, `-x`, `x / 2`."
    example = "input u[4]\noutput y[4] = -0.5*u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return Operator(self.kind, source, source, (("factor", float(settings["factor"])),))

    def columns(self, operator: Operator) -> np.ndarray:
        return np.arange(count(operator.source))

    def factor(self, operator: Operator) -> float:
        return float(operator["factor"])

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return tuple(range(len(operator.target)))

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x * self.factor(operator)

    def absolute(
        self, operator: Operator, weights: Mapping[str, torch.Tensor]
    ) -> tuple[Operator, Mapping[str, torch.Tensor]]:
        return self.operator({"factor": abs(operator["factor"])}, operator.source), weights

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        if operator["factor"] == -1.0:
            return Expression(f"-{x.atom}", tight=False)
        return Expression(f"{operator['factor']!r} * {x.atom}", tight=False)


class Reshape(Monomial):
    kind = "reshape"
    names = ("flatten", "reshape")
    doc = "`flatten(x)` and `reshape(x, 4, 6)`: the same entries, row-major, in another shape."
    example = "input u[2, 3, 4]\nstate h[24] ~ tanh(flatten(u))\noutput y[4, 6] = reshape(h, 4, 6)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if known(source) is None:
            raise ShapeError(
                f"a value of shape {show(source)} has a free size and cannot be reshaped",
                show(source),
                help="reduce the free axes with GlobalAvgPool() first",
            )
        target = settings["shape"]
        if target is None:
            target = (count(source),)
        if count(target) != count(source):
            raise ShapeError(
                f"{show(source)} has {count(source)} entries and cannot become {show(target)}, "
                f"which has {count(target)}",
                show(source),
            )
        return Operator(self.kind, source, target)

    def columns(self, operator: Operator) -> np.ndarray:
        return np.arange(count(operator.source))

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        """Axes that are as long, with as many entries behind them: [120, 1, 1] and [120]."""
        before = [_extent(operator.source, axis) for axis in range(len(operator.source))]
        after = [_extent(operator.target, axis) for axis in range(len(operator.target))]
        return tuple(before.index(extent) if extent in before else None for extent in after)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x.reshape(len(x), *sizes(operator.target))

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        if not operator.source or not operator.target:  # from or to a number
            return Expression(f"{x.atom}.reshape{(-1, *operator.target)!r}")
        if len(operator.target) == 1:
            return x if len(operator.source) == 1 else Expression(f"{x.atom}.flatten(1)")
        flat = x.text if len(operator.source) == 1 else f"{x.atom}.flatten(1)"
        return Expression(f"torch.unflatten({flat}, 1, {operator.target!r})")  # the method has no types


def _extent(shape: Shape, axis: int) -> tuple[int, int]:
    """The size of an axis, and how many entries one step along it passes."""
    return count(shape[axis : axis + 1]), count(shape[axis + 1 :])


class Permute(Monomial):
    kind = "permute"
    names = ("permute", "transpose")
    doc = "`permute(x, 2, 3, 1)`: the axes in another order; `transpose(x)`: the last two exchanged."
    example = "input u[2, 3, 4]\noutput y[4, 2, 3] = permute(u, 3, 1, 2), z[2, 4, 3] = transpose(u)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes = settings["axes"]
        return Operator(self.kind, source, tuple(source[axis] for axis in axes), (("axes", axes),))

    def columns(self, operator: Operator) -> np.ndarray:
        return np.asarray(_positions(operator.source).transpose(operator["axes"]).reshape(-1))

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return tuple(operator["axes"])

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x.permute(0, *(axis + 1 for axis in operator["axes"]))

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        axes = operator["axes"]
        moved = [axis for axis, old in enumerate(axes) if axis != old]
        if len(moved) == 2:
            return Expression(f"{x.atom}.transpose({moved[0] + 1}, {moved[1] + 1})")
        return Expression(f"{x.atom}.permute({', '.join(str(axis + 1) for axis in (-1, *axes))})")


class Select(Monomial):
    """`x[2, :, 1:3]`: for each axis the first index (from 0), the step, and how many; an axis that
    was given one index is dropped."""

    kind = "select"
    doc = "A slice: `x[1, :]`, `x[:, 2:3]`. Indices count from 1 and ranges include their ends."
    example = "input u[3, 4, 5]\noutput y[2, 5] = u[2:3, 1, :]"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        slices = settings["slices"]  # for each axis None (whole), an index, or (first, step, length)
        target = tuple(
            size if piece is None else piece[2]
            for size, piece in zip(source, slices)
            if not isinstance(piece, int)
        )
        return Operator(self.kind, source, target, (("slices", slices),))

    def _subscripts(self, operator: Operator) -> tuple[Any, ...]:
        made: list[Any] = []
        for piece in operator["slices"]:
            if piece is None or isinstance(piece, int):
                made.append(slice(None) if piece is None else piece)
            else:
                first, step, length = piece
                made.append(slice(first, first + step * (length - 1) + 1, step))
        return tuple(made)

    def columns(self, operator: Operator) -> np.ndarray:
        picked: np.ndarray = _positions(operator.source)[self._subscripts(operator)]
        return picked.reshape(-1)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x[(slice(None), *self._subscripts(operator))]

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        pieces = [":"]
        for piece in self._subscripts(operator):
            if isinstance(piece, int):
                pieces.append(str(piece))
            elif piece == slice(None):
                pieces.append(":")
            else:
                pieces.append(f"{piece.start}:{piece.stop}" + (f":{piece.step}" if piece.step != 1 else ""))
        return Expression(f"{x.atom}[{', '.join(pieces)}]")


class Place(Monomial):
    """The value at a place along one axis of a larger shape, zeros elsewhere: one part of a concatenation."""

    kind = "place"
    names = ("cat",)
    doc = "`cat(a, b)` or `cat(a, b; dim = 2)`: values side by side along an axis (the first by default)."
    example = "input u[2, 3], v[4, 3]\noutput y[6, 3] = cat(u, v)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axis, start, total = settings["axis"], settings["start"], settings["total"]
        target = (*source[:axis], total, *source[axis + 1 :])
        return Operator(self.kind, source, target, (("axis", axis), ("start", start)))

    def columns(self, operator: Operator) -> np.ndarray:
        axis, start = operator["axis"], operator["start"]
        places = np.full(sizes(operator.target), -1)
        window = [slice(None)] * places.ndim
        window[axis] = slice(start, start + count(operator.source[axis : axis + 1]))
        places[tuple(window)] = _positions(operator.source)
        return np.asarray(places.reshape(-1))

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        axis, start = operator["axis"], operator["start"]
        whole = x.new_zeros((len(x), *sizes(operator.target)))
        whole.narrow(axis + 1, start, x.shape[axis + 1]).copy_(x)
        return whole

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        # alone; the parts of a whole concatenation are emitted together
        axis, start = operator["axis"], operator["start"]
        behind = count(operator.target[axis : axis + 1]) - start - count(operator.source[axis : axis + 1])
        sides = (0, 0) * (len(operator.source) - 1 - axis) + (start, behind)
        return Expression(f"F.pad({x.text}, {sides!r})")


RULES: tuple[Rule, ...] = (Scale(), Reshape(), Permute(), Select(), Place())
