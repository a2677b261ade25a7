"""Softmax and its logarithm, over one axis."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    ActivationRule,
    Expression,
    Formal,
    Operator,
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.joint import LARGEST, Planes, closest, log_sum_exp, of_sets, rounded, shares_below
from implicit_dsl.operators.relaxation import Lines, outwards
from implicit_dsl.shapes import Shape, count, show, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


def softmax(z: np.ndarray) -> np.ndarray:
    """exp(z) ÷ Σ exp(z) over the last axis, where one entry at least is finite."""
    powers = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def softmax_moved(change: np.ndarray) -> np.ndarray:
    """¼ (|Δ_i| + max_{j≠i} |Δ_j|) ≥ |Δp_i|, over the last axis.

    For Δp_i = p_i ((1 − p_i) Δ_i − Σ_{j≠i} p_j Δ_j) along the segment, where p_i (1 − p_i) ≤ ¼ and the
    p_j of the sum make up 1 − p_i. Attained at p_i = ½.
    """
    if change.shape[-1] < 2:
        return np.zeros_like(change)
    return np.asarray(0.25 * (change + _largest_other(change)))


def _largest_other(change: np.ndarray) -> np.ndarray:
    """max_{j≠i} |Δ_j| for each i of the last axis, which has two entries at least."""
    ordered = np.sort(change, axis=-1)
    largest, second = ordered[..., -1:], ordered[..., -2:-1]
    first = np.arange(change.shape[-1]) == change.argmax(-1)[..., None]  # one of several that are largest
    return np.where(first, second, largest)


def _share(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 ÷ (1 + Σ_{j≠i} exp (others_j − own_i)) over the last axis."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / np.exp(_apart(own, others)).sum(-1))


def softmax_bounds(
    lower: np.ndarray, upper: np.ndarray, surely: np.ndarray, maybe: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of softmax over those entries of the last axis that take part, `surely` or in some cases.

    Least where its own slot is at its lower end and all others are at their upper ones. What takes no part
    is zero.
    """
    bottom = _share(lower, np.where(maybe, upper, -np.inf))
    top = _share(upper, np.where(surely, lower, -np.inf))
    low, high = outwards(bottom, top, 0.0, 1.0)
    return np.where(surely, low, 0.0), np.where(maybe, high, 0.0)


