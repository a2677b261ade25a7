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
from implicit_dsl.operators.relaxation import outwards
from implicit_dsl.shapes import Shape, show

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
    apart = others[..., None, :] - own[..., :, None]
    with np.errstate(over="ignore"):
        powers = np.exp(apart)
    powers[..., np.arange(own.shape[-1]), np.arange(own.shape[-1])] = 1.0
    return np.asarray(1 / powers.sum(-1))


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

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Least where its own slot is at its lower end and all others are at their upper ones."""
        axis = self.axis(operator)
        low, high = (np.moveaxis(bound, axis, -1) for bound in (lower, upper))
        bottom, top = (np.moveaxis(share, -1, axis) for share in (_share(low, high), _share(high, low)))
        return outwards(bottom, top, 0.0, 1.0)

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

    def gain(self, operator: Operator) -> float:
        return 2.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.log_softmax({z.text}, {self.axis(operator)})")


RULES: tuple[Rule, ...] = (Softmax(), LogSoftmax())
