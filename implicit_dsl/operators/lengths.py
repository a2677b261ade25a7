"""Sequences with a length of their own in each sample, padded to one number of steps.

The length k [] counts the steps: x[1:k] is x where t ≤ k, and zero behind. In k these are steps, with the
derivative zero and without a Lipschitz constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    Entries,
    Expression,
    Formal,
    LinearRule,
    Operator,
    Rule,
    Setting,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.relaxation import Line, Lines
from implicit_dsl.operators.slots import SeveralSlots, joined
from implicit_dsl.shapes import Shape, count, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


class Number(LinearRule):
    """Tokens as the numbers that they are: 0, 1, … times their unit vectors."""

    kind = "number"
    takes_tokens = True
    doc = "A length, which is read as a number."
    example = "input u[5, 3], k[] in 0:5\noutput y[5, 3] = u[1:k, :]"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return Operator(self.kind, source, source[:-1])

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        (vocab,) = sizes(operator.source[-1:])
        columns = np.arange(count(operator.source))
        return (Entries("", columns // vocab, columns, None, (columns % vocab).astype(np.float64)),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x @ torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return x

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return x

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        vocab = known(operator.source[-1:])
        return None if vocab is None else float(sum(range(vocab[0])))


class _WithLength(SeveralSlots):
    """φ of a length k [] and a sequence x [t, …]."""

    arguments = ("k", "x")
    function: ClassVar[str]

    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        k, x, *_ = sources
        if k or not x:
            raise ShapeError(f"a length [] and a sequence are needed, but these are {show(k)} and {show(x)}")
        return Operator(self.kind, joined(sources), self._target(x), self._settings(x, sources[2:]))

    def _target(self, x: Shape) -> Shape:
        return x

    def _settings(self, x: Shape, others: tuple[Shape, ...]) -> tuple[tuple[str, Setting], ...]:
        return ()

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        return (), operator.target

    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        dk, *others = changes
        found = self._moved_by(operator, *others)
        return np.where(_beside(dk > 0, found), np.inf, found)

    def _moved_by(self, operator: Operator, *changes: np.ndarray) -> np.ndarray:
        """The most that changes of the sequence can do, for any length."""
        (dx,) = changes
        return dx

    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        return np.zeros_like(parts[0]), *self._pulled(operator, parts, g)

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each length in its interval, φ picks entries: its values at the ends."""
        (low, *least), (high, *most) = self.parts(operator, lower), self.parts(operator, upper)
        first, last = _whole_numbers(low, high)
        made = []
        for more in range(int((last - first).max(initial=0)) + 1):
            k = np.minimum(first + more, last).astype(float)
            made.append((self.value(operator, k, *least), self.value(operator, k, *most)))
        return np.minimum.reduce([ends[0] for ends in made]), np.maximum.reduce([ends[1] for ends in made])

    def reads(self, operator: Operator) -> int:
        return 1 + count(self.slots(operator)[1][:1])  # one for each length that a sample may have

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        """Where lengths are known, what is picked, which is linear in the sequence."""
        first, last = _whole_numbers(self.parts(operator, lower)[0], self.parts(operator, upper)[0])
        if (first != last).any():
            return super().lines(operator, lower, upper)
        slots = 1.0 + np.arange(count(operator.source))  # 0 is none of them
        _, *places = self.parts(operator, slots.reshape(1, *sizes(operator.source)))
        each = [np.broadcast_to(place, (len(first), *place.shape[1:])) for place in places]
        picked = self.value(operator, first.astype(float), *each).reshape(len(first), -1)
        index = np.unique(picked, axis=0)  # samples of one length pick the same
        slope = (picked[:, None] == index).astype(float) * (index > 0)
        taken = np.cumsum(picked[:, None] == index, 1) == 1  # lengths may agree in some entries
        zero = np.zeros_like(picked)
        line = Line(slope * taken, zero)
        return Lines(np.maximum(index - 1, 0).astype(np.intp), (line,), (line,))

    def _pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        raise AssertionError("each of these says its own")

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        return Expression(f"runtime.{self.function}({', '.join(part.text for part in parts)})")