def _log_share(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Its logarithm."""
    apart = _apart(own, others)
    top = apart.max(-1, keepdims=True)  # no less than 0, the entry of its own
    return np.asarray(-(top[..., 0] + np.log(np.exp(apart - top).sum(-1))))


def _apart(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """others_j − own_i for j ≠ i, and 0 for j = i."""
    apart = others[..., None, :] - own[..., :, None]
    apart[..., np.arange(own.shape[-1]), np.arange(own.shape[-1])] = 0.0
    return np.asarray(apart)


def log_softmax_planes(lower: np.ndarray, upper: np.ndarray) -> tuple[list[Planes], list[Planes]]:
    """zᵢ − log Σ exp(z) between planes, two below and one above: boxes [batch, sets, n]."""
    unit = np.eye(lower.shape[-1])
    below, above = (Planes(unit - one.slope, -one.offset) for one in log_sum_exp(lower, upper)[::-1])
    return [below, shares_below(lower, upper)], [above]


def softmax_planes(
    lower: np.ndarray, upper: np.ndarray, ends: tuple[np.ndarray, np.ndarray]
) -> tuple[list[Planes], list[Planes]]:
    """exp of the logarithm between planes: a chord above, and a tangent in the middle below.

    `ends` bounds the values, [batch, sets, n] each as the box.
    """
    below, above = log_softmax_planes(lower, upper)
    middle, most = (lower + upper) / 2, np.maximum(np.abs(lower), np.abs(upper))
    least, largest = ends
    with np.errstate(all="ignore"):
        low, high = np.log(least), np.log(largest)
        narrow = high - low <= 1e-9 * (1 + np.abs(low))
        chord = np.where(narrow, 0.0, (largest - least) / np.where(narrow, 1.0, high - low))
        tops = [Planes(chord[..., None] * one.slope, largest + chord * (one.offset - high)) for one in above]
        bottoms = []
        for one in below:
            at = one.at(middle)
            touched = np.exp(np.minimum(at, 0.0))
            slope, offset = touched[..., None] * one.slope, touched * (1 + one.offset - np.minimum(at, 0.0))
            bottoms.append(rounded(Planes(slope, offset), most, -1))
        return bottoms, [rounded(one, most, 1) for one in tops]


class _OverOneAxis(ActivationRule):
    """φ over the axis `dim`, by default the last one; it follows the others index by index."""

    elementwise = False
    formals = (Formal("dim", "axis", "the axis, counted from 1", shown="last"),)

    def operator(self, settings: Settings, source: Shape) -> Operator:
        dim, name = settings.get("dim"), self.names[0]
        if not source:
            raise ShapeError(f"{name} needs an axis, and its input is a number")
        if dim is not None and dim > len(source):
            raise ShapeError(f"a value of shape {show(source)} has no axis {dim}", "not an axis", "dim")
        return Operator(self.kind, source, source, () if dim is None else (("dim", dim),))

    def axis(self, operator: Operator) -> int:
        """Its axis in a batch of values."""
        return int(operator["dim"]) if operator.settings else -1

    def axes(self, operator: Operator) -> tuple[int | None, ...]:
        count = len(operator.target)
        mixed = self.axis(operator) % (count + 1) - 1
        return tuple(None if axis == mixed else axis for axis in range(count))

    def monotone(self, operator: Operator) -> bool:
        return False

    @abstractmethod
    def value(self, z: np.ndarray) -> np.ndarray:
        """φ over the last axis."""

    @abstractmethod
    def pulled(self, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        """g pulled back, over the last axis."""

    @abstractmethod
    def moved(self, change: np.ndarray) -> np.ndarray:
        """The majorant, over the last axis."""

    @abstractmethod
    def ends(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of φ on boxes, over the last axis, rounded outwards."""

    @abstractmethod
    def planes(
        self, lower: np.ndarray, upper: np.ndarray, ends: tuple[np.ndarray, np.ndarray]
    ) -> tuple[list[Planes], list[Planes]]:
        """Linear bounds below and above on boxes [batch, sets, n], on which φ lies within `ends`."""

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        axis = self.axis(operator)
        low, high = self.ends(np.moveaxis(lower, axis, -1), np.moveaxis(upper, axis, -1))
        return np.moveaxis(low, -1, axis), np.moveaxis(high, -1, axis)

    def reads(self, operator: Operator) -> int:
        n = count(operator.source[self.axis(operator) % (len(operator.source) + 1) - 1 :][:1])
        return n if n <= LARGEST else 0

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        n, axis = self.reads(operator), self.axis(operator)
        if not n:
            return super().lines(operator, lower, upper)
        places = np.arange(count(operator.source)).reshape(1, *sizes(operator.source))
        slots = np.moveaxis(places, axis, -1)
        low, high = (np.moveaxis(one, axis, -1).reshape(len(one), -1, n) for one in (lower, upper))
        ends = self.ends(low, high)
        middle = (low + high) / 2
        found = self.planes(low, high, ends)
        below, above = (closest(some, *rest) for some, *rest in zip(found, ends, (middle, middle), (-1, 1)))
        return of_sets(slots.reshape(-1, n), below, above)

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        axis = self.axis(operator)
        return np.moveaxis(self.value(np.moveaxis(z, axis, -1)), -1, axis)

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        axis = self.axis(operator)
        return np.moveaxis(self.pulled(np.moveaxis(z, axis, -1), np.moveaxis(g, axis, -1)), -1, axis)

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        axis = self.axis(operator)
        return np.moveaxis(self.moved(np.moveaxis(change, axis, -1)), -1, axis)


class Softmax(_OverOneAxis):
    kind = "softmax"
    names = ("softmax",)
    doc = "exp(z) ÷ Σ exp(z) over the last axis, or over another, `dim`. Its ∞-norm Lipschitz constant is ½."
    example = "input u[3, 5]\nstate p[3, 5] ~ softmax(u)\noutput y[3, 5] = p"

    def value(self, z: np.ndarray) -> np.ndarray:
        return softmax(z)

    def pulled(self, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        p = softmax(z)
        return np.asarray(p * (g - (p * g).sum(-1, keepdims=True)))

    def moved(self, change: np.ndarray) -> np.ndarray:
        return softmax_moved(change)

    def gain(self, operator: Operator) -> float:
        return 0.5

    def ends(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        all_of_them = np.ones(lower.shape, bool)
        return softmax_bounds(lower, upper, all_of_them, all_of_them)

    def planes(
        self, lower: np.ndarray, upper: np.ndarray, ends: tuple[np.ndarray, np.ndarray]
    ) -> tuple[list[Planes], list[Planes]]:
        return softmax_planes(lower, upper, ends)

    def range(self, operator: Operator) -> tuple[float, float]:
        return 0.0, 1.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.softmax({z.text}, {self.axis(operator)})")


class LogSoftmax(_OverOneAxis):
    kind = "log_softmax"
    names = ("log_softmax",)
    doc = "z − log Σ exp(z) over the last axis, or over another, `dim`. Its ∞-norm Lipschitz constant is 2."
    example = "input u[3, 5]\noutput y[3, 5] = log_softmax(u)"

    def value(self, z: np.ndarray) -> np.ndarray:
        shifted = z - z.max(-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))

    def pulled(self, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        return np.asarray(g - softmax(z) * g.sum(-1, keepdims=True))

    def moved(self, change: np.ndarray) -> np.ndarray:
        """|Δ_i| + max_{j≠i} |Δ_j|, for (1 − p_i) Δ_i − Σ_{j≠i} p_j Δ_j; reached as p_i → 0."""
        if change.shape[-1] < 2:
            return np.zeros_like(change)
        return np.asarray(change + _largest_other(change))

    def ends(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At the same corners as softmax."""
        bottom, top = (_log_share(own, others) for own, others in ((lower, upper), (upper, lower)))
        return outwards(bottom, top, -np.inf, 0.0)

    def planes(
        self, lower: np.ndarray, upper: np.ndarray, ends: tuple[np.ndarray, np.ndarray]
    ) -> tuple[list[Planes], list[Planes]]:
        return log_softmax_planes(lower, upper)

    def gain(self, operator: Operator) -> float:
        return 2.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.log_softmax({z.text}, {self.axis(operator)})")


RULES: tuple[Rule, ...] = (Softmax(), LogSoftmax())
