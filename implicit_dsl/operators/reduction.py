"""Sums and means over axes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, ClassVar

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Entries, Expression, LinearRule, Operator, Rule, Settings
from implicit_dsl.shapes import Shape, count, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")


class _Reduction(LinearRule):
    """Some axes are gone; `method` is that of PyTorch."""

    method: ClassVar[str]

    def gone(self, operator: Operator) -> tuple[int, ...]:
        """The axes that are summed over, from 0."""
        axes: tuple[int, ...] = operator["axes"]
        return axes

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes = tuple(sorted(settings["axes"]))
        target = tuple(size for axis, size in enumerate(source) if axis not in axes)
        return Operator(self.kind, source, target, (("axes", axes),))

    def each(self, operator: Operator) -> float:
        """The factor of each entry."""
        return 1.0

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return tuple(axis for axis in range(len(operator.source)) if axis not in self.gone(operator))

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        shape = sizes(operator.source)
        kept = tuple(1 if axis in self.gone(operator) else size for axis, size in enumerate(shape))
        rows = np.broadcast_to(np.arange(prod(kept)).reshape(kept), shape).reshape(-1)
        return (Entries("", rows, np.arange(prod(shape)), None, self.each(operator)),)

    def _axes(self, operator: Operator) -> tuple[int, ...]:
        return tuple(axis - len(operator.source) for axis in self.gone(operator))

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        reduced: torch.Tensor = getattr(x, self.method)(self._axes(operator))
        return reduced

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        axes = self._axes(operator)
        return Expression(f"{x.atom}.{self.method}({axes[0] if len(axes) == 1 else axes!r})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")


class Total(_Reduction):
    kind = "sum"
    method = "sum"
    names = ("sum",)
    doc = (
        "`sum(x; dim = 1)`: the entries along an axis, added up; without `dim`, all entries of a value. "
        "`sum(list)`, `sum(f(i) for i in 1:3)`: numbers, values of one shape, or matrices, added up."
    )
    example = "input u[3, 4]\noutput y[3] = sum(u; dim = 2), z = sum(u), w = sum(i * u for i in 1:2)"

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        summed = [operator.source[axis] for axis in self.gone(operator)]
        whole = [size for size in summed if isinstance(size, int)]
        return float(prod(whole)) if len(whole) == len(summed) else None


class Mean(_Reduction):
    kind = "mean"
    method = "mean"
    names = ("mean",)
    doc = (
        "`mean(x; dim = 1)`: the mean along an axis; without `dim`, of all entries of a value. "
        "`mean(list)`: of numbers, or of values of one shape."
    )
    example = "input u[3, 4]\noutput y[4] = mean(u; dim = 1), z = mean(u), w = mean([u, 2 * u])"

    def each(self, operator: Operator) -> float:
        return 1 / count(tuple(operator.source[axis] for axis in self.gone(operator)))

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return 1.0


RULES: tuple[Rule, ...] = (Total(), Mean())
