"""Whether what was found has run away: then its residual is small only beside it.

The iterates of x ↦ x + 1 grow for ever, and their residual of 1, relative to them, falls below any
tolerance.
"""

from __future__ import annotations

import torch

from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.system import System

BOUNDED = ("tanh", "sigmoid")
GROWTH = 2.0  # iterates that have grown by less do not run away
FALLEN = 0.1  # of what comes in: a residual that is larger has not fallen, in some directions at least


def checked(found: Found, system: System, plan: Plan) -> Found:
    """The same, with the rows that have run away marked. Costs nothing where a contraction is known."""
    if found.norm is not None and found.norm < 1 - plan.tolerance:  # x grows by 1 ÷ (1 − κ) at most
        return found
    if not system.linear and plan.activation.name in BOUNDED:
        return found
    goal = Goal(plan.tolerance, plan.max_steps, system.linear)
    scale, given = goal.size(found.x), goal.size(system.c)
    eps = torch.finfo(scale.dtype).eps
    if found.worst is not None and bool((max(found.worst, eps) * scale < FALLEN * given).all()):
        return found
    residual, _ = found.rows()
    begun = given if system.start is None else torch.maximum(given, goal.size(system.start))
    grown = scale > GROWTH * (begun if system.linear else begun.clamp(min=1.0))
    visible = residual.clamp(min=eps) * scale < FALLEN * given
    away = grown & ~visible & scale.isfinite()
    return found._replace(away=away) if bool(away.any()) else found
