"""What the last solve of an equilibrium did. Nothing is read from the device before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers import Solver

_ROUNDING = 8  # units


@dataclass(frozen=True, slots=True, eq=False)
class Stats:
    """Steps and residuals of the last solve, and of the last adjoint solve if there was one.

    Residuals are relative to max(1, ‖x‖), those of adjoints to the norm of the adjoint, as the
    tolerances are. Without an adjoint solve its properties are None: before `backward`, for
    approximate gradients, and inside of `torch.compile`.
    """

    solver: str
    tolerance: float
    forward: Solution
    adjoint: Solution | None = None
    rate: float | None = None

    @property
    def steps(self) -> int:
        """The steps of the sample that took the most."""
        return self.forward.most_steps

    @property
    def mean_steps(self) -> float:
        """The mean over samples."""
        return self.forward.mean_steps

    @property
    def residual(self) -> float:
        """The largest residual of a sample."""
        return self.forward.worst_residual

    @property
    def status(self) -> Status:
        """The worst way in which a sample ended."""
        return self.forward.worst_status

    @property
    def unsolved(self) -> int:
        """How many samples are not as good as was asked, or as their dtype allows."""
        return int((self.forward.status > Status.FLOOR.value).sum())

    @property
    def adjoint_steps(self) -> int | None:
        """The steps of the adjoint of the sample that took the most."""
        return None if self.adjoint is None else self.adjoint.most_steps

    @property
    def adjoint_residual(self) -> float | None:
        """The largest residual of an adjoint."""
        return None if self.adjoint is None else self.adjoint.worst_residual

    @property
    def adjoint_status(self) -> Status | None:
        """The worst way in which an adjoint ended."""
        return None if self.adjoint is None else self.adjoint.worst_status

    @property
    def error_bound(self) -> float | None:
        """A bound of ‖x − x*‖ / max(1, ‖x‖), if a rate κ of contraction is proved: (residual + ε) / (1 − κ).

        ε is the rounding of the f(x) that the residual was computed from, counted as 8 units.
        """
        if self.rate is None:
            return None
        return (self.residual + _ROUNDING * torch.finfo(self.forward.x.dtype).eps) / (1 - self.rate)

    @property
    def steps_of_samples(self) -> Tensor:
        """The steps of each sample (batch,)."""
        return self.forward.steps

    def __str__(self) -> str:
        text = (
            f"{self.steps} steps of {self.solver} (mean {self.mean_steps:.1f}), "
            f"residual {self.residual:.1e}: {self.status.meaning}"
        )
        if self.adjoint is not None:
            text += f"; adjoint {self.adjoint_steps} steps, residual {self.adjoint_residual:.1e}"
        return text


@dataclass(slots=True, eq=False)
class Ledger:
    """Where the solves of one equilibrium enter what they did: the only mutable thing about it."""

    solver: str = ""
    tolerance: float = 0.0
    rate: float | None = None
    forward: Solution | None = field(default=None)
    adjoint: Solution | None = field(default=None)
    floor_told: bool = False

    def enter(self, solution: Solution, solver: Solver, dtype: torch.dtype, rate: float | None) -> None:
        """Enter a solve. What is known of an adjoint belonged to another."""
        self.forward, self.adjoint = solution, None
        self.solver, self.tolerance, self.rate = solver.name, solver.tolerance_for(dtype), rate

    @property
    def stats(self) -> Stats | None:
        """What is entered, or None before the first solve."""
        if self.forward is None:
            return None
        return Stats(self.solver, self.tolerance, self.forward, self.adjoint, self.rate)
