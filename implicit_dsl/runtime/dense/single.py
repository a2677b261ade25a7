"""One row: checks where the observed rate predicts success; Newton or Anderson where Picard is slow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.found import Found, found_row
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.rows import Rows

# A solve with a matrix costs about as much as this many products with it, when it is small enough for
# the cost of calls to count more than that of arithmetic.
NEWTON_STEPS = 40
NEWTON_SIZE, LARGEST_NEWTON = 128, 256  # above the first it has to wait, above the second it loses
# An accelerated step costs about six plain ones at n = 256 (calls), and converges in some twenty; where
# the matrix is large, they cost the same.
ANDERSON_STEPS, LARGE_ANDERSON_STEPS, LARGE_SIZE = 60, 8, 512
# Rates are observed over few steps: no prediction reaches further than this.
FARTHEST_CHECK = 64
NEWTON_LIMIT = 12
SHORT = 512  # unknowns, for which the number of calls counts more than what they do


def single(rows: Rows, x: Tensor, goal: Goal, accelerate: bool) -> tuple[Found, int, bool]:
    """Steps from x (1, n), which is overwritten; their number; whether it was given up for acceleration."""
    last, floor = goal.max_steps, goal.floor(x.dtype) if goal.tolerance < goal.floor(x.dtype) else 0.0
    image, difference = torch.empty_like(x), torch.empty_like(x)
    check, checked, step, before, scale = 2, 1, 0, 0.0, math.inf
    patience = patience_of(x.shape[1])
    while True:
        step += 1
        image = rows.step(x, image)
        if step >= check or step >= last:
            size = distance(x, image, difference, goal)
            # the scale is looked at twice: at the first check, and where the residual may be small enough
            if not goal.tolerance * scale < size < math.inf or floor or step >= last:
                scale = scale_of(size, goal.result(x, image), goal)
                done = not goal.tolerance * scale < size < math.inf or 0.0 < before <= size <= floor * scale
                if done or step >= last:
                    return found_row(goal.result(x, image), ratio(size, scale), step), step, False
            remaining = predict(size, before, step - checked, goal.tolerance * scale)
            if accelerate and remaining > patience:
                return found_row(image, ratio(size, scale), step), step, True
            checked, before, check = step, size, step + max(1, min(FARTHEST_CHECK, remaining))
        x, image = image, x


def patience_of(n: int) -> int:
    """With more plain steps than these to go, it is better to accelerate."""
    if n <= NEWTON_SIZE:
        return NEWTON_STEPS
    return ANDERSON_STEPS if n < LARGE_SIZE else LARGE_ANDERSON_STEPS


def predict(size: float, before: float, steps: int, wanted: float) -> int:
    """Steps until the residual is as wanted, if it goes on falling as it did; 1 when nothing is known."""
    if before <= 0.0:
        return 1
    rate = min(max(size / before, 1e-9) ** (1 / steps), 0.9999)
    return math.ceil(0.95 * math.log(wanted / size) / math.log(rate)) if wanted > 0.0 else FARTHEST_CHECK


def measure(x: Tensor, image: Tensor, difference: Tensor, goal: Goal) -> tuple[float, float]:
    """Size of the residual of x and its scale, as numbers."""
    size = distance(x, image, difference, goal)
    return size, scale_of(size, goal.result(x, image), goal)


def scale_of(size: float, result: Tensor, goal: Goal) -> float:
    """What a residual is relative to."""
    if goal.adjoint:
        return extent(result, goal)
    return 1.0 if size <= goal.tolerance else max(1.0, extent(result, goal))


def distance(x: Tensor, image: Tensor, difference: Tensor, goal: Goal) -> float:
    """The norm of image − x."""
    if x.shape[1] <= SHORT:  # one call, which is not vectorised
        return float(torch.dist(x, image, 1.0 if goal.adjoint else math.inf))
    return extent(torch.sub(image, x, out=difference), goal)


def extent(row: Tensor, goal: Goal) -> float:
    """The norm of a row."""
    if goal.adjoint:
        return float(row.abs().sum())
    low, high = torch.aminmax(row)  # ten times faster than a norm
    return max(float(high), -float(low))


def ratio(size: float, scale: float) -> float:
    return size / scale if size != 0.0 else 0.0


def newton(rows: Rows, x: Tensor, step: int, goal: Goal) -> Found | None:
    """Semi-smooth Newton for one row: x ← x + (I − D Rᵀ)⁻¹ (f(x) − x), D the slopes. None: it does not help.

    From x (1, n), for which `step` steps were made: every solve counts as one. It ends as
    soon as a step does not halve the residual.
    """
    before, last = math.inf, min(step + NEWTON_LIMIT, goal.max_steps)
    image, difference = torch.empty_like(x), torch.empty_like(x)
    while step < last:
        step += 1
        image = rows.step(x, image)
        size, scale = measure(x, image, difference, goal)
        if size <= goal.tolerance * scale:
            return found_row(goal.result(x, image), ratio(size, scale), step)
        if not size <= 0.5 * before:
            return None
        before = size
        slope = rows.slope if rows.phi is None else rows.phi.slope(image)
        jacobian = rows.right.T if slope is None else slope.T * rows.right.T
        system = torch.eye(len(jacobian), dtype=x.dtype, device=x.device) - jacobian
        change, failed = torch.linalg.solve_ex(system, (image - x).T)
        if int(failed):
            return None
        x = x + change.T
    return None
