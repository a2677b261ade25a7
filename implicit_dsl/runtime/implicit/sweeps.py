"""A fixed number of sweeps in place of a solve, for graphs that go where no solver is: ONNX above all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from implicit_dsl.runtime.autocast import unautocast
from implicit_dsl.runtime.implicit.layout import Layout
from implicit_dsl.runtime.implicit.linearisation import Tensors
from implicit_dsl.runtime.implicit.problem import Problem, Settings
from implicit_dsl.runtime.implicit.recording import recorded
from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers import Norm, Picard
from implicit_dsl.runtime.solvers.counting import damped_steps
from implicit_dsl.runtime.statistics import Ledger


@dataclass(frozen=True, slots=True)
class Sweeps:
    """x ← (1 − d) x + d f(x), `steps` times; None: as often as is proved to reach `tolerance`."""

    steps: int | None
    damping: float
    tolerance: float | None


@dataclass(slots=True)
class _Asked:
    """What the contexts ask for: a plain attribute, which torch.compile guards, unlike those of threads."""

    sweeps: Sweeps | None = None


_ASKED = _Asked()


@contextmanager
def unrolled(
    steps: int | None = None, *, damping: float = 1.0, tolerance: float | None = None
) -> Iterator[None]:
    """A context in which every loop makes a fixed number of sweeps x ← (1 − d) x + d f(x), d = `damping`.

        with runtime.unrolled():
            torch.onnx.export(model, (u,), "model.onnx", dynamo=True)

    No solver runs, nothing depends on data, and graphs that are captured hold plain operations of
    PyTorch and nothing of this package. Gradients are those of the sweeps. It holds for all threads
    of the process. Without `steps` as
    many are made as the proved rate of each loop asks for to reach `tolerance`, which is that of
    its solver if it is not given; they start at zero then, whatever the first guess.

    With `steps` nothing is promised: call the module in this context and look at its `stats`, or
    compare. Loops that are well posed by a monotone matrix or by a matrix measure converge with
    a small enough damping. Raises ValueError for numbers that make no sense; a loop without a
    proved rate raises one if `steps` is not given.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if steps is not None and tolerance is not None:
        raise ValueError("steps and tolerance both say how many sweeps to make: give one of them")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be in (0, 1), not {tolerance}")
    Picard(damping=damping)  # raises for a damping out of range
    before, _ASKED.sweeps = _ASKED.sweeps, Sweeps(steps, damping, tolerance)
    try:
        yield
    finally:
        _ASKED.sweeps = before


def asked() -> Sweeps | None:
    """What the innermost `unrolled` around this call asks for."""
    return _ASKED.sweeps


def swept(
    problem: Problem, sweeps: Sweeps, ledger: Ledger, start: Tensors, batched: Tensors, shared: Tensors
) -> Tensors:
    """The states after the sweeps. What is left of the residual is entered, but in captured graphs."""
    count = sweeps.steps
    if count is None:
        count = _proved_count(problem.settings, sweeps, start[0].dtype)
        start = tuple(torch.zeros_like(state) for state in start)
    with unautocast(start[0].device):
        x = start
        for _ in range(count):
            image = problem.sweep(*x, *batched, *shared)
            x = image if sweeps.damping == 1 else _between(x, image, sweeps.damping)
        if not recorded() and not torch._C._are_functorch_transforms_active():
            _enter(problem, sweeps, ledger, x, (*batched, *shared), count)
    return x


def forbid_onnx(settings: Settings) -> None:
    """Raise RuntimeError if a solve would become a node of an ONNX graph, which has no solvers."""
    if not (torch.compiler.is_exporting() and _exports_onnx()):
        return
    proved = ", or of `with runtime.unrolled():`, which makes as many as are proved to suffice"
    raise RuntimeError(
        f"ONNX has no operation that solves the equilibrium {_called(settings)}: export a fixed number "
        "of sweeps, by calling torch.onnx.export inside of `with runtime.unrolled(steps=30):`"
        + (proved if settings.rate is not None else "")
    )


def _while_tracing(function: Callable[[], bool]) -> Callable[[], bool]:
    """A function that is called while a graph is traced, not recorded.

    It is torch.compiler.assume_constant_result without the import of torch._dynamo, which takes a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_while_tracing
def _exports_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()  # traced, this would be False


def _proved_count(settings: Settings, sweeps: Sweeps, dtype: torch.dtype) -> int:
    if settings.rate is None:
        raise ValueError(
            f"no number of sweeps is proved to solve the equilibrium {_called(settings)}: give one, "
            "`runtime.unrolled(steps=30)`, and look at `stats` for how far that gets"
        )
    tolerance = sweeps.tolerance or settings.solver.tolerance_for(dtype)
    return damped_steps(settings.rate, tolerance, sweeps.damping, settings.averaging)


def _called(settings: Settings) -> str:
    return f"`{settings.name}` (line {settings.line})" if settings.line else f"`{settings.name}`"


def _between(x: Tensors, image: Tensors, damping: float) -> Tensors:
    return tuple(old + damping * (new - old) for old, new in zip(x, image))


def _enter(problem: Problem, sweeps: Sweeps, ledger: Ledger, x: Tensors, rest: Tensors, count: int) -> None:
    """Enter what the sweeps have come to. It takes one more of them."""
    with torch.no_grad():
        image = problem.sweep(*x, *rest)
        layout = Layout.of(x)
        rows = layout.join(x)
        residual, _ = Norm().relative(layout.join(image) - rows, rows)
    settings = problem.settings
    solver = Picard(tolerance=sweeps.tolerance or settings.solver.tolerance, damping=sweeps.damping)
    missed = torch.where(residual.isfinite(), Status.MAX_STEPS.value, Status.NOT_FINITE.value)
    reached = residual <= solver.tolerance_for(rows.dtype)
    status = torch.where(reached, Status.COUNTED.value, missed).to(torch.int8)
    steps = torch.full_like(status, count, dtype=torch.int64)
    ledger.enter(Solution(rows.detach(), residual, steps, status), solver, rows.dtype, settings.rate)
