"""A proved number of steps: no residual is read back from the device inside of the solve."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers.base import Equation, Norm, Solver

# Unasked, so many steps at most are made blindly: a rate bounds the steps from above, and most
# solves need far fewer.
MOST_STEPS = 256
# Weights that are stored in float32 may be above their bounds by a rounding error, and so may the rate.
STORED = 1 + 2.0**-20
# A residual above the tolerance and below so many units of rounding is one of rounding. The wide
# formats sum many roundings, the narrow ones round a sum made in a wide one.
FLOOR_UNITS, NARROW_FLOOR_UNITS = 64, 8


def proved_steps(rate: float, tolerance: float, averaging: float = 1.0) -> int:
    """T such that ‖x_T − f(x_T)‖ ≤ tolerance · ‖x_T‖ for all data, from a start that is as good as zero.

    Let g = (1 − a) id + a f contract with factor κ, and ‖x_0 − f(x_0)‖ ≤ ‖0 − f(0)‖. With x − g(x) =
    a (x − f(x)) and r_t = ‖x_t − f(x_t)‖:

        r_0 ≤ ‖0 − f(0)‖ = ‖0 − g(0)‖ / a ≤ (1 + κ) / a · ‖x*‖,    r_t ≤ κᵗ r_0,
        ‖x_t − x*‖ ≤ a r_t / (1 − κ),    so ‖x_t‖ ≥ ‖x*‖ (1 − κᵗ (1 + κ) / (1 − κ)).

    So r_t ≤ tolerance · ‖x_t‖ follows from κᵗ (1 + κ) (1 / a + tolerance / (1 − κ)) ≤ tolerance.
    """
    if rate == 0:
        return 1
    small = tolerance / ((1 + rate) * (1 / averaging + tolerance / (1 - rate)))
    return max(1, math.ceil(math.log(small) / math.log(rate)))


def damped_steps(rate: float, tolerance: float, damping: float = 1.0, averaging: float = 1.0) -> int:
    """`proved_steps` of x ← (1 − d) x + d g(x), which contracts with factor 1 − d + d κ."""
    known = min(rate * STORED, (1 + rate) / 2)
    return proved_steps(1 - damping * (1 - known), tolerance, damping * averaging)


def counted_steps(equation: Equation, solver: Solver, start: Tensor, counted: bool | None) -> int | None:
    """How many steps are to be made without a look at the residual; None: residuals are looked at.

    Raises ValueError if counting is asked for and cannot be had.
    """
    wanted = not start.is_cpu if counted is None else counted
    if not wanted:
        return None
    damping = solver.geometric
    if equation.rate is None or damping is None:
        if counted is None:
            return None
        reason = (
            "the equation has no proved rate" if equation.rate is None else f"{solver.name} has no known rate"
        )
        raise ValueError(
            f"the steps cannot be counted ahead, because {reason}; use picard with a certificate"
        )
    steps = damped_steps(equation.rate, solver.tolerance_for(start.dtype), damping, equation.averaging)
    if counted is None and steps > MOST_STEPS:
        return None
    return steps


def solve_counted(equation: Equation, start: Tensor, solver: Solver, norm: Norm, steps: int) -> Solution:
    """That many steps of x ← g(x) from the better of start and zero, chosen for each sample on the device.

    The residual of the result is measured, and the status made of it, without being read. More
    steps than the solver may make are not made, which the status tells.
    """
    damping = (solver.geometric or 1.0) * equation.averaging
    x, image = _better_start(equation, start, norm)
    made = min(steps, solver.last_step)
    for _ in range(made):
        x = image if damping == 1 else x.lerp(image, damping)
        image = equation.f(x)
    relative, _ = norm.relative(image - x, x)
    tolerance = solver.tolerance_for(x.dtype)
    status = torch.full_like(relative, Status.COUNTED.value, dtype=torch.int8)
    # not possible in exact arithmetic unless the steps were cut short
    failed = Status.MAX_STEPS if made < steps else Status.STALLED
    units = FLOOR_UNITS if torch.finfo(x.dtype).bits >= 32 else NARROW_FLOOR_UNITS
    floor = units * torch.finfo(x.dtype).eps
    missed = torch.where(relative <= floor, Status.FLOOR.value, failed.value).to(torch.int8)
    status = torch.where(relative <= tolerance, status, missed)
    status = torch.where(relative.isfinite(), status, Status.NOT_FINITE.value)
    made_steps = torch.full_like(status, made, dtype=torch.int64)
    return Solution(x, relative, made_steps, status)


def _better_start(equation: Equation, start: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """x and f(x) for x = start or 0, whichever has the smaller residual: what the bound on steps rests on."""
    zero = torch.zeros_like(start)
    image, image_of_zero = equation.f(start), equation.f(zero)
    better = (norm.size(image - start) <= norm.size(image_of_zero))[:, None]
    return torch.where(better, start, zero), torch.where(better, image, image_of_zero)
