"""The one loop of all solvers."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers.base import Equation, Norm, Point, Solver, wide_dtype
from implicit_dsl.runtime.solvers.counting import counted_steps, solve_counted
from implicit_dsl.runtime.solvers.watch import Watch

_NORM = Norm()


@torch.no_grad()
def solve(
    equation: Equation, start: Tensor, solver: Solver, norm: Norm = _NORM, counted: bool | None = None
) -> Solution:
    """Solve x = f(x) from start (batch, n), without a gradient.

    `counted`: make the number of steps that the proved rate of the equation asks for, and read
    nothing back from the device; None: on other devices than the CPU, where that number is not
    too large. Raises ValueError if the solver cannot solve an equation of this form, or if it is to
    count without a proof.
    """
    _check(start)
    if start.numel() == 0:
        return _nothing(start)
    solver = solver.chosen(equation, start)
    steps = counted_steps(equation, solver, start, counted)
    if steps is not None:
        return solve_counted(equation, start, solver, norm, steps)
    return _iterate(equation, start, solver, norm)


def _iterate(equation: Equation, x: Tensor, solver: Solver, norm: Norm) -> Solution:
    watch = Watch(solver, norm, x, equation.rate is not None)
    state = solver.init(equation, x)
    step = 0
    while True:
        step += 1
        look = step >= watch.next_check or step == solver.last_step
        image = solver.evaluate(equation, state, x) if look or solver.reads_image else x
        residual = remaining = None
        if look:
            residual, measured = norm.residual(image, x)
            if watch.look(equation, x, image, measured, step):
                return watch.solution(x, step)
            kept = watch.leave() if equation.restrict is not None else None
            if kept is not None:
                kept = kept.to(x.device)
                equation = equation.only(kept)
                x, image, residual = x[kept], image[kept], residual[kept]
                state.take(kept)
            remaining = watch.remaining(x)
        x = solver.advance(equation, state, Point(x, image, step, residual, remaining))


def _check(start: Tensor) -> None:
    if start.ndim != 2 or not start.dtype.is_floating_point:
        shape = tuple(start.shape)
        raise ValueError(f"a solve starts from real numbers (batch, n), not from {shape} of {start.dtype}")


def _nothing(start: Tensor) -> Solution:
    """The solution without samples, or without unknowns."""
    batch = start.shape[0]
    steps = start.new_zeros(batch, dtype=torch.int64)
    status = torch.full_like(steps, Status.CONVERGED.value, dtype=torch.int8)
    return Solution(start, start.new_zeros(batch, dtype=wide_dtype(start)), steps, status)
