"""Powers and quotients of values of the network, entry by entry: `x .^ 3`, `1 ./ x`, `a ./ b`."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Operator, Rule, Settings, ShapeError
from implicit_dsl.operators.elementwise import Elementwise, example
from implicit_dsl.operators.products import product_of_bounds
from implicit_dsl.operators.slots import SeveralSlots, joined
from implicit_dsl.shapes import Shape, show

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class Power(Elementwise):
    """xᵖ for a number p. Whole p take any x (negative ones any but zero), others positive x."""

    kind = "power"
    has_useful_majorant = False
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

    def slope(self, operator: Operator) -> tuple[float, float] | None:
        return None

    def monotone(self, operator: Operator) -> bool:
        exponent = operator["exponent"]
        return bool(exponent > 0 and (exponent % 2 == 1 or exponent % 1 != 0))

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        exponent = operator["exponent"]
        steep_at = np.maximum(np.abs(lower), np.abs(upper)) if exponent >= 1 else _least(lower, upper)
        steepest = np.abs(self.derivative(operator, steep_at))
        if exponent % 1 != 0:
            steepest = np.where(lower >= 0, steepest, np.inf)
        return np.asarray(np.multiply(steepest, change, out=np.zeros_like(change), where=change > 0))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        exponent = operator["exponent"]
        if exponent == 2:
            return Expression(f"torch.square({z.text})")
        return Expression(f"torch.pow({z.text}, {exponent!r})")


class Reciprocal(Elementwise):
    kind = "reciprocal"
    has_useful_majorant = False
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

    def slope(self, operator: Operator) -> tuple[float, float] | None:
        return None

    def monotone(self, operator: Operator) -> bool:
        return False

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        least = _least(lower, upper)
        steepest = np.divide(
            abs(operator["numerator"]), least**2, out=np.full_like(least, np.inf), where=least > 0
        )
        return np.asarray(np.multiply(steepest, change, out=np.zeros_like(change), where=change > 0))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"{operator['numerator']!r} / {z.atom}", tight=False)


class Quotient(SeveralSlots):
    kind = "quotient"
    arguments = ("a", "b")
    doc = "The quotient of two values entry by entry: `a ./ b`. Both have one shape."
    example = "input a[4], b[4]\noutput y[4] = a ./ (1 + abs(b))"

    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        a, b = sources
        if a != b:
            raise ShapeError(
                f"values of shapes {show(a)} and {show(b)} cannot be divided entry by entry",
                notes=("shapes must be equal: nothing is repeated along an axis unless it is written",),
                help="`expand(s, x)` repeats s [c] to the shape of x [c, …]",
            )
        return Operator(self.kind, joined(sources), a)

    def domain(self, operator: Operator) -> tuple[float, float]:
        return 0.0, inf

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        return operator.target, operator.target

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

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        a, b = parts
        return Expression(f"{a.atom} / {b.atom}", tight=False)


def _least(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The smallest |x| between two bounds, which is zero if these have different signs."""
    return np.where((lower > 0) | (upper < 0), np.minimum(np.abs(lower), np.abs(upper)), 0.0)


RULES: tuple[Rule, ...] = (Power(), Reciprocal(), Quotient())
