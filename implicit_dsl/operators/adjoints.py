"""Transposes of constant operators: the same entries with rows and columns exchanged.

An operator of these kinds has the settings of the one that it is the transpose of, whose input is its output.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, ClassVar

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.adaptive import AdaptiveAvgPool
from implicit_dsl.operators.base import Entries, Expression, LinearRule, Operator, Rule, Settings
from implicit_dsl.operators.convolution import short
from implicit_dsl.operators.padding import Pad
from implicit_dsl.operators.pooling import AvgPool, GlobalAvgPool
from implicit_dsl.operators.resampling import Upsample, nearest
from implicit_dsl.operators.separable import Separable
from implicit_dsl.operators.windows import Axes, copies, margins
from implicit_dsl.shapes import Shape, count, known, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch

    from implicit_dsl.runtime import transposes
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")
    transposes = lazy_module("implicit_dsl.runtime.transposes")


class Adjoint(LinearRule):
    """Mᵀ of the operators M of the rule `of`."""

    of: ClassVar[LinearRule]

    def inner(self, operator: Operator) -> Operator:
        """What this is the transpose of."""
        return Operator(self.of.kind, operator.target, operator.source, operator.settings)

    def operator(self, settings: Settings, source: Shape) -> Operator:
        """The transpose of what `of` makes of a value of shape `settings["onto"]`."""
        given = {name: value for name, value in settings.items() if name != "onto"}
        turned = self.of.transpose(self.of.operator(given, settings["onto"]))
        assert turned is not None and turned.source == source, "the transpose takes what its operator gives"
        return turned

    def transpose(self, operator: Operator) -> Operator:
        return self.inner(operator)

    def entry_count(self, operator: Operator) -> int:
        return self.of.entry_count(self.inner(operator))

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        parts = self.of.entries(self.inner(operator), weights)
        return tuple(Entries("", part.cols, part.rows, None, part.coefficients) for part in parts)

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return (0, *(None,) * (len(operator.target) - 1))

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")


class PadAdjoint(Adjoint):
    kind = "pad_adjoint"
    of = Pad()
    calls = ("pad_transposed",)

    def _cells(self, operator: Operator) -> Axes:
        return margins(operator["pad"], operator["after"])

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        mode = operator["mode"]
        if mode == "zeros":
            return torch.nn.functional.pad(x, tuple(-cells for cells in self._cells(operator)))
        result: torch.Tensor = transposes.pad_transposed(x, self._cells(operator), mode)
        return result

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        mode = operator["mode"]
        if mode == "zeros":
            sides = zip(operator["pad"], operator["after"])
            cut = (f"{before or ''}:{-after or ''}" for before, after in sides)
            return Expression(f"{x.atom}[..., {', '.join(cut)}]")
        return Expression(f'runtime.pad_transposed({x.text}, {self._cells(operator)!r}, "{mode}")')

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        sides = zip(operator.target[1:], operator.source[1:], operator["pad"], operator["after"])
        each = (copies(n, m, 1, 1, before, after, 1, operator["mode"]) for n, m, before, after in sides)
        return float(prod(each))


class AvgPoolAdjoint(Adjoint):
    """Cells are shared out: each gets 1 ÷ k of those windows that it is in."""

    kind = "avg_pool_adjoint"
    of = AvgPool()
    calls = ("avg_pool_transposed",)

    def _left(self, operator: Operator) -> Axes:
        """The cells at the end of each axis that no window reads, and the padding behind counts as such."""
        left: list[int] = []
        geometry = (operator["kernel"], operator["stride"], operator["pad"])
        for large, small, k, s, p in zip(operator.target[1:], operator.source[1:], *geometry):
            sized = isinstance(large, int) and isinstance(small, int)
            left.append(count((large,)) + 2 * p - (count((small,)) - 1) * s - k if sized else 0)
        return tuple(left)

    def _repeats(self, operator: Operator) -> bool:
        """Whether windows lie side by side, so that each cell gets one value."""
        return operator["kernel"] == operator["stride"] and not any(operator["pad"])

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        geometry = (operator["kernel"], operator["stride"], operator["pad"], self._left(operator))
        result: torch.Tensor = transposes.avg_pool_transposed(x, *geometry)
        return result

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        kernel, left = operator["kernel"], self._left(operator)
        if not self._repeats(operator):
            geometry = (kernel, operator["stride"], operator["pad"], left)
            return Expression(f"runtime.avg_pool_transposed({x.text}, {', '.join(map(repr, geometry))})")
        text = f"F.interpolate({x.atom} / {prod(kernel)}, scale_factor={short(kernel)}, "
        text += f'mode="{nearest(kernel)}")'
        return Expression(f"F.pad({text}, {margins((0,) * len(left), left)!r})" if any(left) else text)

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        # a cell is in at most ⌈k / s⌉ windows of each axis
        return float(prod(-(-k // s) / k for k, s in zip(operator["kernel"], operator["stride"])))


class GlobalAvgPoolAdjoint(Adjoint):
    kind = "global_avg_pool_adjoint"
    of = GlobalAvgPool()

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        behind = sizes(operator.target[1:])
        return (x / prod(behind)).reshape(*x.shape, *(1,) * len(behind)).expand(*x.shape, *behind)

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        behind = sizes(operator.target[1:])
        index = ", ".join(["..."] + ["None"] * len(behind))
        kept = ", ".join(map(str, (-1, -1, *behind)))
        return Expression(f"({x.atom} / {prod(behind)})[{index}].expand({kept})")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return 1 / count(operator.target[1:])


class UpsampleAdjoint(Adjoint):
    kind = "upsample_adjoint"
    of: ClassVar[Upsample] = Upsample()
    calls = ("interpolate_transposed",)

    def _nearest(self, operator: Operator) -> bool:
        return str(operator.get("mode", "nearest")) == "nearest"

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        F, factor = torch.nn.functional, operator["factor"]
        if not self._nearest(operator):
            result: torch.Tensor = transposes.interpolate_transposed(x, factor, operator["align_corners"])
            return result
        pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(factor)]
        pooled: torch.Tensor = prod(factor) * pool(x, factor)
        return pooled

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        factor = operator["factor"]
        if not self._nearest(operator):
            corners = operator["align_corners"]
            return Expression(f"runtime.interpolate_transposed({x.text}, {factor!r}, {corners})")
        made = f"{prod(factor)} * F.avg_pool{len(factor)}d({x.text}, {short(factor)})"
        return Expression(made, tight=False)

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        factor = operator["factor"]
        if not operator.get("align_corners", False):
            return float(prod(factor))  # each cell has the same share of the places
        return None if known(operator.target) is None else largest_column(self.of, self.inner(operator))


def largest_column(rule: Separable, operator: Operator) -> float:
    """The largest sum of a column: the product of those of the axes."""
    each = 1.0
    for axis in range(1, len(operator.source)):
        _, columns, values = zip(*rule.along(operator, axis))
        each *= float(np.bincount(columns, values).max())
    return each


class AdaptiveAvgPoolAdjoint(Adjoint):
    kind = "adaptive_avg_pool_adjoint"
    of: ClassVar[AdaptiveAvgPool] = AdaptiveAvgPool()
    calls = ("adaptive_avg_pool_transposed",)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        result: torch.Tensor = transposes.adaptive_avg_pool_transposed(x, sizes(operator.target[1:]))
        return result

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        behind = sizes(operator.target[1:])
        return Expression(f"runtime.adaptive_avg_pool_transposed({x.text}, {behind!r})")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return largest_column(self.of, self.inner(operator))


RULES: tuple[Rule, ...] = (
    PadAdjoint(),
    AvgPoolAdjoint(),
    GlobalAvgPoolAdjoint(),
    UpsampleAdjoint(),
    AdaptiveAvgPoolAdjoint(),
)
