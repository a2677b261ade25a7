"""Elementwise activations that are polynomials in pieces: hard limits, absolute values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Formal, Operator, Rule, Settings, ShapeError
from implicit_dsl.operators.elementwise import Curve, Elementwise, Tail, example, kinked
from implicit_dsl.operators.relaxation import Lines, relu_lines
from implicit_dsl.shapes import Shape

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class Relu(Elementwise):
    kind = "relu"
    names = ("relu",)
    homogeneous = True
    doc = "max(z, 0)."
    example = example("relu(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(z, 0.0))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(z > 0, dtype=z.dtype)

    def curve(self, operator: Operator) -> Curve:
        return kinked(0.0, Tail(0.0, 0.0), Tail(1.0, 0.0))

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        return relu_lines(lower.reshape(len(lower), -1), upper.reshape(len(upper), -1))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.relu{z.in_place}({z.text})")


class LeakyRelu(Elementwise):
    kind = "leaky_relu"
    names = ("leaky_relu",)
    formals = (Formal("slope", "number", "the slope for negative values", default=0.01),)
    homogeneous = True
    doc = "z for z ≥ 0, and slope·z below: `leaky_relu(z; slope = 0.1)`."
    example = example("leaky_relu(u; slope = 0.1)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.where(z >= 0, z, operator["slope"] * z)

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.where(z > 0, 1.0, operator["slope"])

    def slope(self, operator: Operator) -> tuple[float, float]:
        below = float(operator["slope"])
        return min(1.0, below), max(1.0, below)

    def curve(self, operator: Operator) -> Curve:
        return kinked(0.0, Tail(float(operator["slope"]), 0.0), Tail(1.0, 0.0))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.leaky_relu({z.text}, {operator['slope']!r})")


class Hardtanh(Elementwise):
    kind = "hardtanh"
    names = ("hardtanh",)
    formals = (
        Formal("low", "number", "the least value", default=-1.0),
        Formal("high", "number", "the largest value", default=1.0),
    )
    doc = "z between `low` and `high`, and these outside: `hardtanh(z; low = 0, high = 6)`."
    example = example("hardtanh(u; low = 0)")

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if not settings["low"] < settings["high"]:
            raise ShapeError("`low` of hardtanh must be below `high`", "not below", "low")
        return super().operator(settings, source)

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(z, operator["low"], operator["high"]))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray((z > operator["low"]) & (z < operator["high"]), dtype=z.dtype)

    def range(self, operator: Operator) -> tuple[float, float]:
        return float(operator["low"]), float(operator["high"])

    def curve(self, operator: Operator) -> Curve:
        low, high = self.range(operator)
        turns = ((low, 0.0), (low, 1.0), (high, 1.0), (high, 0.0))
        return Curve(turns, Tail(0.0, low), Tail(0.0, high), max(abs(low), abs(high)) + 1)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.hardtanh({z.text}, {operator['low']!r}, {operator['high']!r})")


class Relu6(Elementwise):
    kind = "relu6"
    names = ("relu6",)
    doc = "z between 0 and 6, and these outside."
    example = example("relu6(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(z, 0.0, 6.0))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray((z > 0) & (z < 6), dtype=z.dtype)

    def range(self, operator: Operator) -> tuple[float, float]:
        return 0.0, 6.0

    def curve(self, operator: Operator) -> Curve:
        turns = ((0.0, 0.0), (0.0, 1.0), (6.0, 1.0), (6.0, 0.0))
        return Curve(turns, Tail(0.0, 0.0), Tail(0.0, 6.0), 7.0)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.relu6({z.text})")


class Hardswish(Elementwise):
    kind = "hardswish"
    names = ("hardswish",)
    doc = "z·relu6(z + 3) ÷ 6. Its slopes go from −½ at −3 to 1½ at 3."
    example = example("hardswish(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(z * np.clip(z + 3, 0.0, 6.0) / 6)

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.where(np.abs(z) < 3, z / 3 + 0.5, np.asarray(z > 0, dtype=z.dtype))

    def slope(self, operator: Operator) -> tuple[float, float]:
        return -0.5, 1.5

    def curve(self, operator: Operator) -> Curve:
        turns = ((-3.0, 0.0), (-3.0, -0.5), (3.0, 1.5), (3.0, 1.0))
        return Curve(turns, Tail(0.0, 0.0), Tail(1.0, 0.0), 4.0)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.hardswish({z.text})")


class Clamp(Elementwise):
    """max(z, low) or min(z, high): what `max` and `min` are of a value of the network and a number."""

    kind = "clamp"
    doc = "The value or a number, whichever is larger, or smaller: `max(x, 0.5)`, `min(x, 6)`."
    example = example("max(u, 0.5)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(z, operator["low"], operator["high"]))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(self.reference(operator, z) == z, dtype=z.dtype)  # 1 at the bound itself

    def curve(self, operator: Operator) -> Curve:
        if operator["low"] is not None:
            return kinked(operator["low"], Tail(0.0, operator["low"]), Tail(1.0, 0.0))
        return kinked(operator["high"], Tail(1.0, 0.0), Tail(0.0, operator["high"]))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        bounds = (("min", operator["low"]), ("max", operator["high"]))
        given = "".join(f", {name}={bound!r}" for name, bound in bounds if bound is not None)
        return Expression(f"torch.clamp({z.text}{given})")


class Absolute(Elementwise):
    """|z|: what the function `abs` of the language is on a value of the network."""

    kind = "abs"
    homogeneous = True
    doc = "The absolute value of each entry: `abs(x)`."
    example = example("abs(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.sign(z))

    def slope(self, operator: Operator) -> tuple[float, float]:
        return -1.0, 1.0

    def curve(self, operator: Operator) -> Curve:
        return kinked(0.0, Tail(-1.0, 0.0), Tail(1.0, 0.0))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.abs({z.text})")


RULES: tuple[Rule, ...] = (
    Relu(),
    LeakyRelu(),
    Hardtanh(),
    Relu6(),
    Hardswish(),
    Clamp(),
    Absolute(),
)
