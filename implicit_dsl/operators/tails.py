"""What a function of one number tends to far out: a polynomial, and a remainder that decays.

On |x| ≥ M, on one side, f(x) = P(x) + R(x) with |R(x)| ≤ rₖ |x|⁻ᵏ for k = 0, 1, …, K, and the same for f'.
Polynomials have exact rational intervals as coefficients, so that what cancels is zero. For a φ of a
polynomial of degree d ≥ 1 there is a tail of φ itself (`Curve`), as |P + R| grows like |x|ᵈ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.body import Body, run
from implicit_dsl.operators.elementwise import Decay, Elementwise
from implicit_dsl.operators.enclosure import LIBRARY, Range, slopes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_POWERS = 6  # K
_DEGREE = 6  # of polynomials, at most
_UP = 1 + 1e-12  # covers the roundings of one step

Coefficient: TypeAlias = tuple[Fraction, Fraction]
Polynomial: TypeAlias = tuple[Coefficient, ...]  # the constant first, and no zeros at the end


class Unbounded(Exception):  # noqa: N818 (what is found, not a fault)
    """Nothing is known of the function far out."""


@dataclass(frozen=True)
class Remains:
    """A polynomial in x, and the rₖ of a remainder."""

    polynomial: Polynomial
    rest: tuple[float, ...]

    @property
    def degree(self) -> int:
        return len(self.polynomial) - 1

    def bounds(self) -> tuple[float, float]:
        """Of the whole, if the polynomial is constant. Raises Unbounded."""
        if self.degree > 0 or not math.isfinite(self.rest[0]):
            raise Unbounded
        low, high = self.polynomial[0] if self.polynomial else (Fraction(0), Fraction(0))
        return (
            math.nextafter(float(low) - self.rest[0], -math.inf),
            math.nextafter(float(high) + self.rest[0], math.inf),
        )


NOTHING = (0.0,) * (_POWERS + 1)


def _trimmed(coefficients: list[Coefficient]) -> Polynomial:
    while coefficients and not any(coefficients[-1]):
        coefficients.pop()
    if len(coefficients) > _DEGREE + 1:
        raise Unbounded
    return tuple(coefficients)


def _sum(a: Remains, b: Remains) -> Remains:
    zero = (Fraction(0), Fraction(0))
    made = []
    for k in range(max(len(a.polynomial), len(b.polynomial))):
        (p, q), (r, s) = (c.polynomial[k] if k < len(c.polynomial) else zero for c in (a, b))
        made.append((p + r, q + s))
    return Remains(_trimmed(made), tuple((r + s) * _UP for r, s in zip(a.rest, b.rest)))


def _times(a: Coefficient, b: Coefficient) -> Coefficient:
    ends = [p * q for p in a for q in b]
    return min(ends), max(ends)


def _product(a: Remains, b: Remains) -> Remains:
    made = [(Fraction(0), Fraction(0))] * max(0, len(a.polynomial) + len(b.polynomial) - 1)
    for i, p in enumerate(a.polynomial):
        for j, q in enumerate(b.polynomial):
            low, high = _times(p, q)
            made[i + j] = made[i + j][0] + low, made[i + j][1] + high
    rest = [_least(a.rest, b.rest, k) for k in range(_POWERS + 1)]
    for one, other in ((a, b), (b, a)):
        for degree, coefficient in enumerate(one.polynomial):
            size = float(max(map(abs, coefficient))) * _UP
            for k in range(_POWERS + 1):  # |c xᵈ R| ≤ |c| r_{k+d} |x|⁻ᵏ
                more = other.rest[k + degree] if k + degree <= _POWERS else math.inf
                rest[k] += 0.0 if size == 0 or other.rest == NOTHING else size * more
    return Remains(_trimmed(made), tuple(r * _UP for r in rest))


def _least(a: tuple[float, ...], b: tuple[float, ...], k: int) -> float:
    """A bound of |R S| |x|ᵏ: some of the power from each."""
    if a == NOTHING or b == NOTHING:
        return 0.0
    return min(a[i] * b[k - i] for i in range(k + 1)) * _UP


def _either(a: Remains, b: Remains) -> Remains:
    """What holds both."""
    zero = (Fraction(0), Fraction(0))
    made = []
    for k in range(max(len(a.polynomial), len(b.polynomial))):
        (p, q), (r, s) = (c.polynomial[k] if k < len(c.polynomial) else zero for c in (a, b))
        made.append((min(p, r), max(q, s)))
    return Remains(_trimmed(made), tuple(map(max, zip(a.rest, b.rest))))


@dataclass(frozen=True)
class Ends:
    """A function and its derivative far out."""

    value: Remains
    slope: Remains


class Tails:
    """The arithmetic of ends, on x ≥ M for side = 1 and on x ≤ −M for side = −1."""

    def __init__(self, rule: Callable[[Operator], Elementwise], start: float, side: int) -> None:
        self._rule, self._start, self._side = rule, start, side

    def constant(self, number: float) -> Ends:
        exact = Fraction(number)
        return Ends(Remains(_trimmed([(exact, exact)]), NOTHING), Remains((), NOTHING))

    def scale(self, number: float, value: Ends) -> Ends:
        factor = self.constant(number).value
        return Ends(_product(factor, value.value), _product(factor, value.slope))

    def add(self, a: Ends, b: Ends) -> Ends:
        return Ends(_sum(a.value, b.value), _sum(a.slope, b.slope))

    def multiply(self, a: Ends, b: Ends) -> Ends:
        slope = _sum(_product(a.slope, b.value), _product(a.value, b.slope))
        return Ends(_product(a.value, b.value), slope)

    def maximum(self, a: Ends, b: Ends) -> Ends:
        difference = self.add(a, self.scale(-1.0, b)).value
        if not difference.polynomial:
            return Ends(_either(a.value, b.value), _either(a.slope, b.slope))
        low, high, *_ = self._reach(difference)
        if low > 0:
            return a
        if high < 0:
            return b
        raise Unbounded

    def _reach(self, z: Remains) -> tuple[float, float, float, float]:
        """Bounds of z, and a and b in a |x|ᵈ ≤ |z| ≤ b |x|ᵈ. Raises Unbounded if the sign is not known."""
        if not math.isfinite(z.rest[0]):
            raise Unbounded
        if z.degree < 1:
            return *z.bounds(), 0.0, 0.0
        others = sum(
            float(max(map(abs, c))) * self._start ** (k - z.degree) for k, c in enumerate(z.polynomial[:-1])
        )
        others = (others + z.rest[0] * self._start**-z.degree) * _UP
        low, high = map(float, z.polynomial[-1])
        least, most = min(abs(low), abs(high)) / _UP - others, max(abs(low), abs(high)) * _UP + others
        if not (low > 0 or high < 0) or least <= 0:
            raise Unbounded
        end = least * self._start**z.degree / _UP
        positive = (low > 0) == (self._side > 0 or z.degree % 2 == 0)
        return (end, math.inf, least, most) if positive else (-math.inf, -end, least, most)

    def phi(self, operator: Operator, value: Ends) -> Ends:
        rule, z = self._rule(operator), value.value
        curve = rule.curve(operator)
        assert curve is not None
        low, high, least, most = self._reach(z)
        if z.degree < 1:
            return self._settled(rule, operator, value, low, high)
        if max(low, -high) < curve.start:
            raise Unbounded
        tail = curve.above if low > 0 else curve.below
        slope, offset = Fraction(tail.slope), Fraction(tail.offset)
        value_rest = self._decaying(tail.value, z.degree, least, most)
        slope_rest = self._decaying(tail.derivative, z.degree, least, most)
        line = _product(Remains(_trimmed([(slope, slope)]), NOTHING), z)
        made = _sum(line, Remains(_trimmed([(offset, offset)]), value_rest))
        return Ends(made, _product(Remains(_trimmed([(slope, slope)]), slope_rest), value.slope))

    def _settled(self, rule: Elementwise, operator: Operator, value: Ends, low: float, high: float) -> Ends:
        """φ of what tends to a number: φ(c + R) is within sup|φ'| |R| of φ(c)."""
        curve = rule.curve(operator)
        assert curve is not None
        ends = np.array([low]), np.array([high])
        found = slopes(rule, operator, curve, Range(*ends))
        bend = Fraction(float(found.lower[0])), Fraction(float(found.upper[0]))
        size = float(found.magnitude[0])
        c = value.value.polynomial[0] if value.value.polynomial else (Fraction(0), Fraction(0))
        centre = float((c[0] + c[1]) / 2)
        at = float(rule.reference(operator, np.array([centre]))[0])
        spread = c[1] - c[0] + Fraction(1e-15 * (1 + abs(centre)))
        width = Fraction(LIBRARY * (1 + abs(at))) + Fraction(size) * spread
        made = Remains(
            _trimmed([(Fraction(at) - width, Fraction(at) + width)]),
            tuple(size * r * _UP if r else 0.0 for r in value.value.rest),
        )
        return Ends(made, _product(Remains(_trimmed([bend]), NOTHING), value.slope))

    def _decaying(self, decay: Decay, degree: int, least: float, most: float) -> tuple[float, ...]:
        """rₖ ≥ |x|ᵏ C |z|ᵐ exp(−λ |z|), for a |x|ᵈ ≤ |z| ≤ b |x|ᵈ and |x| ≥ M ≥ 1."""
        if decay.factor == 0:
            return NOTHING
        power, rate = decay.power * degree, decay.rate * least * self._start ** (degree - 1)
        factor = decay.factor * max(least**decay.power, most**decay.power)
        made = []
        for k in range(_POWERS + 1):
            total = k + power
            if rate == 0:
                made.append(factor * self._start**total * _UP if total <= 0 else math.inf)
                continue
            x = max(self._start, total / rate)
            made.append(factor * math.exp(total * math.log(x) - rate * x) * _UP**100 + 1e-300)
        return tuple(made)


def ends(body: Body, rule: Callable[[Operator], Elementwise], start: float, side: int) -> Ends:
    """The function beyond `start` ≥ 1 on one side. Raises Unbounded."""
    one = (Fraction(1), Fraction(1))
    x = Ends(Remains(((Fraction(0), Fraction(0)), one), NOTHING), Remains((one,), NOTHING))
    return run(body, Tails(rule, start, side), x)
