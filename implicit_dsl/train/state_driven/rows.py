"""The rows of a state-driven model: least squares with ℓ1 penalties, within an ℓ1 ball.

For each row, with covariances instead of data (`Moments`):

    min ½ var(t − w·f) + Σⱼ pⱼ |wⱼ|   subject to   Σ_{j < n} |wⱼ| ≤ κ

FISTA (Beck and Teboulle 2009) on features with unit spread, with restarts (O'Donoghue and Candès 2015) row by
row; the proximal step is exact: soft thresholding, and then the projection onto the ball. Between these
steps, which find the supports, the equations of rows are solved on theirs. A row is done when its duality gap
says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints.balls import onto_balls
from implicit_dsl.train.state_driven.moments import Moments
from implicit_dsl.train.state_driven.polishing import polished

_LOOK = 25  # steps between looks at the gaps
_NULL = 1e-10  # of the largest eigenvalue: directions below have no information
_INWARD = 1 - 2.0**-50


@dataclass(frozen=True)
class Solved:
    """W [rows, d] in float64, and for each row the objective, the duality gap and whether it is small enough.

    `gap` is an upper bound of how far `objective` is above the minimum. `steps` is the largest number of any
    row.
    """

    W: Tensor
    objective: Tensor
    gap: Tensor
    done: Tensor
    steps: int


@dataclass(frozen=True)
class Problem:
    """Rows in units in which features have spread one: w̃ⱼ = wⱼ · spreadⱼ.

    `thresholds` [rows, d] are the penalties in these units, infinite where an entry is to be zero; `weights`
    [n] count in the ball Σ weights |w̃| ≤ `bound`; no ball without features in it.
    """

    G: Tensor
    Q: Tensor
    power: Tensor
    thresholds: Tensor
    weights: Tensor
    bound: float

    @property
    def bounded(self) -> int:
        return len(self.weights)

    def part(self, rows: Tensor) -> Problem:
        return replace(
            self, Q=self.Q[rows], power=self.power[rows], thresholds=self.thresholds[rows]
        )  # fmt: skip

    def prox(self, V: Tensor, step: float) -> Tensor:
        """argmin ½‖w − v‖² + step · Σ thresholds |w| within the ball, for each row."""
        W = V.sign() * (V.abs() - step * self.thresholds).clamp_min(0.0)
        if self.bounded:
            W[:, : self.bounded] = self.onto_ball(W[:, : self.bounded])
        return W

    def onto_ball(self, A: Tensor) -> Tensor:
        return onto_balls(A.contiguous(), A.new_full((len(A),), self.bound * _INWARD), self.weights)

    def values(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """Objective and duality gap [rows] of feasible rows.

        The dual point is the residual, scaled until the penalties of what is outside of the ball bear it:
        D(s) = s cov(r, t) − ½ s² var(r) − κ maxⱼ (s |cov(r, fⱼ)| − pⱼ)₊ over the ball.
        """
        correlated = self.Q - W @ self.G
        fit = (W * self.Q).sum(1)
        against = self.power - fit  # cov(r, t)
        residual = (against - (W * correlated).sum(1)).clamp_min(0.0)
        objective = residual / 2 + torch.where(W == 0, 0.0, self.thresholds * W.abs()).sum(1)
        size, n = correlated.abs(), self.bounded
        outside, allowed = size[:, n:], self.thresholds[:, n:]
        ratios = torch.where(outside > allowed, allowed / outside, 1.0)
        s = ratios.amin(1) if ratios.shape[1] else torch.ones_like(fit)
        dual = s * against - s * s * residual / 2
        if n:
            excess = (s[:, None] * size[:, :n] - self.thresholds[:, :n]).clamp_min(0.0) / self.weights
            dual = dual - self.bound * excess.amax(1)
        return objective, (objective - dual).clamp_min(0.0)


def solve_rows(
    moments: Moments,
    penalties: Tensor,
    bounded: int = 0,
    bound: float = 1.0,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 20_000,
) -> Solved:
    """The rows for penalties p [rows, d]; the first `bounded` features are in the ball of radius `bound`.

    `start` [rows, d] is a guess, projected onto the ball. Gaps are to be below `tolerance` times ½ var(t).
    An infinite penalty keeps an entry at zero. Where nothing is penalised, what is outside of the ball is
    eliminated, and least squares of smallest norm are taken.
    """
    spreads = moments.spreads
    units = torch.where(spreads > 0, spreads, 1.0)
    G, Q = moments.G / (units[:, None] * units), moments.Q / units
    problem = Problem(G, Q, moments.power, penalties / units, 1 / units[:bounded], bound)
    W = torch.zeros_like(Q) if start is None else start * units
    if not bool((penalties > 0).any()):
        return _unpenalised(problem, W, units, tolerance, max_steps)
    return _scaled_back(_fista(problem, W, tolerance * moments.power / 2, max_steps), units)


def _scaled_back(solved: Solved, units: Tensor) -> Solved:
    return replace(solved, W=solved.W / units)


def _unpenalised(problem: Problem, W: Tensor, units: Tensor, tolerance: float, max_steps: int) -> Solved:
    """Without penalties: features that no ball holds are regressed on, and leave the problem."""
    n, G, Q = problem.bounded, problem.G, problem.Q
    inverse = torch.linalg.pinv(G[n:, n:], rtol=_NULL, hermitian=True)
    onto = inverse @ G[n:, :n]  # of what the ball holds, on what it does not
    left = Q[:, :n] - Q[:, n:] @ onto
    power = (problem.power - ((Q[:, n:] @ inverse) * Q[:, n:]).sum(1)).clamp_min(0.0)
    solved = Solved(Q[:, :0], power / 2, 0 * power, power >= 0, 0)
    if n:
        inner = G[:n, :n] - G[:n, n:] @ onto
        reduced = Problem(inner, left, power, torch.zeros_like(left), problem.weights, problem.bound)
        solved = _fista(reduced, W[:, :n], tolerance * problem.power / 2, max_steps)
    rest = Q[:, n:] @ inverse - solved.W @ onto.mT
    W = torch.cat((solved.W, rest), 1)
    # of W itself: what the inverse loses in `power` may be more than the products here do
    return _scaled_back(replace(solved, W=W, objective=problem.values(W)[0]), units)


def _fista(problem: Problem, start: Tensor, goal: Tensor, max_steps: int) -> Solved:
    """All rows at once; those whose gaps are below the `goal` [rows] leave."""
    step = 1 / max(float(torch.linalg.eigvalsh(problem.G)[-1]), 1e-300) if len(problem.G) else 1.0
    rows = torch.arange(len(problem.Q), device=problem.Q.device)
    found = start.where(problem.thresholds < float("inf"), 0.0)
    if problem.bounded:
        found[:, : problem.bounded] = problem.onto_ball(found[:, : problem.bounded])
    objective, gap = problem.values(found)
    rows = rows[gap > goal]
    here, W = problem.part(rows), found[rows]
    ahead, momentum, steps = W, W.new_ones(len(W), 1), 0
    while len(rows) and steps < max_steps:
        for _ in range(_LOOK):
            moved = here.prox(ahead - step * (ahead @ here.G - here.Q), step)
            restarted = ((ahead - moved) * (moved - W)).sum(1, keepdim=True) > 0
            following = (1 + (1 + 4 * momentum**2).sqrt()) / 2
            pull = torch.where(restarted, 0.0, (momentum - 1) / following)
            ahead = moved + pull * (moved - W)
            W, momentum = moved, torch.where(restarted, 1.0, following)
        steps += _LOOK
        W, ahead, momentum = _polish(here, W, ahead, momentum)
        values, gaps = here.values(W)
        found[rows], objective[rows], gap[rows] = W, values, gaps
        left = gaps > goal[rows]
        if not bool(left.all()):
            rows, here, W = rows[left], here.part(left), W[left]
            ahead, momentum = ahead[left], momentum[left]
    return Solved(found, objective, gap, gap <= goal, steps)


def _polish(problem: Problem, W: Tensor, ahead: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows moved on their supports where that lowers the objective; their acceleration starts afresh."""
    work = float(_LOOK * W.numel() * W.shape[1])  # as much as the steps in between
    exact = polished(problem.G, problem.Q, problem.thresholds, problem.weights, problem.bound, W, work)
    if problem.bounded:
        exact[:, : problem.bounded] = problem.onto_ball(exact[:, : problem.bounded])
    taken = (problem.values(exact)[0] < problem.values(W)[0])[:, None]
    W = torch.where(taken, exact, W)
    return W, torch.where(taken, W, ahead), torch.where(taken, 1.0, momentum)
