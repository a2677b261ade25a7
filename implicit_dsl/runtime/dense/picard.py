"""x ← f(x) for many rows in two buffers; a row leaves at the first check that it passes."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.results import Front, on_host

# A check costs about as much as a step at n = 64. Until this step every one is checked, then one in
# CHECK_SHARE: at most that share of the steps is superfluous.
CHECK_EVERY_UNTIL = 8
CHECK_SHARE = 8
# Rows that have left stay in the products until they are this share of all: to drop them, those that
# stay are copied.
DROP_SHARE = 0.5


def next_check(step: int) -> int:
    """The step of the check after that at `step`. It depends on no data: rows stay independent."""
    return step + max(1, (step - CHECK_EVERY_UNTIL) // CHECK_SHARE)


def picard(front: Front, x: Tensor, step: int, last: int) -> tuple[Tensor, Tensor] | None:
    """Steps from x, which is overwritten, to step `last`. x and f(x) of the rows still there, if any."""
    goal = front.goal
    image, difference = torch.empty_like(x), torch.empty_like(x)
    check = min(max(2, step + 1), last)
    while True:
        step += 1
        image = front.rows.step(x, image)
        if step == check:
            size = on_host(goal.size_(torch.sub(image, x, out=difference)))
            if front.look(size, x, image, step):
                return None
            if step == last:
                return x, image
            kept = front.drop(DROP_SHARE)
            if kept is not None:
                image, x = image.index_select(0, kept), x[: len(kept)]
                difference = difference[: len(kept)]
            check = min(next_check(step), last)
        x, image = image, x
