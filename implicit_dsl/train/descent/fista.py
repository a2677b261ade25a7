"""Accelerated proximal gradient steps, and what keeps them from going up."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.train.descent.blocks import WeightProblem

_AT_REST = 1e-6  # relative change of θ at which steps end
_DOUBLINGS = 60


def improved(problem: WeightProblem, theta: Tensor, steps: int) -> Tensor:
    """θ after some steps; the objective there is never above that at the start.

    Of a quadratic problem with a full matrix, one step solves it. Steps are those of Beck and Teboulle (2009)
    with restarts of O'Donoghue and Candès (2015); where sets are not convex they are plain, and go down.
    """
    before = problem.value(theta)
    if not problem.component.proximal.convex:
        return _descent(problem, theta, before, steps)
    metric = problem.metric
    if metric is not None:
        quadratic = problem.goals[0].quadratic
        found = _in_metric(problem, theta, metric, 2 if quadratic else steps, momentum=not quadratic)
    else:
        found = _fista(problem, theta, steps)
    if problem.value(found) <= before:
        return found
    return _descent(problem, theta, before, min(steps, 5))


def _fista(problem: WeightProblem, theta: Tensor, steps: int) -> Tensor:
    L, exact = max(problem.lipschitz(), torch.finfo(theta.dtype).tiny), problem.exact
    ahead, t = theta, 1.0
    for _ in range(steps):
        gradient = problem.gradient(ahead)
        moved = problem.prox(ahead - gradient / L, 1 / L)
        if not exact:
            there, slack = problem.smooth(ahead), 64 * torch.finfo(theta.dtype).eps
            for _ in range(_DOUBLINGS):
                step = moved - ahead
                bound = there + (gradient * step).sum() + L / 2 * step.square().sum()
                if bool(problem.smooth(moved) <= bound + slack * there.abs()):
                    break
                L *= 2
                moved = problem.prox(ahead - gradient / L, 1 / L)
        if bool(((ahead - moved) * (moved - theta)).sum() > 0):
            t = 1.0
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead = moved + (t - 1) / following * (moved - theta)
        at_rest = bool((moved - theta).norm() <= _AT_REST * moved.norm())
        theta, t = moved, following
        if at_rest:
            break
    return theta


def _in_metric(problem: WeightProblem, theta: Tensor, factor: Tensor, steps: int, momentum: bool) -> Tensor:
    """The same with steps (curvature · gram + ridge)⁻¹ ∇, whatever the condition of the features."""
    ahead, t = theta, 1.0
    for _ in range(steps):
        gradient = problem.gradient(ahead)
        moved = ahead - torch.cholesky_solve(gradient.to(factor).mT, factor).mT.to(theta)
        if bool((gradient * (moved - theta)).sum() > 0):
            t = 1.0
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead = moved + (t - 1) / following * (moved - theta) if momentum else moved
        at_rest = bool((moved - theta).norm() <= _AT_REST * moved.norm())
        theta, t = moved, following
        if at_rest:
            break
    return theta


def _descent(problem: WeightProblem, theta: Tensor, value: float, steps: int) -> Tensor:
    """Plain steps, each shortened until the objective falls."""
    L = max(problem.lipschitz(), torch.finfo(theta.dtype).tiny)
    for _ in range(steps):
        gradient = problem.gradient(theta)
        for _ in range(_DOUBLINGS):
            moved = problem.prox(theta - gradient / L, 1 / L)
            found = problem.value(moved)
            if found < value:
                break
            L *= 2
        else:
            return theta
        theta, value, L = moved, found, L / 2
    return theta


__all__ = ["improved"]
