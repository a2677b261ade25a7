"""Values repeated along axes: to a finer grid, or over new axes."""

from __future__ import annotations

from abc import abstractmethod
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
    ShapeError,
)
from implicit_dsl.operators.windows import channels_and_axes, per_axis
from implicit_dsl.shapes import Shape, count, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


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


class Upsample(Repeating):
    kind = "upsample"
    names = ("Upsample",)
    formals = (
        Formal(
            "factor",
            "size",
            "how often each cell is repeated: one number, or one for each axis",
            required=True,
        ),
    )
    doc = "A finer grid on the axes behind the channels, each cell repeated: `nn.Upsample`, nearest."
    example = "input u[3, 4, 5]\noutput y[3, 8, 10] = Upsample(2) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes = channels_and_axes(source, "Upsample")
        factor = per_axis(settings["factor"], axes, "the factor", "factor")
        behind = known(source[1:])
        if behind is None:
            raise ShapeError(
                f"Upsample needs to know the sizes behind the channels, and its input is {show(source)}",
                show(source),
            )
        finer = tuple(size * times for size, times in zip(behind, factor))
        return Operator(self.kind, source, (source[0], *finer), (("factor", factor),))

    def columns(self, operator: Operator) -> np.ndarray:
        places = np.arange(count(operator.source)).reshape(sizes(operator.source))
        for axis, times in enumerate(operator["factor"], 1):
            places = places.repeat(times, axis)
        return np.asarray(places.reshape(-1))

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        for axis, times in enumerate(operator["factor"], 2):
            x = x.repeat_interleave(times, axis)
        return x

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        factor = operator["factor"]
        shown = str(factor[0]) if len(set(factor)) == 1 else repr(factor)
        # `nearest` rounds 1/factor, and so a position now and then; `nearest-exact` reads at cell centres
        mode = "nearest" if all(times & (times - 1) == 0 for times in factor) else "nearest-exact"
        return Expression(f'F.interpolate({x.text}, scale_factor={shown}, mode="{mode}")')


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
        if known(target[len(source) :]) is None:
            raise ShapeError(
                f"{show(target)} has a free size, along which nothing can be repeated", show(target)
            )
        return Operator(self.kind, source, target)

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


RULES: tuple[Rule, ...] = (Upsample(), Expand())
