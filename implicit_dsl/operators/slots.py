"""Activations of several arguments: z holds the arguments one after another, each in a slot of its own.

Arguments of one shape are stacked, [k, *shape], others are flattened and joined; those with free sizes
are joined along the last axis, if they have the others in common. Where they have not, how long they are
together is known when the module is called.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    ActivationRule,
    Expression,
    Operator,
    Rule,
    Setting,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.monomial import Monomial
from implicit_dsl.shapes import Dim, Shape, Total, count, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")


def joined(shapes: Sequence[Shape]) -> Shape:
    """The shape of arguments one after another."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return (len(shapes), *first)
    if all(known(shape) is not None for shape in shapes):
        return (sum(count(shape) for shape in shapes),)
    widths = _widths(shapes)
    if widths is not None:
        return (*max(shapes, key=len)[:-1], sum(widths))
    return (Total(tuple(shapes)),)


def place_of(start: Dim) -> tuple[int, int]:
    """What the `start` of slots is to be sorted by: behind one with a free size, each `start` is free."""
    return (1, len(start.shapes)) if isinstance(start, Total) else (0, count((start,)))


def _widths(shapes: Sequence[Shape]) -> list[int] | None:
    """How many columns each takes beside the others, if they have all axes but the last in common.

    A value without the last axis is one column.
    """
    before = max(shapes, key=len)[:-1]
    widths = [1 if shape == before else shape[-1] if shape[:-1] == before else None for shape in shapes]
    found = [width for width in widths if isinstance(width, int)]
    return found if len(found) == len(shapes) else None


class Slot(Monomial):
    """The value as one of several arguments, zeros in the places of the others.

    `start`: its number where arguments are stacked, else its first entry, or its first column. With
    `empty`, nothing but the shape of the value counts, and its place holds zeros as well.
    """

    kind = "slot"
    doc = "One of the arguments of a product: `a .* b`, `matmul(a, b)`, `attend(q, k, v)`."
    example = "input a[4], b[4]\noutput y[4] = a .* b"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        index, shapes = settings["index"], settings["slots"]
        target = joined(shapes)
        before: tuple[Shape, ...] = tuple(shapes[:index])
        chosen: dict[str, Setting] = {"empty": True} if settings.get("empty", False) else {}
        if all(shape == source for shape in shapes):
            chosen["start"] = index
        elif len(target) == 1:
            counted = all(known(shape) is not None for shape in before)
            chosen["start"] = sum(map(count, before)) if counted else Total(before)
        else:
            chosen |= {"columns": True, "start": sum((_widths(shapes) or [])[:index])}
        return Operator(self.kind, source, target, tuple(sorted(chosen.items())))

    def _columns(self, operator: Operator) -> int:
        """How many columns it takes beside others; 0 if it does not stand beside them."""
        if not operator.get("columns", False):
            return 0
        return 1 if len(operator.source) < len(operator.target) else count(operator.source[-1:])

    def factor(self, operator: Operator) -> float:
        return 0.0 if operator.get("empty", False) else 1.0

    def entry_count(self, operator: Operator) -> int:
        return 0 if operator.get("empty", False) else super().entry_count(operator)

    def _own(self, operator: Operator, whole: Any) -> Any:
        """Its part of an array [..., *target]."""
        start, source, width = operator["start"], operator.source, self._columns(operator)
        if operator.target[1:] == source and not width:
            return whole[(..., start, *(slice(None),) * len(source))]
        return whole[..., start : start + (width or count(source))]

    def columns(self, operator: Operator) -> np.ndarray:
        places = np.full(count(operator.target), -1)
        if operator.get("empty", False):
            return places
        own = self._own(operator, np.arange(len(places)).reshape(sizes(operator.target)))
        places[own.reshape(-1)] = np.arange(count(operator.source))
        return places

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        whole = x.new_zeros((len(x), *sizes(operator.target)))
        own = self._own(operator, whole)
        own.copy_(self.factor(operator) * x.reshape(own.shape))
        return whole

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        # alone; the arguments of an activation are emitted without being joined
        start, target, width = operator["start"], operator.target, self._columns(operator)
        if operator.get("empty", False):
            x = Expression(f"0 * {x.atom}", tight=False)
        if width:
            column = ".unsqueeze(-1)" if len(operator.source) < len(target) else ""
            sides = (start, count(target[-1:]) - start - width)
            return Expression(f"F.pad({x.atom}{column}, {sides!r})")
        if target[1:] == operator.source:
            around = (0, 0) * len(operator.source) + (start, count(target[:1]) - start - 1)
            return Expression(f"F.pad({x.atom}.unsqueeze(1), {around!r})")
        behind = count(target) - start - count(operator.source)
        return Expression(f"F.pad({x.atom}.flatten(1), {(start, behind)!r})")


def _beside(operator: Operator, shapes: Sequence[Shape]) -> bool:
    """Whether the arguments of an activation stand beside each other along the last axis."""
    return len(operator.source) > 1 and any(shape != shapes[0] for shape in shapes)


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
        shapes = self.slots(operator)
        flat, made, start = z.reshape(len(z), -1), [], 0
        if _beside(operator, shapes):
            widths = _widths(shapes) or []
            cut = np.split(z, np.cumsum(widths)[:-1], -1)
            return [part.reshape(len(z), *sizes(shape)) for part, shape in zip(cut, shapes)]
        for shape in shapes:
            made.append(flat[:, start : start + count(shape)].reshape(len(z), *sizes(shape)))
            start += count(shape)
        return made

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return self.value(operator, *self.parts(operator, z))

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        pulled = self.pulled(operator, self.parts(operator, z), g)
        shapes = self.slots(operator)
        if _beside(operator, shapes):
            widths = _widths(shapes) or []
            columns = [part.reshape(*z.shape[:-1], width) for part, width in zip(pulled, widths)]
            return np.concatenate(columns, axis=-1)
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
        for width, shape in zip(_widths(shapes) or [], shapes) if _beside(operator, shapes) else ():
            column = len(shape) < len(operator.source)
            index = f"{start}" if column else f"{start}:{start + width}"
            parts.append(Expression(f"{z.atom}[..., {index}]"))
            start += width
        for number, shape in enumerate(shapes) if not parts else ():
            if all(other == shape for other in shapes):
                parts.append(Expression(f"{z.atom}[:, {number}]"))
                continue
            piece = f"{z.atom}[:, {start}:{start + count(shape)}]"
            whole = f"torch.unflatten({piece}, 1, {shape!r})" if shape else f"{z.atom}[:, {start}]"
            parts.append(Expression(whole))
            start += count(shape)
        return self.emit_slots(operator, parts)


class EntryByEntry(SeveralSlots):
    """φ of two arguments of one shape, which is also that of the state. `done` is what happens to them."""

    arguments = ("a", "b")
    done: ClassVar[str]

    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        a, b = sources
        if a != b:
            raise ShapeError(
                f"values of shapes {show(a)} and {show(b)} cannot be {self.done} entry by entry",
                notes=("shapes must be equal: nothing is repeated along an axis unless it is written",),
                help="`expand(s, x)` repeats s [c] to the shape of x [c, …]",
            )
        return Operator(self.kind, joined(sources), a)

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        return operator.target, operator.target


RULES: tuple[Rule, ...] = (Slot(),)
