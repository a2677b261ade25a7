"""Where numbers stopped being finite, found out after a solve has failed."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from implicit_dsl.runtime.implicit.layout import Layout
from implicit_dsl.runtime.implicit.linearisation import Tensors
from implicit_dsl.runtime.implicit.problem import Primal, Problem
from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers import Equation
from implicit_dsl.runtime.solvers.watch import NOISE_LIMIT

RANDOM = (
    "the step gives two different results for the same arguments: it draws random numbers, which are to be "
    "drawn before and handed in through `batched`"
)
MOST_SWEEPS = 2000  # made again at most, to find the first that is not finite


def findings(
    problem: Problem,
    equation: Equation,
    start: Tensor,
    solution: Solution,
    layout: Layout,
    batched: Tensors,
    shared: Tensors,
) -> tuple[str, ...]:
    """What can be said about a solve that failed.

    If it is not finite: which inputs were not, which state, at which sweep; otherwise, whether f is random.
    """
    if solution.worst_status is not Status.NOT_FINITE:
        return (RANDOM,) if _random(equation, solution.x) else ()
    names = argument_names(problem)
    given = (*layout.split(start), *batched, *shared)
    bad = [name for name, tensor in zip(names, given) if not _finite(tensor)]
    if bad:
        listed = ", ".join(f"`{name}`" for name in bad)
        return (f"what comes in was already not finite: {listed}",)
    x = start
    for sweep in range(1, MOST_SWEEPS + 1):
        x = equation.f(x)
        columns = (~x.isfinite()).any(0)
        if bool(columns.any()):
            column = int(columns.nonzero()[0])
            state = names[layout.state_at(column)]
            return (
                f"all that comes in is finite; in plain sweeps `{state}` stops being so at sweep {sweep}",
            )
    return ("all that comes in is finite, and so are plain sweeps: the solver diverges",)


def _random(equation: Equation, x: Tensor) -> bool:
    """Whether f gives two different results, by more than parallel sums explain."""
    one, other = equation.f(x), equation.f(x)
    noise = NOISE_LIMIT * torch.finfo(x.dtype).eps
    return not torch.allclose(one, other, rtol=noise, atol=noise, equal_nan=True)


def argument_names(problem: Problem) -> tuple[str, ...]:
    """Names of the arguments of an equation: as in the source of the step, where they have names there."""
    if isinstance(problem, Primal):
        count = problem.states + problem.batched
        found = _parameters(problem)
        return found or (*(f"state {i + 1}" for i in range(count)), *(f"tensor {i + 1}" for i in range(99)))
    base = argument_names(problem.base)  # type: ignore[attr-defined]
    states = base[: problem.states]
    return (*(f"adjoint of {name}" for name in states), *(f"gradient of {name}" for name in states), *base)


def _parameters(problem: Primal) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(problem.step).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return ()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return ()
    return tuple(parameter.name for parameter in parameters)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