class UpTo(_WithLength):
    kind = "upto"
    function = "upto"
    calls = ("upto",)
    doc = "The first k steps of a sequence, and zeros behind them: `u[1:k, :]`, where k is a value `[]`."
    example = "input u[5, 3], k[]\noutput y[5, 3] = u[1:k, :]"

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        k, x = parts
        return np.where(_before(k, x), x, 0.0)

    def _pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.where(_before(*parts), g, 0.0),)


class AtStep(_WithLength):
    kind = "at_step"
    function = "at_step"
    calls = ("at_step",)
    formals = (Formal("start", "value", "what it is of no steps", shown="zeros"),)
    doc = "The last of the first k steps of a sequence: `last(u[1:k, :])`; a state starts from its own start."
    example = "input u[5, 3], k[]\noutput y[3] = last(u[1:k, :])"

    def _target(self, x: Shape) -> Shape:
        return x[1:]

    def _settings(self, x: Shape, others: tuple[Shape, ...]) -> tuple[tuple[str, Setting], ...]:
        if any(start != x[1:] for start in others):
            raise ShapeError(f"a sequence {show(x)} does not start from {show(others[0])}")
        return (("start", bool(others)), ("steps", x[0]))

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        starts = (operator.target,) if operator["start"] else ()
        return (), (operator["steps"], *operator.target), *starts

    def _whole(self, x: np.ndarray, *start: np.ndarray) -> np.ndarray:
        return np.concatenate([start[0][:, None] if start else np.zeros_like(x[:, :1]), x], 1)

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        k, *others = parts
        return np.asarray(self._whole(*others)[np.arange(len(k)), _steps(k, others[0])])

    def _pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        k, *others = parts
        whole = np.zeros_like(self._whole(*others))
        whole[np.arange(len(k)), _steps(k, others[0])] = g
        return whole[:, 1:], *(whole[:, 0] for _ in others[1:])

    def _moved_by(self, operator: Operator, *changes: np.ndarray) -> np.ndarray:
        return np.asarray(self._whole(*changes).max(1))


class ReverseUpTo(_WithLength):
    kind = "reverse_upto"
    function = "reverse_upto"
    calls = ("reverse_upto",)
    doc = "The first k steps of a sequence from the last to the first: `reverse(u[1:k, :])`."
    example = "input u[5, 3], k[]\noutput y[5, 3] = reverse(u[1:k, :])"

    def _order(self, k: np.ndarray, x: np.ndarray) -> np.ndarray:
        """For each step the one that comes in its place, [batch, t, 1, …]."""
        t, steps = np.arange(x.shape[1]), _steps(k, x)[:, None]
        order = np.where(t < steps, steps - 1 - t, t)
        return order.reshape(*order.shape, *(1,) * (x.ndim - 2))

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        k, x = parts
        return np.asarray(np.take_along_axis(x, self._order(k, x), 1))

    def _pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self.value(operator, parts[0], g),)  # it is its own inverse

    def _moved_by(self, operator: Operator, *changes: np.ndarray) -> np.ndarray:
        (dx,) = changes
        most = dx.max(1, keepdims=True) if dx.shape[1] else dx
        return np.broadcast_to(most, dx.shape)


def _steps(k: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How many steps there are, [batch], of x [batch, t, …]."""
    return np.asarray(np.clip(np.floor(k.reshape(len(k))), 0, x.shape[1]).astype(np.int64))


def _whole_numbers(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last length in intervals [batch]: one, where all that is open is rounding."""
    low, high = low.reshape(len(low)), high.reshape(len(high))
    near = np.round((low + high) / 2)
    known = np.maximum(np.abs(low - near), np.abs(high - near)) < 1e-6
    return np.where(known, near, np.floor(low)), np.where(known, near, np.floor(high))


def _before(k: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Which steps there are, [batch, t, 1, …]."""
    found = np.arange(x.shape[1]) < _steps(k, x)[:, None]
    return np.asarray(found.reshape(*found.shape, *(1,) * (x.ndim - 2)))


def _beside(one: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A number for each sample [batch], beside an array [batch, …]."""
    return np.asarray(one.reshape(len(like), *(1,) * (like.ndim - 1)))


RULES: tuple[Rule, ...] = (Number(), UpTo(), AtStep(), ReverseUpTo())
