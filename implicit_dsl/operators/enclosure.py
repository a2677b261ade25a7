"""Enclosures of a function and its derivative on intervals, by automatic differentiation, rounded outwards.

Sums and products are rounded to the next number. φ and φ' are computed by NumPy and SciPy, whose error
is taken to be below `LIBRARY`, absolute and relative, which is hundreds of units in the last place.
(Moore, Kearfott and Cloud 2009, chapters 5 and 6.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.body import Body, run
from implicit_dsl.operators.elementwise import Curve, Elementwise

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

LIBRARY = 1e-13
_BESIDE = 1e-7  # how exactly the turning points are known, generously
_TOLERANCE = 1e-7
_CELLS, _MOST_CELLS, _ROUNDS = 2048, 100_000, 40


@dataclass(frozen=True)
class Range:
    """Intervals [lower, upper], in arrays of one shape."""

    lower: np.ndarray
    upper: np.ndarray

    def __add__(self, other: Range) -> Range:
        return _outwards(self.lower + other.lower, self.upper + other.upper)

    def __mul__(self, other: Range) -> Range:
        ends = [a * b for a in (self.lower, self.upper) for b in (other.lower, other.upper)]
        return _outwards(np.minimum.reduce(ends), np.maximum.reduce(ends))

    def hull(self, other: Range) -> Range:
        return Range(np.minimum(self.lower, other.lower), np.maximum(self.upper, other.upper))

    @property
    def magnitude(self) -> np.ndarray:
        return np.asarray(np.maximum(np.abs(self.lower), np.abs(self.upper)))


def _outwards(lower: np.ndarray, upper: np.ndarray) -> Range:
    return Range(np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf))


def _computed(lower: np.ndarray, upper: np.ndarray) -> Range:
    """An interval between two results of a library."""
    return Range(lower - LIBRARY * (1 + np.abs(lower)), upper + LIBRARY * (1 + np.abs(upper)))


@dataclass(frozen=True)
class Pair:
    """A function and its derivative on intervals."""

    value: Range
    slope: Range


class Intervals:
    """The arithmetic of pairs. `rule` finds the rule of an activation; all have curves."""

    def __init__(self, rule: Callable[[Operator], Elementwise], like: np.ndarray) -> None:
        self._rule, self._like = rule, like

    def _exact(self, number: float) -> Range:
        whole = np.full_like(self._like, number)
        return Range(whole, whole)

    def constant(self, number: float) -> Pair:
        return Pair(self._exact(number), self._exact(0.0))

    def scale(self, number: float, value: Pair) -> Pair:
        factor = self._exact(number)
        return Pair(factor * value.value, factor * value.slope)

    def add(self, a: Pair, b: Pair) -> Pair:
        return Pair(a.value + b.value, a.slope + b.slope)

    def multiply(self, a: Pair, b: Pair) -> Pair:
        return Pair(a.value * b.value, a.slope * b.value + a.value * b.slope)

    def maximum(self, a: Pair, b: Pair) -> Pair:
        value = Range(np.maximum(a.value.lower, b.value.lower), np.maximum(a.value.upper, b.value.upper))
        either = a.slope.hull(b.slope)
        first, second = a.value.lower > b.value.upper, b.value.lower > a.value.upper
        lower = np.where(first, a.slope.lower, np.where(second, b.slope.lower, either.lower))
        upper = np.where(first, a.slope.upper, np.where(second, b.slope.upper, either.upper))
        return Pair(value, Range(lower, upper))

    def phi(self, operator: Operator, value: Pair) -> Pair:
        rule, z = self._rule(operator), value.value
        curve = rule.curve(operator)
        assert curve is not None
        slope = slopes(rule, operator, curve, z)
        # by the mean value theorem
        middle = (z.lower + z.upper) / 2
        radius = np.nextafter(np.maximum(z.upper - middle, middle - z.lower), np.inf)
        at = rule.reference(operator, middle)
        around = Range(-radius, radius) * slope
        return Pair(_computed(at, at) + around, slope * value.slope)


def slopes(rule: Elementwise, operator: Operator, curve: Curve, z: Range) -> Range:
    """φ' on intervals: that of the ends, and of the turning points between them."""
    ends = [rule.derivative(operator, end) for end in (z.lower, z.upper)]
    found = _computed(np.minimum(*ends), np.maximum(*ends))
    lower, upper = found.lower, found.upper
    for point, value in curve.turns:
        inside = (z.lower <= point + _BESIDE) & (point - _BESIDE <= z.upper)
        lower = np.where(inside, np.minimum(lower, value - LIBRARY), lower)
        upper = np.where(inside, np.maximum(upper, value + LIBRARY), upper)
    return Range(lower, upper)


def enclose(
    body: Body, rule: Callable[[Operator], Elementwise], lower: np.ndarray, upper: np.ndarray
) -> Pair:
    """A function and its derivative on the intervals [lower, upper], which are finite."""
    x = Pair(Range(lower, upper), Range(np.ones_like(lower), np.ones_like(lower)))
    return run(body, Intervals(rule, lower), x)


def greatest_slope(body: Body, rule: Callable[[Operator], Elementwise], size: float, sign: float) -> float:
    """An upper bound of sign·f' on [−size, size], close to the least one: by branch and bound."""

    def bound(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        slope = enclose(body, rule, a, b).slope
        return slope.upper if sign > 0 else -slope.lower

    def attained(x: np.ndarray) -> float:
        slope = enclose(body, rule, x, x).slope
        return float((slope.lower if sign > 0 else -slope.upper).max())

    edges = np.linspace(-size, size, _CELLS + 1)
    lower, upper, settled, best = edges[:-1], edges[1:], -np.inf, -np.inf
    for _ in range(_ROUNDS):
        bounds = bound(lower, upper)
        best = max(best, attained((lower + upper) / 2))
        enough = best + _TOLERANCE * max(1.0, abs(best))
        open_ = bounds > enough
        settled = max(settled, float(bounds[~open_].max(initial=-np.inf)))
        if not open_.any() or 2 * open_.sum() > _MOST_CELLS:
            return max(settled, float(bounds[open_].max(initial=-np.inf)))
        lower, upper = lower[open_], upper[open_]
        middle = (lower + upper) / 2
        lower, upper = np.concatenate((lower, middle)), np.concatenate((middle, upper))
    return max(settled, float(bound(lower, upper).max()))
