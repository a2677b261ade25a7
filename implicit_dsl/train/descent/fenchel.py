"""Fenchel divergences of activations: F(x, z) = f(x) + f*(z) − x z, 0 where x = φ(z) and else positive.

For a non-decreasing φ, f* is a primitive of φ, convex, and f its conjugate, with φ⁻¹ for a derivative
(Gu, Askari and El Ghaoui 2018). A divergence is convex in x and in z, but not in both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from implicit_dsl.model import Block
from implicit_dsl.operators.base import Operator

_NEWTON_STEPS = 60  # of a scalar equation; about 6 are needed


class Activation(ABC):
    """φ with its convex functions f* (a primitive of φ) and f (the conjugate of that), entry by entry."""

    @property
    def steepest(self) -> float:
        """The largest slope of φ, which is a Lipschitz constant of (f*)'."""
        return 1.0

    @property
    def homogeneous(self) -> bool:
        """Whether φ(t z) = t φ(z) for t > 0."""
        return False

    @abstractmethod
    def phi(self, z: Tensor) -> Tensor:
        """φ(z) = (f*)'(z)."""

    @abstractmethod
    def primitive(self, z: Tensor) -> Tensor:
        """f*(z), with f*(0) such that F is 0 at x = φ(z)."""

    @abstractmethod
    def conjugate(self, x: Tensor) -> Tensor:
        """f(x); infinite outside of the values that φ takes, and of their limits."""

    @abstractmethod
    def prox(self, v: Tensor, step: Tensor | float) -> Tensor:
        """argmin ½ (x − v)² + step · f(x), for a step > 0."""

    def divergence(self, x: Tensor, z: Tensor) -> Tensor:
        """F(x, z) ≥ 0; what rounding leaves below 0 is 0."""
        return (self.conjugate(x) + self.primitive(z) - x * z).clamp_min(0.0)


@dataclass(frozen=True, slots=True)
class Clipped(Activation):
    """z between two ends, and these outside: the identity, relu, hardtanh, relu6.

    f = ½ x² between the ends, f* = φ(z) (z − ½ φ(z)).
    """

    low: float = float("-inf")
    high: float = float("inf")

    @property
    def homogeneous(self) -> bool:
        return all(end == 0 or abs(end) == float("inf") for end in (self.low, self.high))

    def phi(self, z: Tensor) -> Tensor:
        return z if self.low == float("-inf") and self.high == float("inf") else z.clamp(self.low, self.high)

    def primitive(self, z: Tensor) -> Tensor:
        x = self.phi(z)
        return x * (z - 0.5 * x)

    def conjugate(self, x: Tensor) -> Tensor:
        inside = (x >= self.low) & (x <= self.high)
        return torch.where(inside, 0.5 * x * x, float("inf"))

    def prox(self, v: Tensor, step: Tensor | float) -> Tensor:
        return self.phi(v / (1 + step))

    def divergence(self, x: Tensor, z: Tensor) -> Tensor:
        image = self.phi(z)
        apart = x - image
        made = apart * (0.5 * apart + image - z)  # f(x) + f*(z) − x z, and nothing cancels
        return torch.where((x >= self.low) & (x <= self.high), made.clamp_min(0.0), float("inf"))


@dataclass(frozen=True, slots=True)
class Leaky(Activation):
    """z for z ≥ 0 and slope · z below, slope > 0."""

    slope: float
    homogeneous = True

    @property
    def steepest(self) -> float:
        return max(1.0, self.slope)

    def phi(self, z: Tensor) -> Tensor:
        return F.leaky_relu(z, self.slope)

    def primitive(self, z: Tensor) -> Tensor:
        return 0.5 * z * self.phi(z)

    def conjugate(self, x: Tensor) -> Tensor:
        return 0.5 * x * F.leaky_relu(x, 1 / self.slope)

    def prox(self, v: Tensor, step: Tensor | float) -> Tensor:
        return torch.where(v >= 0, v / (1 + step), v / (1 + step / self.slope))


