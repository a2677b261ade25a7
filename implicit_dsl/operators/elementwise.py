"""What all activations have in common that act on each entry alone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators import relaxation
from implicit_dsl.operators.base import ActivationRule, Operator
from implicit_dsl.operators.relaxation import Lines

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


@dataclass(frozen=True, slots=True)
class Decay:
    """The bound C |z|ᵐ exp(−λ |z|)."""

    factor: float = 0.0
    power: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Tail:
    """What φ tends to far out: |φ(z) − (slope·z + offset)| ≤ `value`, and |φ'(z) − slope| ≤ `derivative`."""

    slope: float
    offset: float
    value: Decay = Decay()
    derivative: Decay = Decay()


@dataclass(frozen=True, slots=True)
class Curve:
    """How φ' runs, which is what bounds of functions made of φ rest on.

    `turns` are the points where φ' is not monotone or jumps, with its values on both sides; `below` holds
    for z ≤ −start and `above` for z ≥ start, where start is at least 1.
    """

    turns: tuple[tuple[float, float], ...]
    below: Tail
    above: Tail
    start: float = 2.0


class Elementwise(ActivationRule):
    """φ acts on each entry alone. Subclasses give φ, its derivative and the range of that."""

    @abstractmethod
    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        """φ'(z), entry by entry."""

    def curve(self, operator: Operator) -> Curve | None:
        """How φ' runs; None: functions made of it have no derived bound."""
        return None

    def turns(self, operator: Operator) -> tuple[float, ...] | None:
        """In order, the points between which φ' is monotone; None: they are not known."""
        curve = self.curve(operator)
        return None if curve is None else tuple(sorted({point for point, _ in curve.turns}))

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        turns = self.turns(operator)
        if turns is None or self.monotone(operator):
            return super().image(operator, lower, upper)
        with np.errstate(all="ignore"):
            excess, zero = relaxation.Excess(self, operator, turns, lower, upper), np.zeros_like(lower)
            low, high = -excess.largest(zero, -1.0), excess.largest(zero, 1.0)
        known = self.smooth(operator, lower, upper) & np.isfinite(low) & np.isfinite(high)
        if known.all():
            return low, high
        least, most = super().image(operator, lower, upper)
        return np.where(known, low, least), np.where(known, high, most)

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        batch, turns = len(lower), self.turns(operator)
        low, high = lower.reshape(batch, -1), upper.reshape(batch, -1)
        with np.errstate(all="ignore"):
            if turns is not None:
                made = relaxation.curved_lines(self, operator, turns, low, high)
            else:
                least, most = relaxation.mean_slopes(partial(self.slopes_on, operator), low, high)
                value = self.reference(operator, (low + high) / 2)
                made = relaxation.secant_lines(value, least, most, low, high)
        return relaxation.or_constants(
            made, self.smooth(operator, low, high), self.image(operator, lower, upper)
        )

    def smooth(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Where φ has a bounded slope on an interval."""
        return np.ones(lower.shape, bool)

    def slopes_on(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of φ' on intervals; infinite where none are known."""
        least, most = self.slope(operator) or (-np.inf, np.inf)
        return np.full_like(lower, least), np.full_like(lower, most)

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        return np.asarray(g * self.derivative(operator, z))

    def slope(self, operator: Operator) -> tuple[float, float] | None:
        """inf φ' and sup φ', rounded outwards where they are not exact."""
        return 0.0, 1.0

    def monotone(self, operator: Operator) -> bool:
        slope = self.slope(operator)
        return slope is not None and slope[0] >= 0

    def gain(self, operator: Operator) -> float | None:
        slope = self.slope(operator)
        return None if slope is None else max(abs(bound) for bound in slope)

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        gain = self.gain(operator)
        if gain is None:
            return np.where(change > 0, np.inf, 0.0)
        return change * gain


class Steep(Elementwise):
    """Its slope has no bound. Between two points it has, where `steepest` is finite."""

    has_useful_majorant = False

    @abstractmethod
    def steepest(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """The largest |φ'| between two bounds; infinite if φ is not defined on all of it."""

    def slope(self, operator: Operator) -> tuple[float, float] | None:
        return None

    def turns(self, operator: Operator) -> tuple[float, ...]:
        """On any interval on which it is smooth."""
        return ()

    def smooth(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(np.isfinite(self.steepest(operator, lower, upper)))

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        steepest = self.steepest(operator, lower, upper)
        return np.asarray(np.multiply(steepest, change, out=np.zeros_like(change), where=change > 0))


def kinked(kink: float, below: Tail, above: Tail) -> Curve:
    """φ that is affine on both sides of a point."""
    turns = ((kink, below.slope), (kink, above.slope))
    return Curve(turns, below, above, max(1.0, abs(kink) + 1))


def example(call: str) -> str:
    """A body that applies an activation."""
    return f"input u[6]\nstate x[6] ~ {call}\noutput y[6] = x"
