"""Powers and quotients of values of the network, entry by entry: `x .^ 3`, `1 ./ x`, `a ./ b`."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Operator, Rule
from implicit_dsl.operators.elementwise import Steep, example
from implicit_dsl.operators.joint import by_derivatives
from implicit_dsl.operators.products import product_of_bounds
from implicit_dsl.operators.relaxation import Line, Lines, mean_slopes, or_constants, outwards
from implicit_dsl.operators.slots import EntryByEntry
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class Power(Steep):
    """xᵖ for a number p. Whole p take any x (negative ones any but zero), others positive x."""

    kind = "power"
    doc = "A power of each entry: `x .^ 2`."
    example = example("u .^ 3")

    def domain(self, operator: Operator) -> tuple[float, float]:
        exponent = operator["exponent"]
        return (-inf, inf) if exponent > 0 and exponent % 1 == 0 else (0.0, inf)

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(z ** operator["exponent"])

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        exponent = operator["exponent"]
        with np.errstate(all="ignore"):
            return np.asarray(exponent * z ** (exponent - 1))

    def monotone(self, operator: Operator) -> bool:
        exponent = operator["exponent"]
        return bool(exponent > 0 and (exponent % 2 == 1 or exponent % 1 != 0))

    def turns(self, operator: Operator) -> tuple[float, ...]:
        return (0.0,)

    def steepest(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        exponent = operator["exponent"]
        steep_at = np.maximum(np.abs(lower), np.abs(upper)) if exponent >= 1 else _least(lower, upper)
        steepest = np.abs(self.derivative(operator, steep_at))
        return np.where((lower >= 0) | (exponent % 1 == 0), steepest, np.inf)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        exponent = operator["exponent"]
        if exponent == 2:
            return Expression(f"torch.square({z.text})")
        return Expression(f"torch.pow({z.text}, {exponent!r})")


class Reciprocal(Steep):
    kind = "reciprocal"
    doc = "A number divided by each entry: `1 ./ x`."
    example = example("1 ./ (2 + tanh(u))")

    def domain(self, operator: Operator) -> tuple[float, float]:
        return 0.0, inf

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(operator["numerator"] / z)

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(-operator["numerator"] / z**2)

    def steepest(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        least = _least(lower, upper)
        return np.asarray(
            np.divide(abs(operator["numerator"]), least**2, out=np.full_like(least, np.inf), where=least > 0)
        )

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"{operator['numerator']!r} / {z.atom}", tight=False)


class Quotient(EntryByEntry):
    kind = "quotient"
    done = "divided"
    doc = "The quotient of two values entry by entry: `a ./ b`. Both have one shape."
    example = "input a[4], b[4]\noutput y[4] = a ./ (1 + abs(b))"

    def domain(self, operator: Operator) -> tuple[float, float]:
        return 0.0, inf

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        a, b = parts
        with np.errstate(all="ignore"):
            return np.asarray(a / b)

    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b = parts
        with np.errstate(all="ignore"):
            return np.asarray(g / b), np.asarray(-g * a / b**2)

    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        return np.where(np.maximum(*changes) > 0, np.inf, 0.0)  # the second may come near to zero

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        """|a/b − a'/b'| ≤ |a − a'| ÷ |b| + |a'| |b − b'| ÷ |b b'|."""
        da, db = self.parts(operator, change)
        most, _ = self.parts(operator, np.maximum(np.abs(lower), np.abs(upper)))
        _, least = self.parts(operator, _least(lower, upper))
        inverse = np.divide(1.0, least, out=np.full_like(least, np.inf), where=least > 0)
        whole = product_of_bounds(np.multiply, most, db)
        return np.asarray(
            product_of_bounds(np.multiply, da, inverse)
            + product_of_bounds(np.multiply, whole, product_of_bounds(np.multiply, inverse, inverse))
        )

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """At corners, if b keeps its sign."""
        (al, bl), (au, bu) = self.parts(operator, lower), self.parts(operator, upper)
        with np.errstate(all="ignore"):
            quotients = [a / b for a in (al, au) for b in (bl, bu)]
        safe = _least(bl, bu) > 0
        low, high = np.minimum.reduce(quotients), np.maximum.reduce(quotients)
        return outwards(np.where(safe, low, -np.inf), np.where(safe, high, np.inf), -np.inf, np.inf)

    def reads(self, operator: Operator) -> int:
        return 2

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        """From intervals of the derivatives 1/b and −a/b²."""
        (al, bl), (au, bu) = (
            (part.reshape(len(ends), -1) for part in self.parts(operator, ends)) for ends in (lower, upper)
        )
        low, high = np.stack((al, bl), -1), np.stack((au, bu), -1)
        safe = _least(bl, bu) > 0
        with np.errstate(all="ignore"):
            least, most = mean_slopes(_slopes, low, high)
            value = ((al + au) / (bl + bu))[..., None]
            below, above = by_derivatives(value, least[:, :, None], most[:, :, None], low, high)
        places = np.arange(count(operator.source)).reshape(1, *sizes(operator.source))
        index = np.stack([part.reshape(-1) for part in self.parts(operator, places)])
        lines = [
            (Line(np.moveaxis(one.slope[:, :, 0], -1, 1), one.offset[:, :, 0]),) for one in (below, above)
        ]
        return or_constants(Lines(index, *lines), safe, self.image(operator, lower, upper))

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        a, b = parts
        return Expression(f"{a.atom} / {b.atom}", tight=False)


def _slopes(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of 1/b and −a/b² for a and b side by side."""
    (al, bl), (au, bu) = (np.moveaxis(ends, -1, 0) for ends in (lower, upper))
    inverse = 1 / bu, 1 / bl
    quotients = [-a * one * one for a in (al, au) for one in inverse]
    return (
        np.stack((inverse[0], np.minimum.reduce(quotients)), -1),
        np.stack((inverse[1], np.maximum.reduce(quotients)), -1),
    )


def _least(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The smallest |x| between two bounds, which is zero if these have different signs."""
    return np.where((lower > 0) | (upper < 0), np.minimum(np.abs(lower), np.abs(upper)), 0.0)


RULES: tuple[Rule, ...] = (Power(), Reciprocal(), Quotient())
