"""Elementwise activations that shrink: the step to sparse codes, and the hard sigmoid of gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Formal, Operator, Rule, Settings, ShapeError
from implicit_dsl.operators.elementwise import Curve, Elementwise, Tail, example
from implicit_dsl.shapes import Shape

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class Softshrink(Elementwise):
    """The proximal operator of λ‖·‖₁: where x = softshrink(W x + B u), x is a sparse code of u
    (K. Gregor and Y. LeCun, "Learning fast approximations of sparse coding", ICML 2010, equation 4)."""

    kind = "softshrink"
    names = ("softshrink",)
    formals = (Formal("lambda", "number", "how much nearer to zero each entry gets", default=0.5),)
    doc = "Soft thresholding: z moved towards zero by `lambda`, and zero if it is nearer than that."
    example = example("softshrink(u; lambda = 0.1)")

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if settings["lambda"] < 0:
            raise ShapeError("`lambda` of softshrink must not be negative", "negative", "lambda")
        return super().operator(settings, source)

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.sign(z) * np.maximum(np.abs(z) - operator["lambda"], 0.0))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(z) > operator["lambda"], dtype=z.dtype)

    def curve(self, operator: Operator) -> Curve:
        by = float(operator["lambda"])
        turns = ((-by, 1.0), (-by, 0.0), (by, 0.0), (by, 1.0))
        return Curve(turns, Tail(1.0, by), Tail(1.0, -by), by + 1)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.softshrink({z.text}, {operator['lambda']!r})")


class Hardsigmoid(Elementwise):
    kind = "hardsigmoid"
    names = ("hardsigmoid",)
    doc = "relu6(z + 3) ÷ 6, a sigmoid made of straight lines."
    example = example("hardsigmoid(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(z + 3, 0.0, 6.0) / 6)

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.where(np.abs(z) < 3, 1 / 6, 0.0)

    def slope(self, operator: Operator) -> tuple[float, float]:
        return 0.0, 0.16666666666666669  # the number above ⅙

    def range(self, operator: Operator) -> tuple[float, float]:
        return 0.0, 1.0

    def curve(self, operator: Operator) -> Curve:
        top = self.slope(operator)[1]
        return Curve(((-3.0, 0.0), (-3.0, top), (3.0, top), (3.0, 0.0)), Tail(0.0, 0.0), Tail(0.0, 1.0), 4.0)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        # the slope that `F.hardsigmoid` has in its backward pass is a sixth in float32, also for float64
        return Expression(f"F.relu6({z.text} + 3.0) / 6.0", tight=False)


RULES: tuple[Rule, ...] = (Softshrink(), Hardsigmoid())
