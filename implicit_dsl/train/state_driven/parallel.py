"""The rows in several processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from implicit_dsl.train.state_driven.moments import Moments
from implicit_dsl.train.state_driven.rows import Solved, solve_rows

if TYPE_CHECKING:
    import numpy as np


def solve_in_processes(
    moments: Moments,
    penalties: Tensor,
    bounded: int,
    bound: float,
    start: Tensor | None,
    tolerance: float,
    max_steps: int,
    processes: int,
) -> Solved:
    """`solve_rows`, by so many processes if the rows are on a CPU.

    They are started afresh, so that a script must protect what it does when it is imported:
    `if __name__ == "__main__":`.
    """
    rows = len(moments.Q)
    if processes == 1 or rows < 2 or not moments.Q.is_cpu:
        return solve_rows(moments, penalties, bounded, bound, start, tolerance, max_steps)
    jobs = [
        (_numbers(moments.rows(part)), penalties[part].numpy(), bounded, bound,
         None if start is None else start[part].numpy(), tolerance, max_steps)
        for part in torch.arange(rows).tensor_split(min(processes, rows))
    ]  # fmt: skip
    with ProcessPoolExecutor(len(jobs), get_context("spawn")) as pool:
        found = list(pool.map(_solved, jobs))
    W, objective, gap, done = (torch.cat([torch.from_numpy(one[k]) for one in found]) for k in range(4))
    return Solved(W, objective, gap, done, max(one[4] for one in found))


def _numbers(moments: Moments) -> tuple[np.ndarray, ...]:
    parts = (moments.feature_means, moments.target_means, moments.G, moments.Q, moments.power)
    return tuple(part.numpy() for part in parts)


def _solved(job: tuple[Any, ...]) -> tuple[Any, ...]:
    torch.set_num_threads(1)
    numbers, penalties, bounded, bound, start, tolerance, max_steps = job
    moments = Moments(*(torch.from_numpy(part) for part in numbers))
    guess = None if start is None else torch.from_numpy(start)
    solved = solve_rows(moments, torch.from_numpy(penalties), bounded, bound, guess, tolerance, max_steps)
    return (*(part.numpy() for part in (solved.W, solved.objective, solved.gap, solved.done)), solved.steps)
