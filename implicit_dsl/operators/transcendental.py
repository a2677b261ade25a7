"""exp, log and sqrt, entry by entry: what the functions of numbers are on values of the network."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Operator, Rule
from implicit_dsl.operators.elementwise import Elementwise, example

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class _Rising(Elementwise):
    """Its slope has no bound, and rises or falls all the way: between two points it is largest at one."""

    has_useful_majorant = False

    def slope(self, operator: Operator) -> tuple[float, float] | None:
        return None

    def monotone(self, operator: Operator) -> bool:
        return True

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        steepest = np.maximum(self.derivative(operator, lower), self.derivative(operator, upper))
        steepest = np.where(lower >= self.domain(operator)[0], steepest, np.inf)
        return np.asarray(np.multiply(steepest, change, out=np.zeros_like(change), where=change > 0))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.{self.kind}({z.text})")


class Exponential(_Rising):
    kind = "exp"
    doc = "The exponential of each entry: `exp(x)`."
    example = example("exp(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(z))


class Logarithm(_Rising):
    kind = "log"
    doc = "The natural logarithm of each entry: `log(x)`, for positive x."
    example = example("log(1 + abs(u))")

    def domain(self, operator: Operator) -> tuple[float, float]:
        return 0.0, inf

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(np.log(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(1 / z)


class SquareRoot(_Rising):
    kind = "sqrt"
    doc = "The square root of each entry: `sqrt(x)`, for x ≥ 0; its slope is infinite at zero."
    example = example("sqrt(1 + u .* u)")

    def domain(self, operator: Operator) -> tuple[float, float]:
        return 0.0, inf

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(np.sqrt(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(0.5 / np.sqrt(z))


RULES: tuple[Rule, ...] = (Exponential(), Logarithm(), SquareRoot())
