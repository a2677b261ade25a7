"""Values repeated along axes or interpolated: to a finer grid, or over new axes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    Entries,
    Expression,
    Formal,
    LinearRule,
    Operator,
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.convolution import short
from implicit_dsl.operators.relaxation import Lines, line
from implicit_dsl.operators.separable import Along, Separable
from implicit_dsl.operators.slots import SeveralSlots, joined
from implicit_dsl.operators.windows import Axes, channels_and_axes, per_axis
from implicit_dsl.shapes import Shape, affine, count, floor_affine, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


_LINEAR = ("linear", "bilinear", "trilinear")  # what PyTorch calls it on 1, 2 and 3 axes


class Repeating(LinearRule):
    """Each output is one of the inputs, so each row of the matrix has a single one."""

    @abstractmethod
    def columns(self, operator: Operator) -> np.ndarray:
        """For each output the input that it is."""

    def entry_count(self, operator: Operator) -> int:
        return count(operator.target)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        return (Entries("", np.arange(count(operator.target)), self.columns(operator), None),)

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return 1.0


class Upsample(Separable):
    """`nearest`: each cell repeated. `linear`: between the two nearest cells along each axis, whose places
    are their centres, or with `align_corners` such that the first and the last cell stay where they are."""

    kind = "upsample"
    names = ("Upsample",)
    formals = (
        Formal("factor", "size", "how much finer: one number, or one for each axis", required=True),
        Formal("mode", "choice", "how cells are filled", default="nearest", choices=("nearest", *_LINEAR)),
        Formal("align_corners", "flag", "of linear modes: keep the first and the last cell", default=False),
    )
    doc = (
        "A finer grid on the axes behind the channels: `nn.Upsample`. Each cell is repeated, "
        "or with `linear` (`bilinear` on 2 axes, `trilinear` on 3) values are interpolated."
    )
    example = 'input u[3, 4, 5]\noutput y[3, 8, 10] = Upsample(2; mode = "bilinear") * u'

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes, mode = channels_and_axes(source, "Upsample"), settings["mode"]
        factor = per_axis(settings["factor"], axes, "the factor", "factor")
        if mode not in ("nearest", "linear", _LINEAR[axes - 1]):
            raise ShapeError(
                f"the mode `{mode}` is for {_LINEAR.index(mode) + 1} axes behind the channels, "
                f"and the input {show(source)} has {axes}",
                mode,
                "mode",
                help=f'write `mode = "{_LINEAR[axes - 1]}"`, or `"linear"` for any number of axes',
            )
        if mode == "nearest" and settings["align_corners"]:
            raise ShapeError(
                "`align_corners` is about linear modes, and this one repeats cells",
                "without effect",
                "align_corners",
                help='write `mode = "linear"`, or leave it out',
            )
        finer = tuple(affine(size, times, 0, 1) for size, times in zip(source[1:], factor))
        chosen: dict[str, Any] = {"factor": factor}
        if mode != "nearest":
            chosen |= {"align_corners": settings["align_corners"], "mode": "linear"}
        return Operator(self.kind, source, (source[0], *finer), tuple(sorted(chosen.items())))

    def transpose(self, operator: Operator) -> Operator | None:
        return Operator("upsample_adjoint", operator.target, operator.source, operator.settings)

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        axes = channels_and_axes(target, "the transpose of Upsample")
        factor = per_axis(settings["factor"], axes, "the factor", "factor")
        made = self.operator(
            settings, (target[0], *(floor_affine(n, 0, times) for n, times in zip(target[1:], factor)))
        )
        if made.target != target:
            raise ShapeError(
                f"this Upsample gives multiples of {short(factor)}, "
                f"and its transpose is applied to {show(target)}",
                f"a multiple of {short(factor)}",
                "factor",
            )
        return made

    def along(self, operator: Operator, axis: int) -> Along:
        inputs, factor = sizes(operator.source)[axis], operator["factor"][axis - 1]
        if operator.get("mode", "nearest") == "nearest":
            return tuple((row, row // factor, 1.0) for row in range(inputs * factor))
        return _linear(inputs, factor, operator["align_corners"])

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        factor = operator["factor"]
        if operator.get("mode", "nearest") == "nearest":
            mode = nearest(factor)
            return Expression(f'F.interpolate({x.text}, scale_factor={short(factor)}, mode="{mode}")')
        options = f'mode="{_LINEAR[len(factor) - 1]}"'
        options += ", align_corners=True" if operator["align_corners"] else ""
        return Expression(f"F.interpolate({x.text}, scale_factor={short(factor)}, {options})")


def nearest(factor: Axes) -> str:
    """What PyTorch calls the repetition of cells."""
    # `nearest` rounds 1/factor, and so a position now and then; `nearest-exact` reads at cell centres
    return "nearest" if all(times & (times - 1) == 0 for times in factor) else "nearest-exact"


@lru_cache(maxsize=256)
def _linear(inputs: int, factor: int, corners: bool) -> Along:
    """Two neighbours of each place with their weights, rounded once; one where it is a cell's."""
    made: list[tuple[int, int, float]] = []
    outputs = inputs * factor
    for row in range(outputs):
        if corners:
            place = Fraction(row * (inputs - 1), max(1, outputs - 1))
        else:
            place = max(Fraction(0), Fraction(2 * row + 1 - factor, 2 * factor))
        left = int(place)
        share = place - left
        if share == 0 or left == inputs - 1:
            made.append((row, left, 1.0))
        else:
            made += [(row, left, float(1 - share)), (row, left + 1, float(share))]
    return tuple(made)


