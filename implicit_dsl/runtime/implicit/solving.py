"""One equation solved under the policy of its equilibrium: plain tensors in, plain tensors out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from implicit_dsl.runtime.autocast import unautocast
from implicit_dsl.runtime.failure import ConvergenceWarning, Report, floor_text
from implicit_dsl.runtime.implicit.diagnosis import findings
from implicit_dsl.runtime.implicit.layout import Layout
from implicit_dsl.runtime.implicit.linearisation import Tensors
from implicit_dsl.runtime.implicit.problem import Adjoint, Primal, Problem
from implicit_dsl.runtime.implicit.scaling import divided, multiplied, unit_of
from implicit_dsl.runtime.implicit.undisturbed import undisturbed
from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers import Equation, Norm, Picard, Solver, solve
from implicit_dsl.runtime.solvers.counting import counted_steps
from implicit_dsl.runtime.statistics import Ledger

# Newton's method keeps an n × n matrix for each sample: 64 kB at this size in float32.
SMALL = 128
# What a safer Picard steps, and how often: it converges wherever the eigenvalues of J are left of 1
# and not ten times further away.
SAFE_DAMPING, SAFE_STEPS = 0.1, 20_000


@undisturbed
def settled(
    problem: Problem,
    start: Tensors,
    batched: Tensors,
    shared: Tensors,
    ledger: Ledger,
    equation: Equation | None = None,
) -> Tensors:
    """The solution for tensors [batch, …], from `start`.

    `equation`: what would be made of these, if it is there already; that of a linear problem in
    units of its right-hand sides. Raises ConvergenceError, or warns, as the settings demand.
    """
    layout = Layout.of(start, (*start, *batched))
    x = layout.join(start)
    if x.numel() == 0:
        return tuple(state.clone() for state in start)
    with torch.no_grad(), unautocast(x.device):
        if equation is None and problem.linear:
            count = problem.states
            unit = unit_of(batched[:count])
            right, start = divided(batched[:count], unit), divided(start, unit)
            scaled = problem.equation(layout, (*right, *batched[count:]), shared)
            found = settled(problem, start, (*right, *batched[count:]), shared, ledger, scaled)
            return multiplied(found, unit)
        if equation is None:
            equation = problem.equation(layout, batched, shared)
        norm = Norm(dual=problem.dual, unit=0.0 if problem.linear else 1.0)
        solver = problem.settings.solver
        solution = solve(equation, x, solver, norm)
        # a step count that is proved needs no look at the result, for which the device would be waited
        if counted_steps(equation, solver.chosen(equation, x), x, None) is None:
            solution = _judged(problem, equation, x, solution, norm, layout, (batched, shared), ledger)
    if isinstance(problem, Primal):
        ledger.enter(solution, solver, x.dtype, problem.settings.rate)
    elif isinstance(problem, Adjoint) and isinstance(problem.base, Primal):
        ledger.adjoint = solution
    return layout.split(solution.x)


def _judged(
    problem: Problem,
    equation: Equation,
    start: Tensor,
    solution: Solution,
    norm: Norm,
    layout: Layout,
    given: tuple[Tensors, Tensors],
    ledger: Ledger,
) -> Solution:
    """The solution, or a better one; raises or warns if it is not what was asked for."""
    settings, worst = problem.settings, solution.worst_status
    tolerance = settings.solver.tolerance_for(start.dtype)
    if worst is Status.FLOOR and settings.solver.tolerance is not None and not ledger.floor_told:
        ledger.floor_told = True
        dtype = str(start.dtype).removeprefix("torch.")
        text = floor_text(settings.name, settings.line, tolerance, solution.worst_residual, dtype)
        warnings.warn(text, ConvergenceWarning, stacklevel=2)
    if worst.solved or _only_overflow(problem, solution, given[0]):
        return solution
    tried = [settings.solver.name]
    if settings.failure == "fall_back":
        for solver in _safer(start, settings.solver):
            tried.append(solver.name)
            solution = _rescued(equation, start, solution, solver, norm)
            if solution.solved:
                return solution
    worst = solution.worst_status
    report = Report(
        settings.name,
        settings.line,
        problem.role,
        " and ".join(tried),
        worst,
        solution.most_steps,
        solution.worst_residual,
        tolerance,
        int((solution.status > Status.FLOOR.value).sum()),
        len(start),
        findings(problem, equation, start, solution, layout, *given),
    )
    if settings.failure != "warn":
        raise report.error()
    warnings.warn(report.text, ConvergenceWarning, stacklevel=2)
    return solution


def _only_overflow(problem: Problem, solution: Solution, batched: Tensors) -> bool:
    """Whether an adjoint failed just where the gradient that came in is not finite.

    A GradScaler makes such gradients on purpose, and looks for them in the result.
    """
    if not problem.linear:
        return False
    finite = torch.ones_like(solution.status, dtype=torch.bool)
    for right in batched[: problem.states]:
        finite &= right.reshape(len(right), -1).isfinite().all(1)
    return not bool(((solution.status > Status.FLOOR.value) & finite).any())


def _safer(start: Tensor, solver: Solver) -> Iterator[Solver]:
    """Solvers that need less of an equation, in the order in which to try them."""
    yield Picard(tolerance=solver.tolerance, max_steps=SAFE_STEPS, damping=SAFE_DAMPING)


def _rescued(equation: Equation, start: Tensor, solution: Solution, solver: Solver, norm: Norm) -> Solution:
    """The solution with its unsolved samples solved anew from `start`; the others stay as they are."""
    failed = solution.status > Status.FLOOR.value
    unproved = replace(equation, rate=None)
    if equation.restrict is None:
        again = solve(unproved, start, solver, norm)
        return Solution(
            torch.where(failed.unsqueeze(1), again.x, solution.x),
            torch.where(failed, again.residual, solution.residual),
            torch.where(failed, again.steps, solution.steps),
            torch.where(failed, again.status, solution.status),
        )
    index = failed.nonzero().squeeze(1)
    again = solve(replace(equation.restrict(index), rate=None), start[index], solver, norm)
    return Solution(
        solution.x.index_copy(0, index, again.x),
        solution.residual.index_copy(0, index, again.residual),
        solution.steps.index_copy(0, index, again.steps),
        solution.status.index_copy(0, index, again.status),
    )
