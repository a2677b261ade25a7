"""What a user is told when an equilibrium was not found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from implicit_dsl.runtime.solution import Status


class ConvergenceError(RuntimeError):
    """An equilibrium or its adjoint was not found: the tensors that would be returned mean nothing.

    `status` tells how the worst sample ended, `unsolved` how many samples did not end well.
    """

    def __init__(self, message: str, status: Status, unsolved: int) -> None:
        super().__init__(message)
        self.status = status
        self.unsolved = unsolved

    def __reduce__(self) -> tuple[type[ConvergenceError], tuple[str, Status, int]]:
        return type(self), (str(self), self.status, self.unsolved)


class ConvergenceWarning(UserWarning):
    """The same, where `failure="warn"` asks to go on; or a tolerance that the dtype cannot reach."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a solve ended that did not end well."""

    name: str
    line: int
    role: str  # equilibrium, adjoint, …
    solver: str
    status: Status
    steps: int
    residual: float
    tolerance: float
    unsolved: int
    samples: int
    findings: Sequence[str] = ()  # what a diagnosis found out

    @property
    def text(self) -> str:
        """One sentence that says what happened, then what was found, then what to do."""
        place = f"`{self.name}` (line {self.line})" if self.line else f"`{self.name}`"
        steps, meaning = f"after {self.steps} steps of {self.solver}", self.status.meaning
        if self.status is Status.NOT_FINITE:
            happened = f"{place}: the {self.role} is not finite {steps}"
        elif self.residual <= self.tolerance:
            happened = f"{place}: no {self.role} {steps}, which grows without end"
            meaning = "relative to it any residual is small, so that there is none, or none that can be told"
        else:
            happened = f"{place}: no {self.role} {steps}, residual {self.residual:.1e} > {self.tolerance:.1e}"
        if self.samples > 1:
            happened += f", in {self.unsolved} of {self.samples} samples"
        return "; ".join((f"{happened}. {meaning.capitalize()}", *self.findings)) + f". {self.fix}"

    @property
    def fix(self) -> str:
        """What to do, as a sentence."""
        advice = self.status.advice
        if self.role.startswith("adjoint") and self.status is not Status.NOT_FINITE:
            advice += "; an approximate gradient, such as @backward neumann(k), needs no solve"
        return f"To mend it: {advice}." if advice else ""

    def error(self) -> ConvergenceError:
        """The exception for it."""
        return ConvergenceError(self.text, self.status, self.unsolved)


def floor_text(name: str, line: int, tolerance: float, residual: float, dtype: str) -> str:
    """What is said once about a tolerance that is below the precision of the numbers."""
    place = f"`{name}` (line {line})" if line else f"`{name}`"
    return (
        f"{place}: the tolerance {tolerance:.1e} is below what {dtype} can reach here; "
        f"the result has residual {residual:.1e}. Raise the tolerance, or compute in float64."
    )
