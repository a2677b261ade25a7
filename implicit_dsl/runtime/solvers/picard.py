"""x ← (1 − d) x + d f(x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from implicit_dsl.runtime.solvers.base import Equation, Point, Solver, State, Stateless, in_range


@dataclass(frozen=True, slots=True, kw_only=True)
class Picard(Solver):
    """The fixed-point iteration, averaged: x ← (1 − d) x + d f(x) for d = damping · equation.averaging.

    It converges geometrically where f, or its average, is a contraction in some norm.
    """

    damping: float = 1.0

    name: ClassVar[str] = "picard"
    default_steps: ClassVar[int] = 2000

    def __post_init__(self) -> None:
        Solver.__post_init__(self)
        in_range("damping", self.damping, 0, 1)

    @property
    def geometric(self) -> float:
        return self.damping

    def init(self, equation: Equation, start: Tensor) -> State:
        return Stateless()

    def advance(self, equation: Equation, state: State, point: Point) -> Tensor:
        return average(point, self.damping * equation.averaging)


def average(point: Point, damping: float) -> Tensor:
    """(1 − damping) x + damping f(x)."""
    return point.image if damping == 1 else point.x.lerp(point.image, damping)
