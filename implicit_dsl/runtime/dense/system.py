"""The equations of one solve: the equilibrium, its adjoint or its tangent, with plain tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.rows import Rows


class System(NamedTuple):
    """x = φ(A x + c) for each row of c (batch, n), or w = D (M w + c) with M = A or Aᵀ.

    The slopes D (batch, n) of the linear one are either `slope`, or follow from a solution `at`
    of the equilibrium; the other is None. (A named tuple: the fastest to make of what is frozen.)
    """

    A: Tensor
    c: Tensor
    start: Tensor | None = None
    at: Tensor | None = None
    slope: Tensor | None = None
    transposed: bool = False
    norm: float | None = None  # ‖A‖∞, if it is known

    @property
    def linear(self) -> bool:
        """Whether it is an adjoint or a tangent."""
        return self.at is not None or self.slope is not None

    def rows(self, plan: Plan) -> Rows:
        """The map of it in PyTorch."""
        right = self.A if self.transposed else self.A.T
        if not self.linear:
            return Rows(right, self.c, phi=plan.activation)
        slope = plan.activation.slope(self.at) if self.slope is None and self.at is not None else self.slope
        return Rows(right, self.c, slope=slope)
