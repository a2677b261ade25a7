"""A factor for each entry or channel, with or without an offset: diagonal matrices."""

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
    ShapeError,
)
from implicit_dsl.operators.initialisers import Initialiser, ParameterSpec
from implicit_dsl.shapes import Shape, count, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")


class Diagonal(LinearRule):
    """w .* x for a `param` w of the shape of x."""

    kind = "diagonal"
    doc = "A `param` times a value of its shape, entry by entry: `w .* x`."
    example = "input u[4]\nparam w[4]\noutput y[4] = w .* u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        """The weight has the sizes of `axes` axes of the source from `first` on."""
        return Operator(self.kind, source, source, tuple(sorted(settings.items())))

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source)

    def _slots(self, operator: Operator) -> np.ndarray:
        """For each entry the entry of the weight."""
        shape, first, axes = sizes(operator.source), operator["first"], operator["axes"]
        own = shape[first : first + axes]
        behind = (1,) * (len(shape) - first - axes)
        numbers = np.arange(count(own)).reshape((*own, *behind))
        return np.broadcast_to(numbers, shape).reshape(-1)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        slots = self._slots(operator)
        diagonal = np.arange(len(slots))
        return (Entries("weight", diagonal, diagonal, slots),)

    def _behind(self, operator: Operator) -> tuple[int, int]:
        return operator["axes"], len(operator.source) - operator["first"] - operator["axes"]

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight, (_, behind) = weights["weight"], self._behind(operator)
        return x * weight.reshape((*weight.shape, *(1,) * behind))

    def _spread(self, operator: Operator) -> str:
        """What makes the weight broadcast over the axes behind its own: `[:, None]`."""
        axes, behind = self._behind(operator)
        return f"[{', '.join([':'] * axes + ['None'] * behind)}]" if behind and axes else ""

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return self.emit_with(operator, x, {"weight": layer})

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return Expression(f"{x.atom} * {weights['weight']}{self._spread(operator)}", tight=False)

    def emit_offset(self, operator: Operator, weights: Mapping[str, str]) -> Expression | None:
        return None

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        if operator["axes"] != 1:
            return None  # a row of this matrix is one entry of the tensor, not one of its rows
        return bounds.get(operator.parameter("weight") or "")


class Scaling(Diagonal):
    """A number, or a vector that is learned: its operators are those of numbers and of `param`s."""

    kind = "scaling"
    names = ("Scale",)
    formals = (
        Formal("factor", "number", "a number that is not learned", shown="learned"),
        Formal("start", "number", "what learned factors start from", default=1.0),
        Formal("axis", "integer", "the axis along which learned factors differ", default=1),
    )
    doc = "A factor for each channel, learned: γ x. With a number, `Scale(0.5)`, that times x."
    example = "input u[3, 4, 5]\noutput y[3, 4, 5] = Scale(; start = 0.1) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if settings["factor"] is not None:
            return Operator("scale", source, source, (("factor", settings["factor"]),))
        axis = settings["axis"]
        if axis > len(source) or not isinstance(source[axis - 1], int):
            raise ShapeError(
                f"Scale needs to know the size of axis {axis}, and its input is {show(source)}",
                f"axis {axis}",
                "axis",
            )
        chosen = {"axes": 1, "first": axis - 1}
        if settings["start"] != 1:
            chosen["start"] = settings["start"]
        return Operator("diagonal", source, source, tuple(chosen.items()))

    def transpose(self, operator: Operator) -> Operator | None:
        return operator

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        return self.operator(settings, target)

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        if operator.kind == "scale":
            return ()
        first = operator["first"]
        start = Initialiser("constant", (operator.get("start", 1.0),))
        return (ParameterSpec("weight", sizes(operator.source[first : first + 1]), initialiser=start),)


class Affine(Diagonal):
    """γ x + β behind a normalisation, with the tensors of its layer. RMSNorm has no β."""

    kind = "affine"
    doc = "The factors, and the offset if there is one, of a normalisation: γ x + β."
    example = "input u[3, 4]\noutput y[3, 4] = LayerNorm()(u)"

    def offset_count(self, operator: Operator) -> int:
        return count(operator.target) if operator["bias"] else 0

    def offsets(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        if not operator["bias"]:
            return ()
        slots = self._slots(operator)
        return (Entries("bias", np.arange(len(slots)), np.zeros_like(slots), slots),)

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        roles = ("weight", "bias") if operator["bias"] else ("weight",)
        return self.emit_with(operator, x, {role: f"{layer}.{role}" for role in roles})

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        product, offset = super().emit_with(operator, x, weights), self.emit_offset(operator, weights)
        return product if offset is None else Expression(f"{product.text} + {offset.text}", tight=False)

    def emit_offset(self, operator: Operator, weights: Mapping[str, str]) -> Expression | None:
        return Expression(weights["bias"] + self._spread(operator)) if "bias" in weights else None


RULES: tuple[Rule, ...] = (Diagonal(), Scaling(), Affine())