class Tanh(Activation):
    """f* = log cosh, f(x) = ½ ((1 + x) log(1 + x) + (1 − x) log(1 − x)) on [−1, 1]."""

    def phi(self, z: Tensor) -> Tensor:
        return torch.tanh(z)

    def primitive(self, z: Tensor) -> Tensor:
        size = z.abs()
        return size + F.softplus(-2 * size, threshold=100) - _LOG2

    def conjugate(self, x: Tensor) -> Tensor:
        inside = x.abs() <= 1
        held = x.clamp(-1, 1)
        made = 0.5 * (torch.xlogy(1 + held, 1 + held) + torch.xlogy(1 - held, 1 - held))
        return torch.where(inside, made, float("inf"))

    def prox(self, v: Tensor, step: Tensor | float) -> Tensor:
        return torch.tanh(_dual_point(v, step))


class Sigmoid(Activation):
    """f* = log(1 + exp z), f(x) = x log x + (1 − x) log(1 − x) on [0, 1]."""

    steepest = 0.25

    def phi(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def primitive(self, z: Tensor) -> Tensor:
        return F.softplus(z, threshold=100)

    def conjugate(self, x: Tensor) -> Tensor:
        inside = (x >= 0) & (x <= 1)
        held = x.clamp(0, 1)
        made = torch.xlogy(held, held) + torch.xlogy(1 - held, 1 - held)
        return torch.where(inside, made, float("inf"))

    def prox(self, v: Tensor, step: Tensor | float) -> Tensor:
        return torch.sigmoid(2 * _dual_point(2 * v - 1, 4 * step))  # σ(2 w) = ½ (1 + tanh w)


_LOG2 = 0.6931471805599453


def _dual_point(v: Tensor, step: Tensor | float) -> Tensor:
    """z with tanh z + step · z = v: tanh z is the proximal point of v.

    From below in size, where the left side is concave, Newton's method rises to the solution. Sizes of
    v ∕ (1 + step) and of (|v| − 1) ∕ step are below it, as tanh z is below z and below 1.
    """
    size = v.abs()
    z = torch.maximum(size / (1 + step), (size - 1) / step)
    slack = 8 * torch.finfo(z.dtype).eps * size.clamp_min(1.0)
    for _ in range(_NEWTON_STEPS):
        x = torch.tanh(z)
        gap = size - x - step * z
        z = z + gap.clamp_min(0.0) / (1 - x * x + step)
        if bool((gap <= slack).all()):
            break
    return z.copysign(v)


def activation_of(block: Block) -> Activation | str:
    """What belongs to the φ of a state; else why there is no Fenchel divergence."""
    op = block.activation
    if op is None:
        return Clipped()
    found = _FOUND.get(op.kind)
    if found is None:
        return f"its activation `{block.phi}` has no Fenchel divergence here; there are those of {_KNOWN}"
    return found(op)


def _leaky(op: Operator) -> Activation | str:
    slope = float(op["slope"])
    if slope > 0:
        return Leaky(slope)
    return Clipped(0.0) if slope == 0 else f"`leaky_relu` with slope {slope:g} falls below 0"


_FOUND: dict[str, Callable[[Operator], Activation | str]] = {
    "identity": lambda op: Clipped(),
    "relu": lambda op: Clipped(0.0),
    "leaky_relu": _leaky,
    "hardtanh": lambda op: Clipped(float(op["low"]), float(op["high"])),
    "relu6": lambda op: Clipped(0.0, 6.0),
    "tanh": lambda op: Tanh(),
    "sigmoid": lambda op: Sigmoid(),
}
_KNOWN = ", ".join(f"`{name}`" for name in _FOUND)

__all__ = ["Activation", "Clipped", "Leaky", "Sigmoid", "Tanh", "activation_of"]
