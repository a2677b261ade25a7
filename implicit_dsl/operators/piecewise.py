"""Elementwise activations that are polynomials in pieces: hard limits, absolute values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.activations import Elementwise, example
from implicit_dsl.operators.base import Expression, Operator, Rule

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


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

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.abs({z.text})")


RULES: tuple[Rule, ...] = (Relu6(), Hardswish(), Clamp(), Absolute())
