"""Operator splitting for x = φ(W x + c) with I − W ⪰ m I, where Picard's iteration may diverge.

E. Winston and J. Z. Kolter, Monotone operator equilibrium networks, NeurIPS 2020, sections 3.2 and A.
The equilibrium is a zero of the sum of x ↦ (I − W) x − c and ∂f, where φ = prox_f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.anderson import History, anderson_mix
from implicit_dsl.runtime.solvers.base import Equation, Map, Point, Solver, State, in_range
from implicit_dsl.runtime.solvers.matrix import Affine, materialise
from implicit_dsl.runtime.solvers.proximal import is_homogeneous, proximal
from implicit_dsl.runtime.solvers.stamina import Stamina

LARGEST_INVERSE = 4096  # unknowns, above which (I + α (I − W))⁻¹ is not made
# A step that is short enough never lets ‖z⁺ − z‖₂ grow; a growth by rounding does not count.
STEP_GROWTH = 1.001
# A step may be short enough and still far from the best: where a block of steps has reduced ‖z⁺ − z‖₂
# by less than SLOW each, half of it is tried.
BLOCK, SLOW = 12, 0.8
CIRCLING = 0.99999  # above this rate nothing falls: the step is too long, though nothing grows either
_NEVER = 1 << 40
REST = 2 * BLOCK + 1  # steps with one α before it is accelerated: those of a block that tells its rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBackward(Solver):
    """z ← prox_{αf}((1 − α) z + α (W z + c)).

    It contracts for α < 2 m / L², L = ‖I − W‖₂, fastest for α = m / L² as far as m and L know.
    `step` α: None starts with 1, and halves it for a sample whenever its ‖z⁺ − z‖₂ grows, which
    ends below 2 m / L² at the latest. Once α has rested, the contraction is accelerated as Anderson
    does, with `memory` differences; 0: it is not. For φ other than relu and its like prox_{αf} is
    not φ, and is computed entry by entry.
    """

    step: float | None = None
    memory: int = 5

    name: ClassVar[str] = "forward_backward"
    default_steps: ClassVar[int] = 5000
    # ‖z⁺ − z‖₂ falls in every step, while ‖z − f(z)‖ may rest for long where f expands
    endurance: ClassVar[int] = 2000
    look_ahead: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        Solver.__post_init__(self)
        in_range("memory", self.memory, -1, 100)
        if self.step is not None:
            in_range("step", self.step, 0, float("inf"))

    def init(self, equation: Equation, start: Tensor) -> State:
        equation.split(self.name)
        w = None if is_homogeneous(equation, start) else start
        return Forward(start, self.step, self.memory, w)

    def evaluate(self, equation: Equation, state: State, x: Tensor) -> Tensor:
        assert isinstance(state, Forward)
        affine, phi = equation.split(self.name)
        state.affine = affine(x)
        return phi(state.affine)

    def advance(self, equation: Equation, state: State, point: Point) -> Tensor:
        assert isinstance(state, Forward) and equation.phi is not None
        ahead = state.towards(equation.phi, point.x)
        if self.step is None:
            ahead = state.controlled(equation.phi, point, ahead)
        return state.accelerated(point, ahead) if self.memory else ahead


class Forward:
    """W z + c, the step α (b, 1) of each sample, and what controls it. `w`: φ(w) = z, for φ that needs it."""

    def __init__(self, start: Tensor, step: float | None, memory: int, w: Tensor | None) -> None:
        self.affine, self.w = start, w
        self.alpha = start.new_full((start.shape[0], 1), 1.0 if step is None else step)
        self.moved = torch.full_like(self.alpha, torch.inf)  # ‖z⁺ − z‖₂ of the last plain step with this α
        self.block = self.moved.clone()  # the same at the beginning of this block
        self.rate = torch.ones_like(self.alpha)  # over the last block, with 2 α
        self.settled = torch.zeros_like(self.alpha, dtype=torch.bool)
        self.history = History(max(1, memory), first=0)
        # how many steps a sample rests with one α, and the step after which it is accelerated
        self.rest = REST if memory else _NEVER
        self.woken = torch.full_like(self.alpha[:, 0], self.rest if step is None else 0, dtype=torch.int64)
        self.stamina = Stamina(start)

    def take(self, places: Tensor) -> None:
        for name in ("affine", "alpha", "moved", "block", "rate", "settled", "woken"):
            setattr(self, name, getattr(self, name)[places])
        self.w = None if self.w is None else self.w[places]
        self.history.take(places)
        self.stamina.take(places)

    def towards(self, phi: Map, z: Tensor) -> Tensor:
        """prox_{αf}((1 − α) z + α (W z + c))."""
        u = torch.lerp(z, self.affine, self.alpha)
        if self.w is None:
            return phi(u)
        image, self.w = proximal(phi, u, self.alpha, self.w)
        return image

    def controlled(self, phi: Map, point: Point, ahead: Tensor) -> Tensor:
        """The next z, by half of the step where a plain step would have moved further than the one before."""
        z = point.x
        moved = _length(ahead - z)
        noise = 8 * torch.finfo(z.dtype).eps * _length(z)
        plain = ((point.step <= self.woken) | self.stamina.rests(point.step - 1))[:, None]
        grown = plain & (moved > STEP_GROWTH * self.moved) & (moved > noise)
        if bool(grown.any()):
            self.settled |= grown
            self._change(grown, 0.5, point.step)
            ahead = self.towards(phi, z)
            moved = _length(ahead - z)
        self.moved = torch.where(plain, moved, torch.inf)
        if point.step % BLOCK == 0:
            self._tune(point.step)
        return ahead

    def _tune(self, step: int) -> None:
        """Once in a block of steps: try half of α if the block was slow, and go back if that is slower."""
        rate = (self.moved / self.block).pow(1 / BLOCK)
        known = (self.block < torch.inf) & (self.moved < torch.inf) & ~self.settled
        slow = known & (rate > SLOW) & (rate <= self.rate)
        worse = known & (rate > self.rate)
        circling = (self.block < torch.inf) & (self.moved < torch.inf) & self.settled & (rate > CIRCLING)
        self.rate = torch.where(slow, rate, self.rate)
        self.settled |= worse
        self.block = self.moved
        self._change(slow | circling, 0.5, step)
        self._change(worse, 2.0, step)

    def _change(self, chosen: Tensor, factor: float, step: int) -> None:
        """Another α for the chosen samples (b, 1), and a new beginning."""
        self.alpha = torch.where(chosen, self.alpha * factor, self.alpha)
        self.moved = torch.where(chosen, torch.inf, self.moved)
        self.block = torch.where(chosen, torch.inf, self.block)
        self.woken = torch.where(chosen[:, 0], step + self.rest, self.woken)

    def accelerated(self, point: Point, ahead: Tensor) -> Tensor:
        """The next z, mixed with the last ones where α has rested."""
        history = self.history
        if point.step < REST and not bool((self.woken < REST).any()):
            return ahead
        history.woken = self.woken
        if history.residual is not None:
            history.valid &= (self.woken < point.step)[:, None]
        mixed = anderson_mix(history, ahead, ahead - point.x, point.step)
        self.stamina.spend(history.size.sqrt(), point.step, self.woken < point.step)
        return torch.where(self.stamina.rests(point.step)[:, None], ahead, mixed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeacemanRachford(Solver):
    """Peaceman–Rachford splitting: reflections at both operators, with (I + α (I − W))⁻¹ made once.

        h = 2 z − u,    y = (I + α (I − W))⁻¹ (h + α c),    u ← 2 y − h,    z ← prox_{αf}(u)

    It converges for every `step` α > 0, and most often in far fewer steps than forward–backward splitting.
    """

    step: float = 1.0

    name: ClassVar[str] = "peaceman_rachford"
    default_steps: ClassVar[int] = 1000
    endurance: ClassVar[int] = 500
    reads_image: ClassVar[bool] = False

    def __post_init__(self) -> None:
        Solver.__post_init__(self)
        in_range("step", self.step, 0, float("inf"))

    def init(self, equation: Equation, start: Tensor) -> State:
        n = start.shape[1]
        if n > LARGEST_INVERSE:
            raise ValueError(
                f"peaceman_rachford inverts a matrix of {n} × {n}, which is above its limit of "
                f"{LARGEST_INVERSE}; choose forward_backward, which needs no inverse"
            )
        affine = materialise(equation, start, self.name)
        identity = torch.eye(n, dtype=affine.W.dtype, device=start.device)
        inverse, _ = torch.linalg.inv_ex(identity + self.step * (identity - affine.W))
        u = start.to(affine.c.dtype)
        return Reflected(affine, inverse, u, None if is_homogeneous(equation, start) else u)

    def advance(self, equation: Equation, state: State, point: Point) -> Tensor:
        assert isinstance(state, Reflected) and equation.phi is not None
        half = 2 * point.x - state.u
        y = state.affine.times(state.inverse, half + self.step * state.affine.c)
        state.u = 2 * y - half
        if state.w is None:
            return equation.phi(state.u).to(point.x.dtype)
        alpha = state.u.new_full((len(state.u), 1), self.step)
        image, state.w = proximal(equation.phi, state.u, alpha, state.w)
        return image.to(point.x.dtype)


class Reflected:
    """W and c, (I + α (I − W))⁻¹ with as many axes as W, and u (b, n). `w`: φ(w) = z, for φ that needs it."""

    def __init__(self, affine: Affine, inverse: Tensor, u: Tensor, w: Tensor | None) -> None:
        self.affine, self.inverse, self.u, self.w = affine, inverse, u, w

    def take(self, places: Tensor) -> None:
        if not self.affine.shared:
            self.inverse = self.inverse[places]
        self.affine.take(places)
        self.u = self.u[places]
        self.w = None if self.w is None else self.w[places]


def _length(z: Tensor) -> Tensor:
    """‖z‖₂ of each sample, (b, 1)."""
    length: Tensor = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return length
