"""The sweeps of Picard made again under autograd: the derivative of what was computed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from implicit_dsl.runtime.adjoints import Unrolled
from implicit_dsl.runtime.autocast import unautocast
from implicit_dsl.runtime.implicit.functions import Call
from implicit_dsl.runtime.implicit.linearisation import Tensors
from implicit_dsl.runtime.implicit.problem import Problem, Settings
from implicit_dsl.runtime.implicit.recording import recorded
from implicit_dsl.runtime.implicit.solving import settled
from implicit_dsl.runtime.solvers import Auto, Picard


def checked(settings: Settings) -> Settings:
    """The settings, with a solver that makes sweeps if these are to be differentiated.

    Raises ValueError if another solver is demanded.
    """
    solver = settings.solver
    if not isinstance(settings.backward, Unrolled) or isinstance(solver, Picard):
        return settings
    if not isinstance(solver, Auto):
        raise ValueError(
            f"`{settings.name}`: Unrolled differentiates the sweeps of picard, which {solver.name} does not "
            "make; use solver=Picard(), or backward=Implicit()"
        )
    sweeps = Picard(tolerance=solver.tolerance, max_steps=solver.max_steps, per_sample=solver.per_sample)
    return replace(settings, solver=sweeps)


def made_again(call: Call, start: Tensors, batched: Tensors, shared: Tensors) -> Tensors:
    """The states after the sweeps that a solve needs, each sample after its own number of them.

    Inside of captured graphs and of torch.func, where no number can depend on data, all of
    `max_steps` sweeps are made.
    """
    problem, solver = call.problem, call.problem.settings.solver
    assert isinstance(solver, Picard)
    with unautocast(start[0].device):
        if recorded() or torch._C._are_functorch_transforms_active():
            return _swept(problem, solver, start, batched, shared, _fixed_count(problem.settings, solver))
        settled(problem, start, batched, shared, call.ledger)
        solution = call.ledger.forward
        if solution is None or solution.steps.numel() == 0:
            return _swept(problem, solver, start, batched, shared, 1)
        return _swept(problem, solver, start, batched, shared, solution.most_steps, solution.steps)


def _fixed_count(settings: Settings, solver: Picard) -> int:
    if solver.max_steps is None:
        raise ValueError(
            f"`{settings.name}`: inside of torch.compile, torch.export and torch.func a number of sweeps "
            "cannot depend on data; give it, as in solver=Picard(max_steps=30)"
        )
    return solver.max_steps


def _swept(
    problem: Problem,
    solver: Picard,
    start: Tensors,
    batched: Tensors,
    shared: Tensors,
    count: int,
    counts: Tensor | None = None,
) -> Tensors:
    """`count` sweeps, or `counts` (batch,) of them."""
    x = start
    for sweep in range(count):
        z = problem.inner(*x, *batched, *shared)
        image = z if not problem.splits else (problem.outer(z[0], (*batched, *shared)),)
        new = (
            [old + solver.damping * (made - old) for old, made in zip(x, image)]
            if solver.damping != 1
            else image
        )
        if counts is not None:
            going_on = counts > sweep
            new = [
                torch.where(going_on.reshape(-1, *(1,) * (old.ndim - 1)), made, old)
                for old, made in zip(x, new)
            ]
        x = tuple(new)
    return x
