"""What is added without being multiplied by a state: read by the constant 1, whose shape is ()."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Entries, Expression, LinearRule, Operator, Rule, Settings
from implicit_dsl.operators.monomial import Place
from implicit_dsl.shapes import Shape, count, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


class Offset(LinearRule):
    """A `param` of the shape of the value that it is added to."""

    kind = "offset"
    doc = "A `param` added to a value of the same shape: `W*x + b`."
    example = "input u[4]\nparam b[4] = normal(1.0)\noutput y[4] = u + b"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return Operator(self.kind, (), settings["shape"])

    def entry_count(self, operator: Operator) -> int:
        return count(operator.target)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        rows = np.arange(count(operator.target))
        return (Entries("weight", rows, np.zeros_like(rows), rows),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x.reshape(-1, *(1,) * len(operator.target)) * weights["weight"]

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return Expression(layer)

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return Expression(weights["weight"])

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        if len(operator.target) > 1:
            return None  # a row of this matrix is one entry of the tensor, not one of its rows
        return bounds.get(operator.parameter("weight") or "")


class Constant(LinearRule):
    """The same number in each entry."""

    kind = "constant"
    doc = "A number added to each entry of a value: `x + 1`, `1 - x`."
    example = "input u[4]\noutput y[4] = 1.5 - u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return Operator(self.kind, (), settings["shape"], (("value", float(settings["value"])),))

    def entry_count(self, operator: Operator) -> int:
        return count(operator.target)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        rows = np.arange(count(operator.target))
        return (Entries("", rows, np.zeros_like(rows), None, operator["value"]),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        ones = x.new_full(sizes(operator.target), operator["value"])
        return x.reshape(-1, *(1,) * len(operator.target)) * ones

    def absolute(
        self, operator: Operator, weights: Mapping[str, torch.Tensor]
    ) -> tuple[Operator, Mapping[str, torch.Tensor]]:
        return self.operator({"shape": operator.target, "value": abs(operator["value"])}, ()), weights

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        value = operator["value"]
        return Expression(repr(value), tight=value >= 0)

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return abs(float(operator["value"]))


def constants(numbers: tuple[float, ...], shape: Shape) -> list[tuple[Operator, ...]]:
    """Chains that add up to the numbers: one for all entries, or one for each of a vector."""
    if len(numbers) == 1:
        return [(Constant().operator({"shape": shape, "value": numbers[0]}, ()),)]
    made: list[tuple[Operator, ...]] = []
    for at, value in enumerate(numbers):
        entry = Constant().operator({"shape": (1,), "value": value}, ())
        made.append((entry, Place().operator({"axis": 0, "start": at, "total": shape[0]}, (1,))))
    return made


RULES: tuple[Rule, ...] = (Offset(), Constant())
