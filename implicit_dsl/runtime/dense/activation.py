"""The elementwise activations of a dense equilibrium, and their slopes read off the solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import torch
from torch import Tensor

Name: TypeAlias = Literal["relu", "leaky_relu", "identity", "tanh", "sigmoid"]
NAMES: tuple[Name, ...] = ("relu", "leaky_relu", "identity", "tanh", "sigmoid")


@dataclass(frozen=True, slots=True)
class Activation:
    """φ with slope in [0, 1]: monotone and 1-Lipschitz, so ‖A‖ bounds the rate of x ← φ(A x + c).

    φ′(z) is a function of x = φ(z) alone for every one of them, so that no pre-activation is
    kept or computed again for the backward pass. At a kink the slope is that of the left.
    """

    name: Name
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"activation {self.name!r} is none of {', '.join(NAMES)}")
        if not 0.0 <= self.negative_slope <= 1.0:
            raise ValueError(
                f"slope {self.negative_slope} is outside of [0, 1]: leaky_relu would not be 1-Lipschitz"
            )

    @property
    def piecewise_linear(self) -> bool:
        """Whether the slope is constant almost everywhere, so that it has no derivative of its own."""
        return self.name in ("relu", "leaky_relu", "identity")

    @property
    def lipschitz(self) -> float:
        """The largest slope."""
        return 0.25 if self.name == "sigmoid" else 1.0

    def apply_(self, z: Tensor) -> Tensor:
        """φ in place."""
        match self.name:
            case "relu":
                return z.relu_()
            case "leaky_relu":
                return torch.nn.functional.leaky_relu_(z, self.negative_slope)
            case "identity":
                return z
            case "tanh":
                return z.tanh_()
            case "sigmoid":
                return z.sigmoid_()
            case _:
                assert_never(self.name)

    def __call__(self, z: Tensor) -> Tensor:
        """φ, differentiable."""
        match self.name:
            case "relu":
                return z.relu()
            case "leaky_relu":
                return torch.nn.functional.leaky_relu(z, self.negative_slope)
            case "identity":
                return z
            case "tanh":
                return z.tanh()
            case "sigmoid":
                return z.sigmoid()
            case _:
                assert_never(self.name)

    def slope(self, x: Tensor) -> Tensor:
        """φ′ at the pre-activation of x = φ(z), as a differentiable function of x."""
        match self.name:
            case "relu":
                return (x > 0).to(x.dtype)
            case "leaky_relu":
                return torch.full_like(x, self.negative_slope).masked_fill(x > 0, 1.0)
            case "identity":
                return torch.ones_like(x)
            case "tanh":
                return 1 - x * x
            case "sigmoid":
                return x * (1 - x)
            case _:
                assert_never(self.name)
