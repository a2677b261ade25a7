"""One row: checks where the observed rate predicts success; Newton or Anderson where Picard is slow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.rows import Rows

# A solve with a matrix costs about as much as this many products with it, when it is small enough for
# the cost of calls to count more than that of arithmetic.
NEWTON_STEPS = 40
NEWTON_SIZE = 128
# An accelerated step costs about six plain ones at n = 256 (calls), and converges in some twenty.
ANDERSON_STEPS = 60
# Rates are observed over few steps: no prediction reaches further than this.
FARTHEST_CHECK = 64
NEWTON_LIMIT = 12


def single(rows: Rows, x: Tensor, goal: Goal, accelerate: bool) -> tuple[Found, bool]:
    """Steps from x (1, n), which is overwritten. Second, whether it was given up for acceleration."""
    last, floor = goal.max_steps, goal.floor(x.dtype) if goal.tolerance < goal.floor(x.dtype) else 0.0
    image, difference = torch.empty_like(x), torch.empty_like(x)
    check, checked, step, before = 2, 1, 0, 0.0
    patience = NEWTON_STEPS if x.shape[1] <= NEWTON_SIZE else ANDERSON_STEPS
    while True:
        step += 1
        image = rows.step(x, image)
        if step >= check or step >= last:
            size, scale = measure(x, image, difference, goal)
            done = not goal.tolerance * scale < size < math.inf or 0.0 < before <= size <= floor * scale
            if done or step >= last:
                return Found(goal.result(x, image), ratio(size, scale), step), False
            remaining = predict(size, before, step - checked, goal.tolerance * scale)
            if accelerate and remaining > patience:
                return Found(image, ratio(size, scale), step), True
            checked, before, check = step, size, step + max(1, min(FARTHEST_CHECK, remaining))
        x, image = image, x


def predict(size: float, before: float, steps: int, wanted: float) -> int:
    """Steps until the residual is as wanted, if it goes on falling as it did; 1 when nothing is known."""
    if before <= 0.0:
        return 1
    rate = min(max(size / before, 1e-9) ** (1 / steps), 0.9999)
    return math.ceil(0.95 * math.log(wanted / size) / math.log(rate)) if wanted > 0.0 else FARTHEST_CHECK


def measure(x: Tensor, image: Tensor, difference: Tensor, goal: Goal) -> tuple[float, float]:
    """Size of the residual of x and its scale, as numbers."""
    torch.sub(image, x, out=difference)
    size = extent(difference, goal)
    if not goal.adjoint and size <= goal.tolerance:
        return size, 1.0  # the scale is at least 1: good enough whatever it is
    scale = extent(goal.result(x, image), goal)
    return size, scale if goal.adjoint else max(1.0, scale)


def extent(row: Tensor, goal: Goal) -> float:
    """The norm of a row."""
    if goal.adjoint:
        return float(row.abs().sum())
    low, high = torch.aminmax(row)  # ten times faster than a norm
    return max(float(high), -float(low))


def ratio(size: float, scale: float) -> float:
    return size / scale if size != 0.0 else 0.0


def newton(rows: Rows, guess: Found, goal: Goal) -> Found | None:
    """Semi-smooth Newton for one row: x ← x + (I − D Rᵀ)⁻¹ (f(x) − x), D the slopes. None: it does not help.

    Every solve counts as one step. It ends as soon as a step does not halve the residual.
    """
    x, step, before = guess.x, int(guess.steps), math.inf
    image, difference = torch.empty_like(x), torch.empty_like(x)
    while step < min(int(guess.steps) + NEWTON_LIMIT, goal.max_steps):
        step += 1
        image = rows.step(x, image)
        size, scale = measure(x, image, difference, goal)
        if size <= goal.tolerance * scale:
            return Found(goal.result(x, image), ratio(size, scale), step)
        if not size <= 0.5 * before:
            return None
        before = size
        slope = rows.slope if rows.phi is None else rows.phi.slope(image)
        jacobian = rows.right.T if slope is None else slope.T * rows.right.T
        system = torch.eye(len(jacobian), dtype=x.dtype, device=x.device) - jacobian
        change, failed = torch.linalg.solve_ex(system, difference.T)
        if int(failed):
            return None
        x = x + change.T
    return None
