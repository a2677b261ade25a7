"""Semi-smooth Newton's method, sample by sample.

L. Qi and J. Sun, A nonsmooth version of Newton's method, Math. Programming 58 (1993). At a kink it
takes the derivative that autograd takes; for relu this is an active set method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.base import Equation, Norm, Point, Solver, State, in_range
from implicit_dsl.runtime.solvers.krylov import Linearised, gmres
from implicit_dsl.runtime.solvers.matrix import Affine, materialise
from implicit_dsl.runtime.solvers.picard import average
from implicit_dsl.runtime.solvers.proximal import value_and_slope

LARGEST_MATRIX = 1024  # unknowns, above which the Jacobian is not made, but only multiplied with
_NUMBERS_AT_ONCE = 1 << 24  # numbers of Jacobians held at once: 64 MiB in float32
# A step is accepted if it reduces the residual by this share of what its length promises.
DECREASE = 1e-4
HALVINGS = 12
# After these it takes an averaged step, which a well-posed loop always allows.
RESCUE_DAMPING = 0.5
_INFINITY = Norm(unit=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Newton(Solver):
    """x ← x + λ d with (I − J) d = f(x) − x, J = f'(x), where λ = 1, ½, ¼ … is the first that helps.

    For x = φ(W x + c) the matrix W is read off once, and J = φ' ⊙ W. Otherwise J is made by
    autograd, up to 1024 unknowns; above, d is found by GMRES with at most `krylov` products by J.
    """

    krylov: int = 30

    name: ClassVar[str] = "newton"
    default_steps: ClassVar[int] = 50
    patience: ClassVar[int] = 3

    def __post_init__(self) -> None:
        Solver.__post_init__(self)
        in_range("krylov", self.krylov, 0, 10_000)

    def init(self, equation: Equation, start: Tensor) -> State:
        small = start.shape[1] <= LARGEST_MATRIX
        affine = materialise(equation, start, self.name) if small and equation.affine is not None else None
        return Trial(affine)

    def evaluate(self, equation: Equation, state: State, x: Tensor) -> Tensor:
        assert isinstance(state, Trial)
        return equation.f(x) if state.image is None else state.image

    def advance(self, equation: Equation, state: State, point: Point) -> Tensor:
        assert isinstance(state, Trial)
        residual = point.image - point.x if point.residual is None else point.residual
        direction = self._direction(equation, state, point.x, residual)
        # where I − J is singular
        direction = torch.where(direction.isfinite().all(1, keepdim=True), direction, residual)
        x, state.image = self._search(equation, point, residual, direction)
        return x

    def _direction(self, equation: Equation, state: Trial, x: Tensor, residual: Tensor) -> Tensor:
        """d (b, n)."""
        working = torch.promote_types(x.dtype, torch.float32)
        if state.affine is not None and equation.phi is not None:
            z = state.affine.times(state.affine.W, x.to(working)) + state.affine.c
            return _solve_sliced(state.affine, value_and_slope(equation.phi, z)[1], residual).to(x.dtype)
        if x.shape[1] <= LARGEST_MATRIX:
            return _solve_jacobian(equation, x, residual.to(working)).to(x.dtype)
        return gmres(Linearised(equation.f, x), residual, self.krylov)

    def _search(
        self, equation: Equation, point: Point, residual: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next x (b, n) and its image, by halving the step of each sample that does not help."""
        size = _INFINITY.size(residual)
        # a sample that is done, or past help, is not searched for
        done = ~(size > self.tolerance_for(point.x.dtype) * _INFINITY.size(point.x)) | ~size.isfinite()
        length = torch.ones_like(size)
        for _ in range(HALVINGS):
            x = torch.addcmul(point.x, direction, length[:, None])
            image = equation.f(x)
            helps = (_INFINITY.size(image - x) <= (1 - DECREASE * length) * size) | done
            if bool(helps.all()):
                return x, image
            length = torch.where(helps, length, length / 2)
        x = torch.addcmul(point.x, direction, length[:, None])
        x = torch.where(helps[:, None], x, average(point, RESCUE_DAMPING * equation.averaging))
        return x, equation.f(x)


class Trial:
    """W and c, if the equation is split and small, and the image of the x that the search has found."""

    def __init__(self, affine: Affine | None) -> None:
        self.affine = affine
        self.image: Tensor | None = None

    def take(self, places: Tensor) -> None:
        if self.affine is not None:
            self.affine.take(places)
        self.image = None if self.image is None else self.image[places]


def _solve_sliced(affine: Affine, slope: Tensor, residual: Tensor) -> Tensor:
    """(I − φ' ⊙ W)⁻¹ r for each sample, some samples at a time."""
    batch, n = slope.shape
    identity = torch.eye(n, dtype=slope.dtype, device=slope.device)
    found = torch.empty_like(slope)
    most = max(1, _NUMBERS_AT_ONCE // n**2)
    for first in range(0, batch, most):
        rows = slice(first, first + most)
        W = affine.W if affine.shared else affine.W[rows]
        matrix = identity - slope[rows, :, None] * W
        right = residual[rows].to(slope.dtype).unsqueeze(2)
        found[rows] = torch.linalg.solve_ex(matrix, right)[0].squeeze(2)
    return found


def _solve_jacobian(equation: Equation, x: Tensor, residual: Tensor) -> Tensor:
    """(I − J)⁻¹ r for each sample, with the rows of all Jacobians from batched products u ↦ Jᵀu."""
    batch, n = x.shape
    linearised = Linearised(equation.f, x)
    J = residual.new_empty((batch, n, n))
    most = max(1, _NUMBERS_AT_ONCE // (batch * n))
    for first in range(0, n, most):
        rows = torch.arange(first, min(n, first + most), device=x.device)
        basis = x.new_zeros((len(rows), batch, n))
        basis[rows - first, :, rows] = 1
        J[:, rows] = linearised.pulled_back(basis).transpose(0, 1).to(J.dtype)
    matrix = torch.eye(n, dtype=J.dtype, device=J.device) - J
    solved: Tensor = torch.linalg.solve_ex(matrix, residual.unsqueeze(2))[0]
    return solved.squeeze(2)
