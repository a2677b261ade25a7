"""x = φ(A x + c) with one dense matrix, as a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from implicit_dsl.demands import Failure
from implicit_dsl.runtime.adjoints import Backward, Implicit
from implicit_dsl.runtime.dense.activation import Activation, Name
from implicit_dsl.runtime.dense.function import Call, equilibrium
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.policy import Policy, Record
from implicit_dsl.runtime.dense.route import MOST_MEMORY
from implicit_dsl.runtime.equilibrium import Equilibrium
from implicit_dsl.runtime.implicit.problem import Settings
from implicit_dsl.runtime.implicit.sweeps import asked
from implicit_dsl.runtime.native import kernels
from implicit_dsl.runtime.solvers import Anderson, Auto, Picard, Solver
from implicit_dsl.runtime.statistics import Stats

# What `Auto` remembers of an equilibrium of one dense matrix.
MEMORY = 5
# Half precision is solved in float32: a fixed point of rounded steps is not the fixed point.
WORKING = (torch.float32, torch.float64)


def affine(x: Tensor, c: Tensor, A: Tensor) -> Tensor:
    """A x + c for each row: (batch, n), (batch, n), (n, n) -> (batch, n)."""
    return torch.addmm(c, x, A.T)


class DenseEquilibrium(nn.Module):
    """The solution x of x = φ(A x + c) for each row of c: `Equilibrium` where the map is one dense matrix.

    φ is relu, leaky_relu (with `slope` on the left), identity, tanh or sigmoid. Rows are solved
    to ‖x − φ(A x + c)‖∞ ≤ tolerance · max(1, ‖x‖∞), each by itself, by Picard steps that are
    accelerated once they are known to be slow. Gradients are exact and of any order. `rate` is a
    proved contraction factor in max|·|, that is ‖A‖∞ ≤ rate for activations of slope ≤ 1.

    Settings, policies and statistics are those of `Equilibrium`, which does the work where there
    is no short cut: other solvers than Auto, Picard and Anderson, approximate gradients, capture by
    `torch.compile` and `torch.export`.
    """

    def __init__(
        self,
        activation: Name,
        name: str,
        line: int = 0,
        *,
        slope: float = 0.01,
        solver: Solver | None = None,
        backward: Backward | None = None,
        rate: float | None = None,
        failure: Failure = "raise",
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        phi = Activation(activation, slope)
        self.activation, self.name = phi, name
        self.general = Equilibrium(
            Sweep(phi), name, line, affine=affine, phi=phi, solver=solver, backward=backward, rate=rate,
            failure=failure, warm_start=warm_start,
        )  # fmt: skip
        settings = self.general.settings
        asked = settings.solver.tolerance is not None
        self._policy = Policy(name, line, settings.failure, settings.solver.name, asked)
        self._memory = memory_of(settings.solver) if isinstance(settings.backward, Implicit) else None
        self._warm_start = warm_start
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._record = Record()
        self._calls: dict[torch.dtype, Call] = {}
        self._last: Tensor | None = None

    @property
    def settings(self) -> Settings:
        """Name, line, solver, gradient and policy."""
        return self.general.settings

    @property
    def stats(self) -> Stats | None:
        """What the last solve did; None before the first. Read from the device only when asked."""
        if self._record.general:
            return self.general.stats
        return self._record.stats(self._policy.solver, self.settings.rate)

    def forward(self, A: Tensor, c: Tensor, start: Tensor | None = None) -> Tensor:
        """x (..., n) for A (n, n) and c (..., n), from a first guess `start` like c, or from φ(c).

        Raises ConvergenceError (see `failure`), ValueError for shapes that do not fit, and
        TypeError for numbers that are not real. Half precision is solved in float32.
        """
        self._check(A, c, start)
        if A.dtype == c.dtype and A.dtype in WORKING and c.ndim == 2:
            return self._rows(A, c, start)
        dtype = torch.promote_types(A.dtype, c.dtype)
        working = dtype if dtype in WORKING else torch.float32
        rows = c.to(working).reshape(-1, c.shape[-1])
        guess = None if start is None else start.to(working).reshape(rows.shape)
        x = self._rows(A.to(working), rows, guess).reshape(c.shape)
        return x if dtype == working or torch.is_autocast_enabled(c.device.type) else x.to(dtype)

    def _rows(self, A: Tensor, c: Tensor, start: Tensor | None) -> Tensor:
        """x (batch, n) for c (batch, n), all of one working dtype."""
        if start is None and self._warm_start and fits(self._last, c):
            start = self._last
        general = self._record.general = self._memory is None or seen(c) or asked() is not None
        if general:
            x: Tensor = self.general((self.activation(c) if start is None else start,), (c,), (A,))[0]
        elif torch.is_autocast_enabled(c.device.type):
            with torch.autocast(c.device.type, enabled=False):
                x = equilibrium(A, c, start, self._call(c.dtype))
        else:
            x = equilibrium(A, c, start, self._call(c.dtype))
        if self._warm_start and not torch.compiler.is_exporting():
            self._last = x.detach()
        return x

    def _call(self, dtype: torch.dtype) -> Call:
        """What the function carries, made once for each dtype."""
        found = self._calls.get(dtype)
        if found is None:
            solver, memory = self.settings.solver, self._memory
            assert memory is not None
            tolerance = solver.tolerance_for(dtype)
            plan = Plan(self.activation, tolerance, solver.last_step, memory, self.settings.rate)
            backward = self.settings.backward
            asked = backward.tolerance if isinstance(backward, Implicit) else None
            derived = plan if asked is None else replace(plan, tolerance=asked)
            found = Call(plan, derived, self._policy, self._record, kernels(dtype))
            self._calls[dtype] = found
        return found

    def _check(self, A: Tensor, c: Tensor, start: Tensor | None) -> None:
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"the matrix of `{self.name}` must be square, but has shape {tuple(A.shape)}")
        if c.ndim == 0 or c.shape[-1] != A.shape[0]:
            raise ValueError(
                f"`{self.name}` has {A.shape[0]} states, but its offset has shape {tuple(c.shape)}"
            )
        if start is not None and start.shape != c.shape:
            raise ValueError(
                f"the start of `{self.name}` has shape {tuple(start.shape)}, but must be {tuple(c.shape)}"
            )
        if not (A.is_floating_point() and c.is_floating_point()):
            raise TypeError(f"`{self.name}` is an equilibrium of real numbers, not {A.dtype} and {c.dtype}")

    def extra_repr(self) -> str:
        return repr(self.activation)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_record", "_calls", "_last"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._begin_anew()


def seen(c: Tensor) -> bool:
    """Whether every operation must be one of PyTorch: recorded, watched by a mode, or without numbers."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    return torch._C._len_torch_dispatch_stack() > 0 or c.is_meta or type(c) not in (Tensor, nn.Parameter)


@dataclass(frozen=True, slots=True)
class Sweep:
    """x ↦ φ(A x + c), as a function of all three."""

    phi: Activation

    def __call__(self, x: Tensor, c: Tensor, A: Tensor) -> Tensor:
        return self.phi(affine(x, c, A))


def memory_of(solver: Solver) -> int | None:
    """The memory of Anderson acceleration that a solver asks for, 0 for plain steps; None: no short cut."""
    match solver:
        case Solver(per_sample=False):
            return None
        case Auto():
            return MEMORY
        case Picard(damping=1.0):
            return 0
        case Anderson(memory=memory, damping=1.0) if memory <= MOST_MEMORY:
            return memory
        case _:
            return None


def fits(last: Tensor | None, rows: Tensor) -> bool:
    """Whether the last solution can be where the next solve starts."""
    return last is not None and (last.shape, last.dtype, last.device) == (rows.shape, rows.dtype, rows.device)
