"""x ← f(x) for many rows in two buffers; a row leaves at the first check that it passes."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.results import Front, Results
from implicit_dsl.runtime.dense.rows import Rows

# A check costs about a third of a step at n = 64. Until this step every one is checked, then one
# in CHECK_SHARE: at most that share of the steps is superfluous.
CHECK_EVERY_UNTIL = 8
CHECK_SHARE = 8
# Rows that have left stay in the products until they are one in DROP_SHARE: to drop them, those that
# stay are copied.
DROP_SHARE = 6


def next_check(step: int) -> int:
    """The step of the check after that at `step`. It depends on no data: rows stay independent."""
    return step + max(1, (step - CHECK_EVERY_UNTIL) // CHECK_SHARE)


def picard(rows: Rows, x: Tensor, results: Results, last: int) -> Tensor | None:
    """Up to `last` steps from x, which is overwritten. Numbers of the rows that are not done, or None.

    Those have their last iterate in the results.
    """
    front, goal = Front(rows, results), results.goal
    image, difference = torch.empty_like(x), torch.empty_like(x)
    check, step = min(2, last), 0
    while True:
        step += 1
        image = front.rows.step(x, image)
        if step == check:
            size, scale = goal.measure(x, image, difference)
            result = goal.result(x, image)
            if front.leave(size, scale, result, step):
                return None
            if step == last:
                return front.suspend(size, scale, result, step)
            kept = front.drop(DROP_SHARE)
            if kept is not None:
                image = image.index_select(0, kept)
                x, difference = x[: len(kept)], difference[: len(kept)]
            check = min(next_check(step), last)
        x, image = image, x
