"""Broyden's method with limited memory, sample by sample.

C. G. Broyden, A class of methods for solving nonlinear simultaneous equations, Math. Comp. 19 (1965).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.base import Equation, Point, Solver, State, in_range
from implicit_dsl.runtime.solvers.picard import average
from implicit_dsl.runtime.solvers.stamina import Stamina

# A residual that has grown by this factor has outrun the model: forget it, take a plain step.
BROYDEN_RESTART_GROWTH = 1.2
# Below this cosine the new secant says nothing about the inverse, and its division would be noise.
SMALLEST_COSINE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Broyden(Solver):
    """x ← x − H r for r = f(x) − x, with H ≈ r'(x)⁻¹ a low-rank change of −I, kept for each sample.

    `memory`: its rank. The newest secant equation always holds; the oldest term is overwritten.
    Holds 2 · memory + 3 states, whatever the number of steps.
    """

    memory: int = 10

    name: ClassVar[str] = "broyden"
    look_ahead: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        Solver.__post_init__(self)
        in_range("memory", self.memory, 0, 1000)

    def init(self, equation: Equation, start: Tensor) -> State:
        return Secants(start, self.memory)

    def advance(self, equation: Equation, state: State, point: Point) -> Tensor:
        assert isinstance(state, Secants)
        return state.step(point, equation.averaging)


class Secants:
    """H = −I + Σ u_j v_jᵀ for each sample: u, v (b, memory, n), and the last step in x and residual.

    Terms that are not valid for a sample (b, memory) count as zero for it, whatever they hold.
    """

    def __init__(self, start: Tensor, memory: int) -> None:
        self.memory, self.count = memory, 0
        batch, n = start.shape
        working = torch.promote_types(start.dtype, torch.float32)
        self.u, self.v = (start.new_zeros((batch, memory, n), dtype=working) for _ in range(2))
        self.valid = torch.zeros((batch, memory), dtype=torch.bool, device=start.device)
        self.dx = self.residual = start.to(working)
        self.size = start.new_full((batch, 1), torch.inf, dtype=working)
        self.stamina = Stamina(start)

    def take(self, places: Tensor) -> None:
        for name in ("u", "v", "valid", "dx", "residual", "size"):
            setattr(self, name, getattr(self, name)[places])
        self.stamina.take(places)

    def step(self, point: Point, averaging: float) -> Tensor:
        """The next x (b, n)."""
        residual = point.image - point.x if point.residual is None else point.residual
        residual = residual.to(self.u.dtype)
        size = torch.linalg.vector_norm(residual, dim=1, keepdim=True)
        lasting = size <= BROYDEN_RESTART_GROWTH * self.size  # false for nan
        self.valid &= lasting
        if self.count > 0:  # the oldest term makes room before anything is computed with H
            self.valid[:, (self.count - 1) % self.memory] = False
        direction = self._apply(residual)
        if self.count > 0:
            direction = self._update(direction, residual, lasting)
        self.count += 1
        plain = average(point, averaging) - point.x
        usable = lasting & direction.isfinite().all(1, keepdim=True)
        ahead = point.x + torch.where(usable, direction, plain.to(direction.dtype)).to(point.x.dtype)
        self.stamina.spend(size.flatten(), point.step)
        ahead = self.stamina.choose(ahead, point, averaging)
        self.dx, self.residual, self.size = (ahead - point.x).to(residual.dtype), residual, size
        return ahead

    def _apply(self, residual: Tensor) -> Tensor:
        """−H r (b, n)."""
        used = min(self.count, self.memory)
        if used == 0:
            return residual
        weights = _products(residual, self.v[:, :used])
        weights = torch.where(self.valid[:, :used], weights, 0.0)
        return torch.baddbmm(residual.unsqueeze(1), weights.unsqueeze(1), self.u[:, :used], alpha=-1).squeeze(
            1
        )

    def _update(self, direction: Tensor, residual: Tensor, lasting: Tensor) -> Tensor:
        """Enter the last secant, H dr = dx, and change −H r (b, n) with it.

        H⁺ = H + (dx − H dr) dxᵀH / (dxᵀH dr). The last step was dx = −H r_last, unless it was a
        plain one; H dr is therefore computed as H r − H r_last, with H as it is now.
        """
        used, slot = min(self.count - 1, self.memory), (self.count - 1) % self.memory
        dx, dr = self.dx, residual - self.residual
        left = -dx
        if used:
            weights = torch.where(self.valid[:, :used], _products(dx, self.u[:, :used]), 0.0)
            left = torch.baddbmm(left.unsqueeze(1), weights.unsqueeze(1), self.v[:, :used]).squeeze(1)
        moved = direction - self._apply(self.residual)  # −H dr
        divisor = (left * dr).sum(1, keepdim=True)
        bound = SMALLEST_COSINE * left.norm(dim=1, keepdim=True) * dr.norm(dim=1, keepdim=True)
        sound = lasting & (divisor.abs() > bound)
        right = (dx + moved) / torch.where(sound, divisor, 1.0)
        self.valid[:, slot] = sound.squeeze(1)
        self.u[:, slot], self.v[:, slot] = right, left
        gain = (left * residual).sum(1, keepdim=True)
        return torch.where(sound, direction - gain * right, direction)


def _products(vector: Tensor, rows: Tensor) -> Tensor:
    """⟨vector, rows_j⟩ of each sample: (b, n), (b, k, n) -> (b, k)."""
    return torch.bmm(vector.unsqueeze(1), rows.transpose(1, 2)).squeeze(1)
