"""Padding as an operator of its own: cells around an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    Entries,
    Expression,
    Formal,
    LinearRule,
    Operator,
    Rule,
    Settings,
)
from implicit_dsl.operators.convolution import MODE
from implicit_dsl.operators.windows import channels_and_axes, check_margins, margins, per_axis, read_at
from implicit_dsl.shapes import Shape, count, floor_affine, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


class Pad(LinearRule):
    """Each output is one cell of the input, or zero."""

    kind = "pad"
    names = ("Pad",)
    formals = (
        Formal("pad", "pad", "cells before each axis: one number, or one for each axis", required=True),
        Formal("after", "pad", "cells after each axis", shown="pad"),
        MODE,
    )
    doc = "Cells around an image, on the axes behind the channels: zeros, or copies, `nn.ReflectionPad2d`."
    example = 'input u[3, 4, 5]\noutput y[3, 6, 7] = Pad(1; mode = "reflect") * u'

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes, mode = channels_and_axes(source, "Pad"), settings["mode"]
        before = per_axis(settings["pad"], axes, "the padding", "pad")
        given = before if settings["after"] is None else settings["after"]
        after = per_axis(given, axes, "the padding", "after")
        for argument, cells in (("pad", before), ("after", after)):
            check_margins(source, "Pad", cells, mode, argument)
        target = tuple(floor_affine(n, b + a, 1) for n, b, a in zip(source[1:], before, after))
        chosen = (("after", after), ("mode", mode), ("pad", before))
        return Operator(self.kind, source, (source[0], *target), chosen)

    def transpose(self, operator: Operator) -> Operator | None:
        return Operator("pad_adjoint", operator.target, operator.source, operator.settings)

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        axes = channels_and_axes(target, "the transpose of Pad")
        before = per_axis(settings["pad"], axes, "the padding", "pad")
        given = before if settings["after"] is None else settings["after"]
        after = per_axis(given, axes, "the padding", "after")
        inner = tuple(floor_affine(n, -b - a, 1) for n, b, a in zip(target[1:], before, after))
        return self.operator(settings, (target[0], *inner))

    def _columns(self, operator: Operator) -> np.ndarray:
        """For each output the input that it is, or -1."""
        places = np.arange(count(operator.source)).reshape(sizes(operator.source))
        for axis, (before, after) in enumerate(zip(operator["pad"], operator["after"]), 1):
            extent = places.shape[axis]
            along = np.arange(-before, extent + after)
            outside = (along < 0) | (along >= extent)
            read = read_at(along, extent, operator["mode"]).clip(0, extent - 1)
            places = places.take(read, axis)
            if operator["mode"] == "zeros":
                places[(slice(None),) * axis + (outside,)] = -1
        return np.asarray(places.reshape(-1))

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source if operator["mode"] == "zeros" else operator.target)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        columns = self._columns(operator)
        rows = np.flatnonzero(columns >= 0)
        return (Entries("", rows, columns[rows], None),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        mode = "constant" if operator["mode"] == "zeros" else operator["mode"]
        return torch.nn.functional.pad(x, margins(operator["pad"], operator["after"]), mode)

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        mode = "" if operator["mode"] == "zeros" else f', mode="{operator["mode"]}"'
        cells = margins(operator["pad"], operator["after"])
        return Expression(f"F.pad({x.text}, {cells!r}{mode})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return 1.0

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return (0, *(None,) * (len(operator.target) - 1))


RULES: tuple[Rule, ...] = (Pad(),)
