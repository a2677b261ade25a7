"""exp, log and sqrt, entry by entry: what the functions of numbers are on values of the network."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Operator, Rule
from implicit_dsl.operators.elementwise import Steep, example

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class _Rising(Steep):
    """Its slope rises or falls all the way, so that it is largest at an end of an interval."""

    def monotone(self, operator: Operator) -> bool:
        return True

    def steepest(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        steepest = np.maximum(self.derivative(operator, lower), self.derivative(operator, upper))
        return np.where(lower >= self.domain(operator)[0], steepest, np.inf)

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
        return self.reference(operator, z)


class _OfPositive(_Rising):
    """Not a number below zero, as in PyTorch."""

    def domain(self, operator: Operator) -> tuple[float, float]:
        return 0.0, inf


class Logarithm(_OfPositive):
    kind = "log"
    doc = "The natural logarithm of each entry: `log(x)`, for positive x."
    example = example("log(1 + abs(u))")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(np.log(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(1 / z)


class SquareRoot(_OfPositive):
    kind = "sqrt"
    doc = "The square root of each entry: `sqrt(x)`, for x ≥ 0; its slope is infinite at zero."
    example = example("sqrt(1 + u .* u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(np.sqrt(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(0.5 / np.sqrt(z))


RULES: tuple[Rule, ...] = (Exponential(), Logarithm(), SquareRoot())
