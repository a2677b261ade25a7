"""The methods that integrate an `ode`: Runge–Kutta methods with fixed steps, and adaptive ones by name.

A step from x at t of length h has stages X_i = x + h Σ_j a_ij k_j with slopes k_i = f(X_i, t + c_i h), and
ends at x + h Σ_i b_i k_i (Hairer, Nørsett and Wanner 1993, section II.1). Here a_ij = 0 for j > i: a stage
reads those before it. The last one reads itself if a_ii ≠ 0, which makes the step an equilibrium: of the
state y behind it, where X = y if the step ends in that stage, and X = x + (y - x) a_ii / b_i if it has no
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tableau:
    """A method: `nodes` are c, the rows of `matrix` are a up to the diagonal, `weights` are b."""

    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def is_implicit(self, stage: int) -> bool:
        """Whether a stage reads itself."""
        return self.matrix[stage][stage] != 0


@dataclass(frozen=True, slots=True)
class Method:
    """A method with its settings: how many steps it takes between two times, or its tolerances."""

    name: str
    settings: tuple[tuple[str, int | float | bool], ...] = ()

    @property
    def steps(self) -> int:
        """How many steps it takes; adaptive methods choose them."""
        return int(dict(self.settings).get("steps", DEFAULT_STEPS))

    @property
    def is_adaptive(self) -> bool:
        return self.name in ADAPTIVE


FIXED: Mapping[str, Tableau] = {
    "euler": Tableau((0.0,), ((0.0,),), (1.0,)),
    "midpoint": Tableau((0.0, 0.5), ((0.0,), (0.5, 0.0)), (0.0, 1.0)),
    "heun": Tableau((0.0, 1.0), ((0.0,), (1.0, 0.0)), (0.5, 0.5)),
    "rk4": Tableau(
        (0.0, 0.5, 0.5, 1.0),
        ((0.0,), (0.5, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 1.0, 0.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
    "rk38": Tableau(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((0.0,), (1 / 3, 0.0), (-1 / 3, 1.0, 0.0), (1.0, -1.0, 1.0, 0.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
    "implicit_euler": Tableau((1.0,), ((1.0,),), (1.0,)),
    "implicit_midpoint": Tableau((0.5,), ((0.5,),), (1.0,)),
    "trapezoid": Tableau((0.0, 1.0), ((0.0,), (0.5, 0.5)), (0.5, 0.5)),
}
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
METHODS = (*FIXED, *ADAPTIVE)
DEFAULT, DEFAULT_STEPS = "rk4", 20
