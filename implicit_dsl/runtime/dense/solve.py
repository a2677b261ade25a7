"""Solve x = f(x) for every row, on the route that was chosen."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.anderson import anderson
from implicit_dsl.runtime.dense.compiled import solve_compiled
from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.picard import picard
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.probe import packed_faster
from implicit_dsl.runtime.dense.results import Results
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
from implicit_dsl.runtime.dense.single import NEWTON_LIMIT, newton, single
from implicit_dsl.runtime.dense.system import System
from implicit_dsl.runtime.native import kernels
from implicit_dsl.runtime.solvers import proved_steps


def solve(system: System, plan: Plan) -> Found:
    """The solution of each row of the system, on the route that the sizes and the machine suggest."""
    A, c = system.A, system.c
    if c.numel() == 0:
        return Found(torch.empty_like(c), 0.0, 0)
    compiled = kernels(A.dtype) if A.is_cpu else None
    route = choose(A, c, plan, compiled is not None)
    if compiled is not None and route.method is Method.NATIVE:
        found = solve_compiled(system, plan, compiled)
        if found is not None:
            return found
        route = choose(A, c, plan)  # there was no memory for it
    goal = Goal(plan.tolerance, plan.max_steps, system.linear, contracts(system, plan))
    rows = system.rows(plan)
    if route.packed:
        rows = replace(rows, packed=pack(rows.right.T, len(c)))
    return solve_rows(rows, system.start, goal, plan, route)


def choose(A: Tensor, c: Tensor, plan: Plan, native: bool = False) -> Route:
    """The route of this solve."""
    n, batch = len(A), len(c)
    packed = (
        batch >= PACKED_ROWS
        and n >= PACKED_SIZE
        and A.device.type == "cpu"
        and not native
        and packed_faster()
    )
    name = plan.activation.name
    return dispatch(n, batch, A.dtype, A.device, name, plan.rate, native, packed)


def contracts(system: System, plan: Plan) -> bool:
    """Whether f is known not to expand, so that f(x) is as good as the x that was checked.

    ‖A‖∞ ≤ 1 says so for the equilibrium in the ∞-norm and for its adjoint in the 1-norm.
    """
    if system.linear and not system.transposed:
        return False
    if plan.rate is not None and plan.rate <= 1:
        return True
    if len(system.c) < NORM_ROWS or not system.A.is_cpu:
        return False
    return float(system.A.abs().sum(1).amax()) * plan.activation.lipschitz <= 1


def solve_rows(rows: Rows, start: Tensor | None, goal: Goal, plan: Plan, route: Route) -> Found:
    """x = f(x) for each row, in PyTorch."""
    x = rows.first() if start is None else start.clone(memory_format=torch.contiguous_format)
    match route.method:
        case Method.COUNTED:
            return counted(rows, x, goal, plan)
        case Method.SINGLE:
            return solve_single(rows, x, goal, plan)
        case Method.ROWS | Method.NATIVE:
            return solve_batch(rows, x, goal, plan)


def solve_batch(rows: Rows, x: Tensor, goal: Goal, plan: Plan) -> Found:
    """Picard, and what is then left by Anderson."""
    results = Results(goal)
    first = min(PICARD_STEPS, goal.max_steps) if plan.memory else goal.max_steps
    left = picard(rows, x, results, first)
    if left is not None and first < goal.max_steps:
        anderson(rows, results.x.index_select(0, left), left, results, first, goal.max_steps, plan.memory)
    return results.found()


def solve_single(rows: Rows, x: Tensor, goal: Goal, plan: Plan) -> Found:
    """Picard; if that is going to be slow, Newton for a small matrix, else Anderson."""
    found, slow = single(rows, x, goal, plan.memory > 0)
    if not slow:
        return found
    better = newton(rows, found, goal)
    if better is not None:
        return better
    results, step = Results(goal), int(found.steps)
    results.open(x)
    anderson(
        rows, found.x.clone(), torch.zeros(1, dtype=torch.int64), results, step, goal.max_steps, plan.memory
    )
    return results.found()


def counted(rows: Rows, x: Tensor, goal: Goal, plan: Plan) -> Found:
    """As many steps as the rate needs for the tolerance. Nothing is read from the device."""
    assert plan.rate is not None
    steps = proved_steps(plan.rate, goal.tolerance)
    image = torch.empty_like(x)
    for _ in range(steps):
        image = rows.step(x, image)
        x, image = image, x
    return Found(x, goal.tolerance, steps, counted=True)


def rescue(found: Found, rows: Rows, plan: Plan, adjoint: bool) -> Found:
    """What was found, with the rows that were not done solved by Newton's method, one by one."""
    goal = Goal(plan.tolerance, plan.max_steps + NEWTON_LIMIT, adjoint=adjoint)
    residual = torch.as_tensor(found.residual, dtype=found.x.dtype).expand(len(found.x)).clone()
    steps = torch.as_tensor(found.steps).expand(len(found.x)).clone()
    x = found.x.clone()
    for number in torch.split((~(residual <= plan.tolerance)).nonzero().squeeze(1), 1):
        row = rows.take(number)
        better = newton(row, Found(row.first(), float("inf"), plan.max_steps), goal)
        if better is not None:
            x[number], residual[number], steps[number] = better.x, better.residual, better.steps
    return Found(x, residual, steps, found.norm)
