"""Solve x = f(x) for every row, on the route that was chosen."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.anderson import anderson
from implicit_dsl.runtime.dense.compiled import solve_compiled
from implicit_dsl.runtime.dense.early import EARLY_STEPS, MOST_NUMBERS, early
from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.picard import picard
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.probe import packed_faster
from implicit_dsl.runtime.dense.results import Front, Results
from implicit_dsl.runtime.dense.route import (
    NORM_ROWS,
    PACKED_ROWS,
    PACKED_SIZE,
    Method,
    Route,
    dispatch,
    picard_steps,
)
from implicit_dsl.runtime.dense.rows import Rows, pack
from implicit_dsl.runtime.dense.single import LARGEST_NEWTON, NEWTON_LIMIT, newton, single
from implicit_dsl.runtime.dense.system import System
from implicit_dsl.runtime.implicit.scaling import unit_of
from implicit_dsl.runtime.native import Kernels
from implicit_dsl.runtime.solvers import proved_steps


def solve(system: System, plan: Plan, compiled: Kernels | None = None) -> Found:
    """The solution of each row of the system, on the route that the sizes and the machine suggest."""
    A, c = system.A, system.c
    if c.numel() == 0:
        return Found(torch.empty_like(c), lambda: (0.0, 0), worst=0.0)
    if compiled is not None and A.is_cpu:
        found = solve_compiled(system, plan, compiled)
        if found is not None:
            return found
    route = choose(A, c, plan)
    norm = norm_of(system, plan)
    # f(x) is as good as the x that was checked, if f is known not to expand
    goal = Goal(plan.tolerance, plan.max_steps, system.linear, norm is not None and norm <= 1)
    rows = system.rows(plan)
    if route.packed:
        rows = replace(rows, packed=pack(rows.right.T, len(c)))
    found = solve_rows(rows, system.start, goal, plan, route)
    return found._replace(norm=norm)


def solve_in_units(system: System, plan: Plan, compiled: Kernels | None = None) -> Found | None:
    """The same of a linear system, with each right-hand side in its own unit; None if it is so already.

    Acceleration takes squares, in which extremely small or large gradients vanish or overflow.
    """
    unit = unit_of((system.c,))[:, None]
    if bool((unit == 1).all()):
        return None
    start = None if system.start is None else system.start / unit
    found = solve(system._replace(c=system.c / unit, start=start), plan, compiled)
    return found._replace(x=found.x * unit)


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


def norm_of(system: System, plan: Plan) -> float | None:
    """A bound of the factor by which f expands, if it is known or cheap to know.

    That is ‖A‖∞ times the largest slope, for the equilibrium in the ∞-norm and for its adjoint in the 1-norm.
    """
    if system.linear and not system.transposed:
        return None
    if plan.rate is not None or system.norm is not None:
        return plan.rate if system.norm is None else system.norm
    if len(system.c) < NORM_ROWS or not system.A.is_cpu:
        return None
    return float(system.A.abs().sum(1).amax()) * plan.activation.lipschitz


def solve_rows(rows: Rows, start: Tensor | None, goal: Goal, plan: Plan, route: Route) -> Found:
    """x = f(x) for each row, in PyTorch."""
    match route.method:
        case Method.COUNTED:
            return counted(rows, begun(rows, start), goal, plan)
        case Method.SINGLE:
            return solve_single(rows, begun(rows, start), goal, plan)
        case Method.ROWS | Method.NATIVE:
            return solve_batch(rows, start, goal, plan)


def begun(rows: Rows, start: Tensor | None) -> Tensor:
    """A first iterate that may be overwritten."""
    return rows.first() if start is None else start.clone(memory_format=torch.contiguous_format)


def solve_batch(rows: Rows, start: Tensor | None, goal: Goal, plan: Plan) -> Found:
    """Picard, and what is then left by Anderson."""
    x, guessed = begun(rows, start), start is not None
    results = Results(goal, x.shape[0])
    front = Front(rows, results)
    first = min(picard_steps(x.shape[1]), goal.max_steps) if plan.memory else goal.max_steps
    step = min(first, EARLY_STEPS)
    if x.numel() <= MOST_NUMBERS and step < goal.max_steps and not front.floor and rows.packed is None:
        image = early(front, x, step, guessed)
        if image is None:
            return results.found()
        x = image
    else:
        step = 0
    if step < first:
        left = picard(front, x, step, first)
        if left is None:
            return results.found()
        if first == goal.max_steps:
            front.suspend(*left)
            return results.found()
        kept = front.drop(0.0)
        x = left[1] if kept is None else left[1].index_select(0, kept)
        del left  # two iterates of the whole batch, of which nothing is needed any more
    anderson(front, x, first, plan.memory)
    return results.found()


def solve_single(rows: Rows, x: Tensor, goal: Goal, plan: Plan) -> Found:
    """Picard; if that is going to be slow, Newton for a small matrix, else Anderson."""
    found, step, slow = single(rows, x, goal, plan.memory > 0)
    if not slow:
        return found
    better = newton(rows, found.x, step, goal) if x.shape[1] <= LARGEST_NEWTON else None
    if better is not None:
        return better
    results = Results(goal, 1)
    anderson(Front(rows, results), found.x, step, plan.memory)
    return results.found()


def counted(rows: Rows, x: Tensor, goal: Goal, plan: Plan) -> Found:
    """As many steps as the rate needs for the tolerance. Nothing is read from the device."""
    assert plan.rate is not None
    steps = proved_steps(plan.rate, goal.tolerance)
    image = torch.empty_like(x)
    for _ in range(steps):
        image = rows.step(x, image)
        x, image = image, x
    return Found(x, lambda: (goal.tolerance, steps), counted=True)


def rescue(found: Found, rows: Rows, plan: Plan, adjoint: bool) -> Found:
    """What was found, with the rows that were not done solved by Newton's method, one by one."""
    goal = Goal(plan.tolerance, plan.max_steps + NEWTON_LIMIT, adjoint=adjoint)
    x = found.x.clone()
    residual, steps = (made.clone() for made in found.rows())
    for number in torch.split((~(residual <= plan.tolerance)).nonzero().squeeze(1), 1):
        row = rows.take(number)
        better = newton(row, row.first(), plan.max_steps, goal)
        if better is not None:
            x[number], (residual[number], steps[number]) = better.x, better.report()
    return Found(x, lambda: (residual, steps), found.norm)
