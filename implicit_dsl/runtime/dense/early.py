"""The first steps of a small batch: iterates are kept, and each row is picked from them at the end.

As long as a step costs no more than its bookkeeping, it is cheaper to make steps also for rows that
are done than to take these out one by one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from implicit_dsl.runtime.dense.results import Check, Figures, Front, on_device, on_host

EARLY_STEPS = 12
# Numbers in one iterate, up to which those of all first steps stay in the cache.
MOST_NUMBERS = 1 << 15
# Below this size a check costs more than a step, and comes later.
CHEAP_SIZE, FIRST_CHECK, FIRST_CHECK_IF_CHEAP = 128, 2, 4


def early(front: Front, x: Tensor, last: int, guessed: bool = False) -> Tensor | None:
    """Up to `last` steps from x (rows, n). f(x) of the rows that are left, to which the front shrinks.

    None: no row is left. Here a row is done at its first check with a residual of at most the
    tolerance; that of an adjoint is relative to the size of the first iterate that was checked, and what
    that leaves above the tolerance is not done. What is small beside ‖x‖ alone goes on, which spares
    a look at x. `guessed`: x may be the solution already.
    """
    goal, iterates, difference = front.goal, [x], torch.empty_like(x)
    first = FIRST_CHECK_IF_CHEAP if x.shape[1] < CHEAP_SIZE and not guessed else FIRST_CHECK
    checks: list[Check] = []
    done: Figures | None = None
    limit: Figures | float | None = None if goal.adjoint else goal.tolerance
    for step in range(1, last + 1):
        x, image = iterates[-1], front.rows.step(iterates[-1], torch.empty_like(x))
        iterates.append(image)
        if step < first and step < last - 1:
            continue
        size = on_host(goal.size_(torch.sub(image, x, out=difference)))
        limit = on_host(goal.limit(image)) if limit is None else limit
        small = size <= limit
        done = small if done is None else done | small
        checks.append(Check(size, step))
        if done.all():
            break
    assert limit is not None
    return _picked(front, iterates, checks, limit)


def _picked(
    front: Front, iterates: list[Tensor], checks: list[Check], limit: Figures | float
) -> Tensor | None:
    """Enter the rows that are done; the images of the others."""
    goal, results, (size, last) = front.goal, front.results, checks[-1]
    done, steps = size <= limit, np.full(len(size), last)
    for check in reversed(checks[:-1]):
        small = check.size <= limit
        steps[small] = check.step
        size, done = np.where(small, check.size, size), done | small
    image = iterates[last]
    result = goal.result(iterates[last - 1], image)
    if not done.all():
        result = result.clone()
    for check in checks[:-1]:
        places = np.flatnonzero(steps == check.step)
        if len(places):
            chosen = on_device(places, result)
            earlier = goal.result(iterates[check.step - 1], iterates[check.step])
            result.index_copy_(0, chosen, earlier.index_select(0, chosen))
    scaled = on_host(goal.limit(result)) if goal.adjoint else np.asarray(goal.tolerance)
    done &= size <= scaled
    if done.all():
        results.enter(None, result, size, scaled, steps)
        return None
    left, places = np.flatnonzero(~done), np.flatnonzero(done)
    if len(places):
        scaled = on_host(goal.limit(result))[places]
        entered = result.index_select(0, on_device(places, result))
        results.enter(places, entered, size[places], scaled, steps[places])
    image = image.index_select(0, on_device(left, result))
    front.keep(left)
    return image
