"""Elementwise activations, with the tightest constant K in |φ(u) − φ(v)| ≤ K |u − v|."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import ActivationRule, Expression, Formal, Operator, Rule

if TYPE_CHECKING:
    import numpy as np
    import scipy.special as special
else:
    np = lazy_module("numpy")
    special = lazy_module("scipy.special")


class Elementwise(ActivationRule):
    """φ acts on each entry alone. Subclasses give φ, its slope and its best Lipschitz constant."""

    @abstractmethod
    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        """φ'(z), entry by entry."""

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        return np.asarray(g * self.derivative(operator, z))

    def lipschitz(self, operator: Operator) -> float:
        """sup |φ'|, rounded upwards where it is not exact."""
        return 1.0

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        return change * self.lipschitz(operator)


def _example(call: str) -> str:
    return f"input u[6]\nstate x[6] ~ {call}\noutput y[6] = x"


class Identity(Elementwise):
    kind = "identity"
    names = ("identity",)
    homogeneous = True
    doc = "The value itself: a linear state."
    example = _example("identity(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return z

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.ones_like(z)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return z


class Relu(Elementwise):
    kind = "relu"
    names = ("relu",)
    homogeneous = True
    doc = "max(z, 0)."
    example = _example("relu(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(z, 0.0))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(z > 0, dtype=z.dtype)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.relu({z.text})")


class LeakyRelu(Elementwise):
    kind = "leaky_relu"
    names = ("leaky_relu",)
    formals = (Formal("slope", "number", "the slope for negative values", default=0.01),)
    homogeneous = True
    doc = "z for z ≥ 0, and slope·z below: `leaky_relu(z; slope = 0.1)`."
    example = _example("leaky_relu(u; slope = 0.1)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.where(z >= 0, z, operator["slope"] * z)

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.where(z > 0, 1.0, operator["slope"])

    def lipschitz(self, operator: Operator) -> float:
        return max(1.0, abs(float(operator["slope"])))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.leaky_relu({z.text}, {operator['slope']!r})")


class Tanh(Elementwise):
    kind = "tanh"
    names = ("tanh",)
    doc = "The hyperbolic tangent."
    example = _example("tanh(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.tanh(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(1 - np.tanh(z) ** 2)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.tanh({z.text})")


class Sigmoid(Elementwise):
    kind = "sigmoid"
    names = ("sigmoid", "σ")
    doc = "1 ÷ (1 + exp(−z)); also written σ. Its slope is at most ¼."
    example = _example("σ(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(special.expit(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(special.expit(z) * special.expit(-z))  # 1 − σ(z), without cancellation

    def lipschitz(self, operator: Operator) -> float:
        return 0.25

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.sigmoid({z.text})")


class Gelu(Elementwise):
    kind = "gelu"
    names = ("gelu",)
    doc = "z·Φ(z), with Φ the distribution function of the normal distribution. Its slope reaches 1.1290."
    example = _example("gelu(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(z * special.ndtr(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return np.asarray(special.ndtr(z) + z * density)

    def monotone(self, operator: Operator) -> bool:
        return False

    def lipschitz(self, operator: Operator) -> float:
        # φ' = Φ(z) + z Φ'(z) is largest at z = √2, where it is 1.12890414518515…
        return 1.1289041451852

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.gelu({z.text})")


RULES: tuple[Rule, ...] = (Identity(), Relu(), LeakyRelu(), Tanh(), Sigmoid(), Gelu())
