"""How a dense equilibrium and its adjoint are to be solved."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_dsl.runtime.dense.activation import Activation


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a dense equilibrium that is no tensor.

    `memory` is that of Anderson acceleration, 0 for plain steps. `rate` is a proved contraction
    factor of the equilibrium in the ∞-norm, and so of the adjoint in the 1-norm.
    """

    activation: Activation
    tolerance: float
    max_steps: int
    memory: int = 5
    rate: float | None = None
