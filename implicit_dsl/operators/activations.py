"""Elementwise activations, with the tightest constant K in |φ(u) − φ(v)| ≤ K |u − v|."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

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
from implicit_dsl.shapes import Shape

if TYPE_CHECKING:
    import numpy as np
    import scipy.special as special
else:
    np = lazy_module("numpy")
    special = lazy_module("scipy.special")


class Elementwise(ActivationRule):
    """φ acts on each entry alone. Subclasses give φ, its derivative and the range of that."""

    @abstractmethod
    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        """φ'(z), entry by entry."""

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        return np.asarray(g * self.derivative(operator, z))

    def slope(self, operator: Operator) -> tuple[float, float]:
        """inf φ' and sup φ', rounded outwards where they are not exact."""
        return 0.0, 1.0

    def monotone(self, operator: Operator) -> bool:
        return self.slope(operator)[0] >= 0

    def gain(self, operator: Operator) -> float:
        return max(abs(bound) for bound in self.slope(operator))

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        return change * self.gain(operator)


def example(call: str) -> str:
    """A body that applies an activation."""
    return f"input u[6]\nstate x[6] ~ {call}\noutput y[6] = x"


class Identity(Elementwise):
    kind = "identity"
    names = ("identity",)
    homogeneous = True
    doc = "The value itself: a linear state."
    example = example("identity(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return z

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.ones_like(z)

    def slope(self, operator: Operator) -> tuple[float, float]:
        return 1.0, 1.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return z


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

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.leaky_relu({z.text}, {operator['slope']!r})")


class Tanh(Elementwise):
    kind = "tanh"
    names = ("tanh",)
    doc = "The hyperbolic tangent."
    example = example("tanh(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.tanh(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(1 - np.tanh(z) ** 2)

    def range(self, operator: Operator) -> tuple[float, float]:
        return -1.0, 1.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.tanh{z.in_place}({z.text})")


class Sigmoid(Elementwise):
    kind = "sigmoid"
    names = ("sigmoid", "σ")
    doc = "1 ÷ (1 + exp(−z)); also written σ. Its slope is at most ¼."
    example = example("σ(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(special.expit(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(special.expit(z) * special.expit(-z))  # 1 − σ(z), without cancellation

    def slope(self, operator: Operator) -> tuple[float, float]:
        return 0.0, 0.25

    def range(self, operator: Operator) -> tuple[float, float]:
        return 0.0, 1.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"torch.sigmoid{z.in_place}({z.text})")


class Gelu(Elementwise):
    kind = "gelu"
    names = ("gelu",)
    formals = (
        Formal("approximate", "flag", "½z (1 + tanh(√(2/π) (z + 0.044715 z³))), as in GPT-2", default=False),
    )
    doc = "z·Φ(z), with Φ the distribution function of the normal distribution. Its slope reaches 1.1290."
    example = example("gelu(u)")
    _CUBIC, _ROOT = 0.044715, math.sqrt(2 / math.pi)

    def operator(self, settings: Settings, source: Shape) -> Operator:
        chosen = (("approximate", True),) if settings.get("approximate") else ()
        return Operator(self.kind, source, source, chosen)

    def _gate(self, operator: Operator, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What z is multiplied by, and its derivative."""
        if not operator.settings:
            return special.ndtr(z), np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        t = np.tanh(self._ROOT * (z + self._CUBIC * z**3))
        inner = self._ROOT * (1 + 3 * self._CUBIC * z * z)
        return (1 + t) / 2, (1 - t) * (1 + t) / 2 * inner

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(z * self._gate(operator, z)[0])

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        gate, change = self._gate(operator, z)
        return np.asarray(gate + z * change)

    def slope(self, operator: Operator) -> tuple[float, float]:
        if operator.settings:  # at ±1.41850400879…: 1.12899306865877…
            return -0.1289930686588, 1.1289930686588
        # φ' = Φ(z) + z Φ'(z) is largest at z = √2, where it is 1.12890414518515…, and φ'(z) + φ'(−z) = 1
        return -0.1289041451852, 1.1289041451852

    def emit(self, operator: Operator, z: Expression) -> Expression:
        approximate = ', approximate="tanh"' if operator.settings else ""
        return Expression(f"F.gelu({z.text}{approximate})")


class Silu(Elementwise):
    kind = "silu"
    names = ("silu",)
    doc = "z·σ(z), also known as swish. Its slope reaches 1.0998."
    example = example("silu(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(z * special.expit(z))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(special.expit(z) * (1 + z * special.expit(-z)))

    def slope(self, operator: Operator) -> tuple[float, float]:
        # largest where 2 + z (1 − 2σ(z)) = 0, at z = 2.39935728…: 1.09983932012886…; φ'(z) + φ'(−z) = 1
        return -0.0998393201289, 1.0998393201289

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.silu({z.text})")


class Mish(Elementwise):
    kind = "mish"
    names = ("mish",)
    doc = "z·tanh(softplus(z)). Its slope reaches 1.0885."
    example = example("mish(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(z * np.tanh(np.logaddexp(z, 0.0)))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        gate = np.tanh(np.logaddexp(z, 0.0))
        return np.asarray(gate + z * (1 - gate) * (1 + gate) * special.expit(z))

    def slope(self, operator: Operator) -> tuple[float, float]:
        # least at z = −2.25637639…, where it is −0.11252612238946…; largest at 1.49057117…: 1.08849816125172…
        return -0.1125261223895, 1.0884981612518

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.mish({z.text})")


class Softplus(Elementwise):
    kind = "softplus"
    names = ("softplus",)
    doc = "log(1 + exp(z)), a smooth relu; its slope is σ(z)."
    example = example("softplus(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.logaddexp(z, 0.0))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(special.expit(z))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        # above the threshold PyTorch returns z: with its own, 20, the error would be 2e-9
        return Expression(f"F.softplus({z.text}, threshold=40)")


class Elu(Elementwise):
    kind = "elu"
    names = ("elu",)
    formals = (Formal("alpha", "number", "what it tends to below, negated", default=1.0),)
    doc = "z for z ≥ 0, and alpha·(exp(z) − 1) below: `elu(z; alpha = 0.5)`."
    example = example("elu(u; alpha = 0.5)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.where(z > 0, z, operator["alpha"] * np.expm1(np.minimum(z, 0.0)))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.where(z > 0, 1.0, operator["alpha"] * np.exp(np.minimum(z, 0.0)))

    def slope(self, operator: Operator) -> tuple[float, float]:
        alpha = float(operator["alpha"])
        return min(0.0, alpha), max(1.0, alpha)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        alpha = operator["alpha"]
        return Expression(f"F.elu({z.text})" if alpha == 1 else f"F.elu({z.text}, {alpha!r})")


class Selu(Elementwise):
    """The constants of Klambauer et al. (2017), with which layers keep mean 0 and variance 1."""

    kind = "selu"
    names = ("selu",)
    doc = (
        "λ·z for z ≥ 0, and λ·α·(exp(z) − 1) below, with λ = 1.0507 and α = 1.6733. Its slope reaches 1.7581."
    )
    example = example("selu(u)")
    _SCALE, _ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return self._SCALE * np.where(z > 0, z, self._ALPHA * np.expm1(np.minimum(z, 0.0)))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return self._SCALE * np.where(z > 0, 1.0, self._ALPHA * np.exp(np.minimum(z, 0.0)))

    def slope(self, operator: Operator) -> tuple[float, float]:
        return 0.0, 1.7580993408474  # λα = 1.75809934084737685994…, just below zero

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.selu({z.text})")


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

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.hardtanh({z.text}, {operator['low']!r}, {operator['high']!r})")


class Softsign(Elementwise):
    kind = "softsign"
    names = ("softsign",)
    doc = "z ÷ (1 + |z|)."
    example = example("softsign(u)")

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray(z / (1 + np.abs(z)))

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.asarray((1 + np.abs(z)) ** -2.0)

    def range(self, operator: Operator) -> tuple[float, float]:
        return -1.0, 1.0

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(f"F.softsign({z.text})")


RULES: tuple[Rule, ...] = (
    Identity(),
    Relu(),
    LeakyRelu(),
    Tanh(),
    Sigmoid(),
    Gelu(),
    Silu(),
    Mish(),
    Softplus(),
    Elu(),
    Selu(),
    Hardtanh(),
    Softsign(),
)
