"""Anderson acceleration: the next iterate is the image of the best combination of the last ones.

D. G. Anderson, Iterative procedures for nonlinear integral equations, J. ACM 12 (1965); type II in
the difference form of H. Walker and P. Ni, SIAM J. Numer. Anal. 49 (2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_dsl.runtime.native import anderson_combine, anderson_differences
from implicit_dsl.runtime.solvers.base import Equation, Point, Solver, State, in_range, wide_dtype
from implicit_dsl.runtime.solvers.picard import average
from implicit_dsl.runtime.solvers.stamina import Stamina

# Of the largest diagonal entry of the Gram matrix of differences, whose entries are sums in the
# precision of the states: below this share a direction is made of rounding.
REGULARISATION = {torch.float64: 1e-14}
COARSE_REGULARISATION = 1e-9
# A residual that has grown by this factor has outrun its model: forget the past, take a plain step.
RESTART_GROWTH = 3.0
NOISE_UNITS = 32
_TINY = 1e-300  # keeps an empty history solvable, and is zero in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Anderson(Solver):
    """Anderson acceleration with coefficients and restarts of each sample by itself.

    `memory`: how many differences are kept. `damping` β: x ← x̄ + β (f̄ − x̄) for the combinations x̄
    and f̄ of iterates and images. `delay`: plain steps before the first difference is taken.
    Holds 2 · memory + 2 states, whatever the number of steps.
    """

    memory: int = 5
    damping: float = 1.0
    delay: int = 1

    name: ClassVar[str] = "anderson"
    look_ahead: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        Solver.__post_init__(self)
        in_range("memory", self.memory, 0, 100)
        in_range("damping", self.damping, 0, 1)
        in_range("delay", self.delay, -1, float("inf"))

    def init(self, equation: Equation, start: Tensor) -> State:
        return Accelerated(History(self.memory, first=1 + self.delay), Stamina(start))

    def advance(self, equation: Equation, state: State, point: Point) -> Tensor:
        assert isinstance(state, Accelerated)
        target = average(point, self.damping * equation.averaging)
        if point.step < state.history.first:
            return target
        residual = point.image - point.x if point.residual is None else point.residual
        mixed = anderson_mix(state.history, target, residual, point.step)
        state.stamina.spend(state.history.size.sqrt(), point.step)
        return state.stamina.choose(mixed, point, equation.averaging)


@dataclass(slots=True)
class Accelerated:
    """The memory of Anderson's method: what it knows, and when it rests."""

    history: History
    stamina: Stamina

    def take(self, places: Tensor) -> None:
        self.history.take(places)
        self.stamina.take(places)


class History:
    """What Anderson acceleration knows of the last steps, for samples (b,) with n unknowns.

    Differences lie in slots by step number, so that what a sample knows does not depend on when
    another began. A slot that is not valid for a sample is counted as zero for it, whatever it holds.

        dr, dt     (b, memory, n)  differences of residuals r and of targets t, in float32 or wider
        gram       (b, memory, memory)  ⟨dr_i, dr_j⟩, wide
        products   (b, memory)  ⟨dr_i, r⟩ for the current r, wide
        valid      (b, memory)  bool
        size       (b,)  ⟨r, r⟩, wide
    """

    def __init__(self, memory: int, first: int) -> None:
        self.memory, self.first = memory, first
        self.residual: Tensor | None = None  # (b, n), of the last step
        self.target: Tensor | None = None
        self.woken: Tensor | None = None  # (b,) step of the first residual of each sample; None: `first`

    def begin(self, target: Tensor, residual: Tensor) -> None:
        """Remember a first residual, with room for the differences to come."""
        batch, n = residual.shape
        wide = wide_dtype(residual)
        working = torch.promote_types(residual.dtype, torch.float32)
        # zeros, as a slot that is not valid is multiplied by zero, and nan times zero is nan
        self.dr, self.dt = (residual.new_zeros((batch, self.memory, n), dtype=working) for _ in range(2))
        self.gram = residual.new_zeros((batch, self.memory, self.memory), dtype=wide)
        self.products = residual.new_zeros((batch, self.memory), dtype=wide)
        self.valid = torch.zeros_like(self.products, dtype=torch.bool)
        self.size = residual.new_zeros(batch, dtype=wide)
        self.advance(target, residual)

    def advance(self, target: Tensor, residual: Tensor) -> None:
        """The last step is now this one."""
        self.target, self.residual = target, residual

    def take(self, places: Tensor) -> None:
        if self.woken is not None:
            self.woken = self.woken[places]
        if self.residual is None or self.target is None:
            return
        self.residual, self.target = self.residual[places], self.target[places]
        self.dr, self.dt, self.gram = self.dr[places], self.dt[places], self.gram[places]
        self.products, self.valid, self.size = self.products[places], self.valid[places], self.size[places]