class Expand(Repeating):
    kind = "expand"
    names = ("expand",)
    doc = "`expand(s, x)`: s [c] repeated over the axes that x [c, …] has behind it."
    example = "input s[3], u[3, 4, 5]\noutput y[3, 4, 5] = u + expand(s, u)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        target = settings["shape"]
        if target[: len(source)] != source:
            raise ShapeError(
                f"{show(source)} cannot be repeated to {show(target)}, which does not begin with it",
                show(source),
            )
        return Operator(self.kind, source, target)

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        kept = len(operator.source)
        return (*range(kept), *(None,) * (len(operator.target) - kept))

    def columns(self, operator: Operator) -> np.ndarray:
        return np.arange(count(operator.target)) // count(operator.target[len(operator.source) :])

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        behind = sizes(operator.target)[len(operator.source) :]
        return x.reshape(*x.shape, *(1,) * len(behind)).expand(*x.shape, *behind)

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        behind = sizes(operator.target[len(operator.source) :])
        if not behind:
            return x
        index = ", ".join(["..."] + ["None"] * len(behind))
        kept = ", ".join(["-1"] * (len(operator.source) + 1) + [str(size) for size in behind])
        return Expression(f"{x.atom}[{index}].expand({kept})")


class ExpandAs(SeveralSlots):
    """`expand(s, x)` where x has free sizes: it is as long as x is. Of x nothing but the shape counts."""

    kind = "expand_as"
    arguments = ("s", "x")
    only_shapes = ("x",)
    homogeneous = True
    has_useful_majorant = True
    doc = (
        "`expand(s, x)` where sizes of x are free: s [c] repeated over the axes that x [c, …] has behind it."
    )
    example = "input s[3], u[3, _]\noutput y = u + expand(s, u)"

    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        s, x = sources
        if x[: len(s)] != s:
            raise ShapeError(
                f"{show(s)} cannot be repeated to {show(x)}, which does not begin with it", show(s)
            )
        return Operator(self.kind, joined(sources), x, (("axes", len(s)),))

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        return operator.target[: operator["axes"]], operator.target

    def monotone(self, operator: Operator) -> bool:
        return True

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        s, x = parts
        return np.broadcast_to(s.reshape(*s.shape, *(1,) * (x.ndim - s.ndim)), x.shape)

    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        s, x = parts
        return g.sum(tuple(range(s.ndim, g.ndim))), np.zeros_like(x)

    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        return self.value(operator, *changes)

    def gain(self, operator: Operator) -> float:
        return 1.0

    def reads(self, operator: Operator) -> int:
        return 1

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        places = np.arange(count(operator.source)).reshape(1, *sizes(operator.source))
        index = self.value(operator, *self.parts(operator, places)).reshape(1, -1)
        zero = np.zeros((len(lower), index.shape[1]))
        same = (line(zero + 1, zero),)
        return Lines(index, same, same)

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        s, x = parts
        behind = ", ".join(["..."] + ["None"] * (len(operator.target) - operator["axes"]))
        return Expression(f"{s.atom}[{behind}].expand_as({x.text})")


RULES: tuple[Rule, ...] = (Upsample(), Expand(), ExpandAs())
