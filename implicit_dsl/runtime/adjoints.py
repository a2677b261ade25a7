"""How the gradient of an equilibrium is found: exactly, or by a named approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Implicit:
    """The exact gradient, by the implicit function theorem: λ = Jᵀλ + g, solved like the equilibrium.

    J = ∂f/∂x at the solution, g the gradient that arrives there; ∂L/∂θ = (∂f/∂θ)ᵀ λ. Memory does
    not grow with the number of steps, and the gradient can be differentiated again, to any order.
    `tolerance` is that of the adjoint and of its derivatives, relative to itself; None: that of the solver.
    """

    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0.0 < self.tolerance <= 1.0:
            raise ValueError(f"tolerance must be in (0, 1], but is {self.tolerance}")


@dataclass(frozen=True, slots=True)
class Neumann:
    """The first terms of λ = Σₜ (Jᵀ)ᵗ g. The relative error is at most κ^terms if f contracts by κ."""

    terms: int = 5

    def __post_init__(self) -> None:
        _require_positive("terms", self.terms)


@dataclass(frozen=True, slots=True)
class JFB:
    """One term, λ = g: Jacobian-free backpropagation (Wu Fung et al. 2022)."""


@dataclass(frozen=True, slots=True)
class Phantom:
    """`steps` damped steps from the solution, λ = τ Σₜ ((1 − τ)I + τJᵀ)ᵗ g (Geng et al. 2021).

    τ is `damping` in (0, 1]. With τ = 1 it is `Neumann(steps)`.
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        _require_positive("steps", self.steps)
        if not 0.0 < self.damping <= 1.0:
            raise ValueError(f"damping must be in (0, 1], but is {self.damping}")


@dataclass(frozen=True, slots=True)
class Unrolled:
    """The derivative of the sweeps that were made, through all of them: memory grows with their number.

    The solver must be `Picard` (or `Auto`, which then is `Picard`).
    """


Backward: TypeAlias = Implicit | Neumann | JFB | Phantom | Unrolled


def _require_positive(name: str, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be a whole number, but is {number!r}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, but is {number}")


@dataclass(frozen=True, slots=True)
class Series:
    """λ = τ Σ_{t < terms} ((1 − τ)I + τJᵀ)ᵗ g: what all approximations are."""

    terms: int
    damping: float = 1.0


def series(backward: Neumann | JFB | Phantom) -> Series:
    """The approximation as a truncated series."""
    match backward:
        case Neumann(terms):
            return Series(terms)
        case JFB():
            return Series(1)
        case Phantom(steps, damping):
            return Series(steps, damping)
