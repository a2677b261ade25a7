"""Channels traded for a finer or coarser grid, without any arithmetic: `PixelShuffle` and its inverse.

W. Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
convolutional neural network", CVPR 2016, equation 4.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Formal, Operator, Rule, Settings, ShapeError
from implicit_dsl.operators.monomial import Monomial
from implicit_dsl.shapes import Shape, affine, count, known, show, sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


class _Shuffle(Monomial):
    """A permutation of images [c, h, w]; `function` is that of PyTorch, `inverse` the rule that undoes it."""

    function: str
    sized: str  # what must be known of an image
    formals = (Formal("factor", "integer", "how much finer or coarser each axis gets", required=True),)

    @abstractmethod
    def shuffled(self, image: Shape, r: int) -> Shape | None:
        """What becomes of an image, or None if a size that must be known is free.

        Raises ShapeError if it cannot be cut.
        """

    @abstractmethod
    def inverse(self) -> _Shuffle: ...

    def operator(self, settings: Settings, source: Shape) -> Operator:
        factor = settings["factor"]
        target = self.shuffled(source, factor) if len(source) == 3 else None
        if target is None:
            raise ShapeError(
                f"{self.names[0]} takes images [channels, height, width] of known {self.sized}, "
                f"and its input is {show(source)}",
                show(source),
            )
        return Operator(self.kind, source, target, (("factor", factor),))

    def transpose(self, operator: Operator) -> Operator:
        return Operator(self.inverse().kind, operator.target, operator.source, operator.settings)

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        return self.transpose(self.inverse().operator(settings, target))

    def columns(self, operator: Operator) -> np.ndarray:
        cells = torch.arange(count(operator.source)).view(1, *sizes(operator.source))
        return np.asarray(self.apply(operator, cells, {}).reshape(-1))

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        moved: torch.Tensor = getattr(torch, self.function)(x, operator["factor"])
        return moved

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return Expression(f"F.{self.function}({x.text}, {operator['factor']})")


class PixelShuffle(_Shuffle):
    kind = "pixel_shuffle"
    names = ("PixelShuffle",)
    sized = "channels"
    function = "pixel_shuffle"
    doc = "Groups of r² channels become r × r cells each: `[c·r², h, w]` to `[c, h·r, w·r]`."
    example = "input u[1, 4, 4]\noutput y[1, 8, 8] = PixelShuffle(2) * Conv(4, 3; pad = 1) * u"

    def shuffled(self, image: Shape, r: int) -> Shape | None:
        channels, *grid = image
        if not isinstance(channels, int):
            return None
        if channels % r**2:
            raise ShapeError(
                f"{channels} channels cannot be cut into groups of {r}² = {r**2}", show(image), "factor"
            )
        return channels // r**2, *(affine(size, r, 0, 1) for size in grid)

    def inverse(self) -> _Shuffle:
        return PixelUnshuffle()


class PixelUnshuffle(_Shuffle):
    kind = "pixel_unshuffle"
    names = ("PixelUnshuffle",)
    sized = "size"
    function = "pixel_unshuffle"
    doc = "The inverse of `PixelShuffle`: r × r cells become r² channels, `[c, h, w]` to `[c·r², h/r, w/r]`."
    example = "input u[1, 8, 8]\noutput y[4, 4, 4] = PixelUnshuffle(2) * u"

    def shuffled(self, image: Shape, r: int) -> Shape | None:
        whole = known(image)
        if whole is None:
            return None
        channels, height, width = whole
        if height % r or width % r:
            raise ShapeError(
                f"a grid of {height} × {width} cannot be cut into cells of {r} × {r}", show(image), "factor"
            )
        return channels * r**2, height // r, width // r

    def inverse(self) -> _Shuffle:
        return PixelShuffle()


RULES: tuple[Rule, ...] = (PixelShuffle(), PixelUnshuffle())