def anderson_mix(history: History, target: Tensor, residual: Tensor, step: int) -> Tensor:
    """The next x (b, n) from t and r of this step: t − Σ γ_i dt_i with γ that makes ‖r − Σ γ_i dr_i‖₂ least.

    All bookkeeping of a step is in here: in PyTorch seven passes over a state, and two over each half of the
    history; by the kernels, one over everything for the products and one for the result.
    """
    if history.residual is None or history.target is None:
        history.begin(target, residual)
        history.size = _dot(residual, residual).to(history.gram.dtype)
        return target
    slot = (step - history.first - 1) % history.memory
    used = min(step - history.first, history.memory)
    row, newest, size = _differences(history, target, residual, slot, used)
    history.advance(target, residual)
    _update(history, row, newest, size, slot, step)
    gamma = _coefficients(history, used, residual.dtype)
    mixed = anderson_combine(target, history.dt, gamma)
    if mixed is None:
        dt, weights = history.dt[:, :used], gamma.to(history.dt.dtype).unsqueeze(1)
        mixed = torch.baddbmm(target.to(dt.dtype).unsqueeze(1), weights, dt, alpha=-1).squeeze(1)
    return mixed.to(target.dtype)


def _differences(
    history: History, target: Tensor, residual: Tensor, slot: int, used: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Enter the differences dr and dt of this step. ⟨dr, dr_i⟩ (b, used), ⟨dr, r⟩ and ⟨r, r⟩ (b,), wide."""
    before, target_before = history.residual, history.target
    assert before is not None and target_before is not None
    found = anderson_differences(residual, before, target, target_before, history.dr, history.dt, slot, used)
    if found is not None:
        return found[:, :used], found[:, used], found[:, used + 1]
    dr, wide = history.dr[:, :used], history.gram.dtype
    torch.sub(residual, before, out=dr[:, slot])
    torch.sub(target, target_before, out=history.dt[:, slot])
    newest = dr[:, slot]
    row = torch.bmm(newest.unsqueeze(1), dr.transpose(1, 2)).squeeze(1)
    return row.to(wide), _dot(newest, residual.to(newest.dtype)).to(wide), _dot(residual, residual).to(wide)


def _update(history: History, row: Tensor, newest: Tensor, size: Tensor, slot: int, step: int) -> None:
    """Enter the newest difference into the small matrices, and forget what has been outrun."""
    used = row.shape[1]
    # written so that a size that is not a number forgets as well
    lasting = (size <= RESTART_GROWTH**2 * history.size).unsqueeze(1)
    # a difference that is as small as the rounding of r would point anywhere
    noise = (NOISE_UNITS * torch.finfo(history.dr.dtype).eps) ** 2 * size
    sound = row[:, slot] > noise
    history.valid[:, slot] = sound if history.woken is None else sound & (history.woken < step)
    history.valid &= lasting
    history.gram[:, slot, :used] = row
    history.gram[:, :used, slot] = row
    # ⟨dr_i, r⟩ moves by ⟨dr_i, dr⟩ as r moves by dr
    history.products[:, :used] += row
    history.products[:, slot] = newest
    history.size = size


def _coefficients(history: History, used: int, dtype: torch.dtype) -> Tensor:
    """γ (b, used); zeros where the little system has no finite solution, which makes a plain step."""
    valid = history.valid[:, :used]
    both = valid.unsqueeze(2) & valid.unsqueeze(1)
    gram = torch.where(both, history.gram[:, :used, :used], 0.0)
    products = torch.where(valid, history.products[:, :used], 0.0)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    share = REGULARISATION.get(dtype, COARSE_REGULARISATION)
    diagonal += diagonal.amax(1, keepdim=True) * share + _TINY
    gamma = torch.linalg.solve_ex(gram, products.unsqueeze(2))[0].squeeze(2)
    return torch.where(gamma.isfinite().all(1, keepdim=True), gamma, 0.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each sample, (b,); sums in float32 at least."""
    working = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(working), b.to(working)
    # (b, 1, n) × (b, n, 1) with the second in this layout runs ten times faster than with b.unsqueeze(2)
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(1).transpose(1, 2)).flatten()
