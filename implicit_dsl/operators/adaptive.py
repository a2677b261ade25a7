"""Pooling to a size that is given, and over all of an image: windows follow from the sizes."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Formal, Operator, Rule, Settings, ShapeError
from implicit_dsl.operators.convolution import short
from implicit_dsl.operators.pooling import MaxPool
from implicit_dsl.operators.separable import Along, Separable
from implicit_dsl.operators.windows import channels_and_axes, per_axis
from implicit_dsl.shapes import Shape, count, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_SIZE = Formal("size", "size", "size of the output: one number, or one for each axis", required=True)


def _adaptive(rule: Rule, settings: Settings, source: Shape) -> Operator:
    axes = channels_and_axes(source, rule.names[0])
    return Operator(rule.kind, source, (source[0], *per_axis(settings["size"], axes, "the size", "size")))


def _cells(inputs: int, outputs: int) -> list[range]:
    """For each output what it reads: from ⌊i n ÷ m⌋ to before ⌈(i + 1) n ÷ m⌉, as in PyTorch."""
    return [range(i * inputs // outputs, -(-(i + 1) * inputs // outputs)) for i in range(outputs)]


@lru_cache(maxsize=256)
def _means(inputs: int, outputs: int) -> Along:
    cells = enumerate(_cells(inputs, outputs))
    return tuple((row, col, 1 / len(read)) for row, read in cells for col in read)


class AdaptiveAvgPool(Separable):
    kind = "adaptive_avg_pool"
    names = ("AdaptiveAvgPool",)
    formals = (_SIZE,)
    doc = "The means of as many windows as give the size that is wanted: `nn.AdaptiveAvgPool2d`."
    example = "input u[3, 7, 6]\noutput y[3, 2, 3] = AdaptiveAvgPool([2, 3]) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return _adaptive(self, settings, source)

    def transpose(self, operator: Operator) -> Operator | None:
        if known(operator.source[1:]) is None:
            raise ShapeError(
                f"the transpose of AdaptiveAvgPool gives {show(operator.source)}, "
                "and needs to know these sizes",
                "a size is free",
            )
        return Operator("adaptive_avg_pool_adjoint", operator.target, operator.source)

    def along(self, operator: Operator, axis: int) -> Along:
        return _means(sizes(operator.source)[axis], sizes(operator.target)[axis])

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        size = short(sizes(operator.target[1:]))
        return Expression(f"F.adaptive_avg_pool{len(operator.source) - 1}d({x.text}, {size})")


class AdaptiveMaxPool(MaxPool):
    kind = "adaptive_max_pool"
    names = ("AdaptiveMaxPool",)
    formals = (_SIZE,)
    doc = (
        "The maxima of as many windows as give the size that is wanted: "
        "`AdaptiveMaxPool(3)(x)`, `nn.AdaptiveMaxPool2d`."
    )
    example = "input u[3, 7, 6]\noutput y[3, 2, 3] = u |> AdaptiveMaxPool([2, 3])"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return _adaptive(self, settings, source)

    def windows(self, operator: Operator) -> tuple[np.ndarray, np.ndarray | None]:
        positions, inside = np.zeros((1, 1), dtype=np.int64), np.ones((1, 1), dtype=bool)
        for extent, outputs in zip(sizes(operator.source[1:]), sizes(operator.target[1:])):
            cells = _cells(extent, outputs)
            taps = np.arange(max(map(len, cells)))
            along = np.array([read.start for read in cells])[:, None] + taps
            fits = taps < np.array([len(read) for read in cells])[:, None]
            shape = (len(positions) * outputs, -1)
            grid = (positions * extent)[:, None, :, None] + along[None, :, None, :]
            inside = (inside[:, None, :, None] & fits[None, :, None, :]).reshape(shape)
            positions = grid.reshape(shape)
        return positions, inside

    def emit(self, operator: Operator, z: Expression) -> Expression:
        size = short(sizes(operator.target[1:]))
        return Expression(f"F.adaptive_max_pool{len(operator.source) - 1}d({z.text}, {size})")


class GlobalMaxPool(MaxPool):
    kind = "global_max_pool"
    names = ("GlobalMaxPool",)
    formals = ()
    doc = "The maximum of each channel over all axes behind it: [C, …] becomes [C]."
    example = "input u[3, 4, 5]\noutput y[3] = u |> GlobalMaxPool()"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if len(source) < 2:
            raise ShapeError(
                f"GlobalMaxPool needs channels and axes behind them, but its input is {show(source)}",
                "such as [channels, height, width]",
            )
        return Operator(self.kind, source, source[:1])

    def windows(self, operator: Operator) -> tuple[np.ndarray, np.ndarray | None]:
        return np.arange(count(operator.source[1:]))[None], None

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        # equal maxima share the gradient, as in PyTorch's `amax`
        axes = tuple(range(2, z.ndim))
        largest = z == z.max(axes, keepdims=True)
        share = largest / largest.sum(axes, keepdims=True)
        return np.asarray(share * g.reshape(*g.shape, *(1,) * len(axes)))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        axes = ", ".join(str(axis) for axis in range(1 - len(operator.source), 0))
        return Expression(f"{z.atom}.amax(({axes}{',' if len(operator.source) == 2 else ''}))")


RULES: tuple[Rule, ...] = (AdaptiveAvgPool(), AdaptiveMaxPool(), GlobalMaxPool())
