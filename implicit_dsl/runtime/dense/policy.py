"""What happens when a dense equilibrium, or its adjoint, was not found."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from torch import Tensor

from implicit_dsl.demands import Failure
from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.solve import rescue
from implicit_dsl.runtime.dense.system import System
from implicit_dsl.runtime.failure import ConvergenceWarning, Report, floor_text
from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.statistics import Stats


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose equilibrium it is, and what to do if it is not found."""

    name: str
    line: int
    failure: Failure
    solver: str
    tolerance_asked: bool


@dataclass(slots=True, eq=False)
class Record:
    """What the last solves have found: the only mutable thing about a dense equilibrium."""

    forward: Found | None = None
    adjoint: Found | None = None
    tolerances: tuple[float, float] = (0.0, 0.0)  # of the equilibrium and of its adjoint
    general: bool = False  # whether the last solve went another way, and is recorded there
    floor_told: bool = field(default=False)

    def stats(self, solver: str, rate: float | None) -> Stats | None:
        """The same as everybody reads it; None before the first solve."""
        if self.forward is None:
            return None
        tolerance, of_adjoint = self.tolerances
        adjoint = None if self.adjoint is None else self.adjoint.solution(of_adjoint)
        return Stats(solver, tolerance, self.forward.solution(tolerance), adjoint, rate)


def judged(found: Found, system: System, plan: Plan, policy: Policy, record: Record) -> Found:
    """What was found outside of the tolerance, or better; raises or warns as the policy demands."""
    solution = found.solution(plan.tolerance)
    if solution.solved:
        tell_floor(solution, plan.tolerance, policy, record)
        return found
    if system.linear and only_overflow(solution, system.c):
        return found
    if policy.failure == "fall_back":
        found = rescue(found, system.rows(plan), plan, system.linear)
        solution = found.solution(plan.tolerance)
        if solution.solved:
            return found
    report = reported(solution, system, plan, policy)
    if policy.failure != "warn":
        raise report.error()
    warnings.warn(report.text, ConvergenceWarning, stacklevel=2)
    return found


def only_overflow(solution: Solution, g: Tensor) -> bool:
    """Whether an adjoint failed only where the gradient came in not finite, as a GradScaler makes them."""
    return not bool(((solution.status > Status.FLOOR.value) & g.isfinite().all(1)).any())


def reported(solution: Solution, system: System, plan: Plan, policy: Policy) -> Report:
    """The failure in numbers."""
    unsolved = int((solution.status > Status.FLOOR.value).sum())
    role = "adjoint" if system.linear else "equilibrium"
    return Report(
        policy.name, policy.line, role, policy.solver, solution.worst_status, solution.most_steps,
        solution.worst_residual, plan.tolerance, unsolved, len(system.c), findings(system),
    )  # fmt: skip


def findings(system: System) -> list[str]:
    """What can be seen in the inputs."""
    A, c, found = system.A, system.c, []
    if not bool(A.isfinite().all()):
        found.append("the matrix A has entries that are not finite")
    rows = int((~c.isfinite().all(1)).sum())
    if rows:
        what = "incoming gradient" if system.linear else "offset c"
        found.append(f"the {what} is not finite in {rows} of {len(c)} samples")
    norm = float(A.abs().sum(1).amax())
    if not found and norm > 1:
        found.append(f"‖A‖∞ = {norm:.3g} is above 1, so nothing proves that the iteration converges")
    return found


def tell_floor(solution: Solution, tolerance: float, policy: Policy, record: Record) -> None:
    """Warn once about a tolerance that was asked for and is below the precision of the numbers."""
    if policy.tolerance_asked and not record.floor_told:
        record.floor_told = True
        dtype = str(solution.x.dtype).removeprefix("torch.")
        text = floor_text(policy.name, policy.line, tolerance, solution.worst_residual, dtype)
        warnings.warn(text, ConvergenceWarning, stacklevel=3)
