"""Activations of several arguments: z holds the arguments one after another, each in a slot of its own.

Arguments of one shape are stacked, [k, *shape], others are flattened and joined.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    ActivationRule,
    Expression,
    Operator,
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.monomial import Monomial
from implicit_dsl.shapes import Shape, count, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")


def joined(shapes: Sequence[Shape]) -> Shape:
    """The shape of arguments one after another. Raises ShapeError if it depends on a free size."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return (len(shapes), *first)
    for shape in shapes:
        if known(shape) is None:
            raise ShapeError(
                f"a value of shape {show(shape)} has a free size, and another argument has another shape",
                show(shape),
            )
    return (sum(count(shape) for shape in shapes),)


class Slot(Monomial):
    """The value as one of several arguments, zeros in the places of the others."""

    kind = "slot"
    doc = "One of the arguments of a product: `a .* b`, `matmul(a, b)`, `attend(q, k, v)`."
    example = "input a[4], b[4]\noutput y[4] = a .* b"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        index, shapes = settings["index"], settings["slots"]
        target = joined(shapes)
        start = index if target[1:] == source else sum(count(shape) for shape in shapes[:index])
        return Operator(self.kind, source, target, (("start", start),))

    def _first(self, operator: Operator) -> int:
        """The first entry of its slot."""
        stacked = operator.target[1:] == operator.source
        return int(operator["start"]) * (count(operator.source) if stacked else 1)

    def columns(self, operator: Operator) -> np.ndarray:
        places, first, size = (
            np.full(count(operator.target), -1),
            self._first(operator),
            count(operator.source),
        )
        places[first : first + size] = np.arange(size)
        return places

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        whole = x.new_zeros((len(x), count(operator.target)))
        whole.narrow(1, self._first(operator), count(operator.source)).copy_(
            x.reshape(len(x), count(operator.source))
        )
        return whole.reshape(len(x), *sizes(operator.target))

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        # alone; the arguments of an activation are emitted without being joined
        start, total = operator["start"], count(operator.target[:1])
        if operator.target[1:] == operator.source:
            sides = (0, 0) * len(operator.source) + (start, total - start - 1)
            return Expression(f"F.pad({x.atom}.unsqueeze(1), {sides!r})")
        behind = total - start - count(operator.source)
        return Expression(f"F.pad({x.atom}.flatten(1), {(start, behind)!r})")


class SeveralSlots(ActivationRule):
    """φ of several arguments. It is Lipschitz only where these are bounded."""

    elementwise = False
    has_useful_majorant = False

    @abstractmethod
    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        """The operator on arguments of these shapes. Raises ShapeError if there is none."""

    def operator(self, settings: Settings, source: Shape) -> Operator:
        """The operator on arguments of one shape."""
        return self.join(settings, (source,) * len(self.arguments))

    def monotone(self, operator: Operator) -> bool:
        return False

    @abstractmethod
    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        """φ on arguments [batch, *slot]."""

    @abstractmethod
    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        """g [batch, *target] pulled back onto each argument."""

    @abstractmethod
    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        """A bound of |φ(u) − φ(v)| for arguments with |u − v| ≤ changes and |u|, |v| ≤ most."""

    def parts(self, operator: Operator, z: np.ndarray) -> list[np.ndarray]:
        """The arguments in z [batch, *source]."""
        flat, made, start = z.reshape(len(z), -1), [], 0
        for shape in self.slots(operator):
            made.append(flat[:, start : start + count(shape)].reshape(len(z), *sizes(shape)))
            start += count(shape)
        return made

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return self.value(operator, *self.parts(operator, z))

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        pulled = self.pulled(operator, self.parts(operator, z), g)
        return np.concatenate([part.reshape(len(z), -1) for part in pulled], axis=1).reshape(z.shape)

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        unbounded = np.full_like(change, np.inf)
        return self.majorant_on(operator, change, -unbounded, unbounded)

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        most = np.maximum(np.abs(lower), np.abs(upper))
        return self.moved(operator, self.parts(operator, change), self.parts(operator, most))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        """On arguments that are joined already."""
        shapes, parts, start = self.slots(operator), [], 0
        for number, shape in enumerate(shapes):
            if operator.source[1:] == shape:
                parts.append(Expression(f"{z.atom}[:, {number}]"))
                continue
            piece = f"{z.atom}[:, {start}:{start + count(shape)}]"
            parts.append(Expression(f"{piece}.unflatten(1, {shape!r})"))
            start += count(shape)
        return self.emit_slots(operator, parts)


RULES: tuple[Rule, ...] = (Slot(),)
