"""Sums and means over some of the axes: linear, and without parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Entries, Expression, LinearRule, Operator, Rule, Settings
from implicit_dsl.shapes import Shape, count, known, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")


class Sum(LinearRule):
    """The settings have the `axes` that are left out, counted from 0."""

    kind = "sum"
    names = ("sum",)
    doc = (
        "`sum(x; dim = 1)`: the entries along an axis, added up; without `dim`, all entries of a value. "
        "`sum(list)`, `sum(f(i) for i in 1:3)`: numbers, values of one shape, or matrices, added up."
    )
    example = "input u[3, 4]\noutput y[3] = sum(u; dim = 2), z = sum(u), w = sum(i * u for i in 1:2)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        left = tuple(size for axis, size in enumerate(source) if axis not in settings["axes"])
        return Operator(self.kind, source, left, (("axes", settings["axes"]),))

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return tuple(axis for axis in range(len(operator.source)) if axis not in operator["axes"])

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source)

    def _factor(self, operator: Operator) -> float:
        return 1.0

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        each = [1 if axis in operator["axes"] else size for axis, size in enumerate(sizes(operator.source))]
        rows = np.broadcast_to(np.arange(count(operator.target)).reshape(each), sizes(operator.source))
        cols = np.arange(count(operator.source))
        return (Entries("", rows.reshape(-1), cols, None, self._factor(operator)),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        total = x.sum([axis + 1 for axis in operator["axes"]])
        return self._factor(operator) * total

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        axes = [axis - len(operator.source) for axis in operator["axes"]]
        text = str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"
        return Expression(f"{x.atom}.{self.kind}({text})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        if known(operator.source) is None:
            return None
        return float(count(operator.source) // count(operator.target))


class Mean(Sum):
    kind = "mean"
    names = ("mean",)
    doc = (
        "`mean(x; dim = 1)`: the mean along an axis; without `dim`, of all entries of a value. "
        "`mean(list)`: of numbers, or of values of one shape."
    )
    example = "input u[3, 4]\noutput y[4] = mean(u; dim = 1), z = mean(u), w = mean([u, 2 * u])"

    def _factor(self, operator: Operator) -> float:
        return count(operator.target) / count(operator.source)

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return 1.0


RULES: tuple[Rule, ...] = (Sum(), Mean())
