"""Sine and cosine, and the encodings of positions that are made of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

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
from implicit_dsl.operators.elementwise import Elementwise, example
from implicit_dsl.operators.relaxation import LIBRARY
from implicit_dsl.shapes import Shape, show

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class _Wave(Elementwise):
    """What the function of the language of that name is on a value of the network: cos(z − behind)."""

    behind: ClassVar[float]

    def slope(self, operator: Operator) -> tuple[float, float]:
        return -1.0, 1.0

    def range(self, operator: Operator) -> tuple[float, float]:
        return -1.0, 1.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.{self.kind}({z.text})")

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return _cosine(lower - self.behind, upper - self.behind)

    def slopes_on(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """φ'(z) = cos(z − behind + ½ π)."""
        turned = self.behind - math.pi / 2
        return _cosine(lower - turned, upper - turned)


def _cosine(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the cosine on intervals: at their ends, or ±1 where a multiple of π lies between."""
    slack = 8 * LIBRARY * (1 + np.maximum(np.abs(lower), np.abs(upper)))
    first, last = np.ceil((lower - slack) / math.pi), np.floor((upper + slack) / math.pi)
    low, high = np.cos(lower), np.cos(upper)
    one, several = first <= last, first < last
    top = one & (several | (first % 2 == 0))
    bottom = one & (several | (first % 2 == 1))
    least = np.where(bottom, -1.0, np.minimum(low, high) - slack)
    most = np.where(top, 1.0, np.maximum(low, high) + slack)
    return np.maximum(least, -1.0), np.minimum(most, 1.0)


class Sin(_Wave):
    kind = "sin"
    behind = math.pi / 2
    doc = "The sine of each entry: `sin(x)`."
    example = example("sin(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.cos(z))


class Cos(_Wave):
    kind = "cos"
    behind = 0.0
    doc = "The cosine of each entry: `cos(x)`."
    example = example("cos(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.cos(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(-np.sin(z))


class Sinusoids(ActivationRule):
    """P[i, 2k] = sin(i ÷ base^(2k ÷ d)) and P[i, 2k + 1] = cos of the same, i from 0 (Vaswani et al. 2017).

    Of its argument nothing but the shape [n, d] counts, so that n may be free.
    """

    kind = "sinusoids"
    names = ("sinusoids",)
    calls = ("sinusoids",)
    elementwise = False
    formals = (Formal("base", "number", "waves are from 2π to 2π·base positions long", default=10000.0),)
    doc = (
        "Fixed encodings of the positions of a sequence x [n, d], to be added to it: `x + sinusoids(x)`. "
        "Nothing but the shape of x counts."
    )
    example = "input x[5, 8]\noutput y[5, 8] = x + sinusoids(x)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if len(source) != 2:
            raise ShapeError(
                f"sinusoids takes a sequence [positions, features], and this is {show(source)}", show(source)
            )
        if not (math.isfinite(settings["base"]) and settings["base"] > 0):
            raise ShapeError("`base` must be positive", "not positive", "base")
        return Operator(self.kind, source, source, (("base", float(settings["base"])),))

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        positions, features = z.shape[1:]
        wave = np.arange(features) // 2 * 2 / features
        angle = np.arange(positions)[:, None] * operator["base"] ** -wave
        encoded = np.where(np.arange(features) % 2 == 0, np.sin(angle), np.cos(angle))
        return np.broadcast_to(encoded, z.shape)

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        return np.zeros_like(g)

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        return np.zeros_like(change)

    def gain(self, operator: Operator) -> float:
        return 0.0

    def range(self, operator: Operator) -> tuple[float, float]:
        return -1.0, 1.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        base = "" if operator["base"] == 10000.0 else f", {operator['base']!r}"
        return Expression(f"runtime.sinusoids({z.text}{base})")


RULES: tuple[Rule, ...] = (Sin(), Cos(), Sinusoids())
