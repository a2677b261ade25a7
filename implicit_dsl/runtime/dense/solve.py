"""Solve x = f(x) for every row, on the route that was chosen."""

from __future__ import annotations

from math import ceil, log

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.anderson import anderson
from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.ledger import Ledger
from implicit_dsl.runtime.dense.picard import picard
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.probe import packed_faster
from implicit_dsl.runtime.dense.route import (
    NORM_ROWS,
    PACKED_ROWS,
    PACKED_SIZE,
    PICARD_STEPS,
    Method,
    Route,
    dispatch,
)
from implicit_dsl.runtime.dense.rows import Rows, pack
from implicit_dsl.runtime.dense.single import newton, single


def solve_equilibrium(A: Tensor, c: Tensor, start: Tensor | None, plan: Plan) -> Found:
    """x = φ(A x + c) for each row of c (batch, n), from `start` or from φ(c)."""
    route = choose(A, c, plan)
    goal = Goal(plan.tolerance, plan.max_steps, contracts=contracts(A, c, plan))
    rows = Rows(A.T, c, phi=plan.activation, packed=pack(A, len(c)) if route.packed else None)
    return solve_rows(rows, start, goal, plan, route)


def solve_linear(A: Tensor, slope: Tensor, g: Tensor, transposed: bool, plan: Plan) -> Found:
    """w = slope ⊙ (A w + g), or with Aᵀ, for each row of g (batch, n)."""
    route = choose(A, g, plan)
    goal = Goal(plan.adjoint_tolerance, plan.adjoint_steps, adjoint=True, contracts=contracts(A, g, plan))
    weight = A.T if transposed else A
    rows = Rows(weight.T, g, slope=slope, packed=pack(weight, len(g)) if route.packed else None)
    return solve_rows(rows, None, goal, plan, route)


def choose(A: Tensor, c: Tensor, plan: Plan) -> Route:
    """The route of this solve."""
    n, batch = len(A), len(c)
    packed = batch >= PACKED_ROWS and n >= PACKED_SIZE and A.device.type == "cpu" and packed_faster()
    name = plan.activation.name
    return dispatch(n, batch, A.dtype, A.device, name, plan.rate, packed_faster=packed)


def contracts(A: Tensor, c: Tensor, plan: Plan) -> bool:
    """Whether f is known not to expand, so that f(x) is as good as the x that was checked."""
    if plan.rate is not None and plan.rate <= 1:
        return True
    if len(c) < NORM_ROWS:
        return False
    return float(A.abs().sum(1).amax()) * plan.activation.lipschitz <= 1


def solve_rows(rows: Rows, start: Tensor | None, goal: Goal, plan: Plan, route: Route) -> Found:
    """x = f(x) for each row, in PyTorch."""
    x = rows.first() if start is None else start.clone(memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return Found(x, 0.0, 0)
    match route.method:
        case Method.COUNTED:
            return counted(rows, x, goal, plan)
        case Method.SINGLE:
            return solve_single(rows, x, goal, plan)
        case Method.ROWS | Method.NATIVE:
            return solve_batch(rows, x, goal, plan)


def solve_batch(rows: Rows, x: Tensor, goal: Goal, plan: Plan) -> Found:
    """Picard, and what is then left by Anderson."""
    ledger = Ledger(goal)
    first = min(PICARD_STEPS, goal.max_steps) if plan.memory else goal.max_steps
    left = picard(rows, x, ledger, first)
    if left is not None and first < goal.max_steps:
        anderson(rows, ledger.x.index_select(0, left), left, ledger, first, goal.max_steps, plan.memory)
    return ledger.found()


def solve_single(rows: Rows, x: Tensor, goal: Goal, plan: Plan) -> Found:
    """Picard; if that is going to be slow, Newton for a small matrix, else Anderson."""
    found, slow = single(rows, x, goal, plan.memory > 0)
    if not slow:
        return found
    better = newton(rows, found, goal)
    if better is not None:
        return better
    ledger, step = Ledger(goal), int(found.steps)
    ledger.open(x)
    anderson(
        rows, found.x.clone(), torch.zeros(1, dtype=torch.int64), ledger, step, goal.max_steps, plan.memory
    )
    return ledger.found()


def counted(rows: Rows, x: Tensor, goal: Goal, plan: Plan) -> Found:
    """As many steps as the rate needs for the tolerance, from a start within the unit of scale."""
    assert plan.rate is not None
    steps = prior_steps(plan.rate, goal.tolerance, goal.max_steps)
    image = torch.empty_like(x)
    for _ in range(steps):
        image = rows.step(x, image)
        x, image = image, x
    return Found(x, goal.tolerance, steps)


def prior_steps(rate: float, tolerance: float, most: int) -> int:
    """Steps k with rateᵏ ≤ tolerance · (1 − rate), so that ‖x_k − x*‖ ≤ tolerance · ‖x_1 − x_0‖."""
    if rate <= 0:
        return 1
    return max(1, min(most, ceil(log(tolerance * (1 - rate)) / log(rate))))
