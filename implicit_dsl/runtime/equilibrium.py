"""One loop of a generated module: its solution as a layer, with exact gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from implicit_dsl.demands import FAILURES, Failure
from implicit_dsl.runtime.adjoints import Backward, Implicit, Unrolled
from implicit_dsl.runtime.autocast import autocasts, unautocast
from implicit_dsl.runtime.implicit.captured import carried, register, solve_captured
from implicit_dsl.runtime.implicit.functions import Call, Solve
from implicit_dsl.runtime.implicit.holding import held, places_of
from implicit_dsl.runtime.implicit.linearisation import Tensors
from implicit_dsl.runtime.implicit.problem import Primal, Settings, Step
from implicit_dsl.runtime.implicit.purity import is_pure
from implicit_dsl.runtime.implicit.recording import recorded, replayed
from implicit_dsl.runtime.implicit.surroundings import Surroundings, surroundings
from implicit_dsl.runtime.implicit.sweeps import asked, forbid_onnx, swept
from implicit_dsl.runtime.implicit.unrolling import checked, made_again
from implicit_dsl.runtime.solvers import Auto, Solver
from implicit_dsl.runtime.statistics import Ledger, Stats


class Equilibrium(nn.Module):
    """x = f(x, b, s): the states x that a step f leaves as they are.

        step(*states, *batched, *shared) -> the states once more, a tensor or a tuple

    States and `batched` have the batch as first axis, `shared` (weights) have none. Samples must
    not see each other, and all sweeps must be of the same equation: what is random, such as a
    dropout mask, is drawn outside and comes in through `batched`.

    A step may also use tensors that it closes over, and be an `nn.Module`: gradients, tangents and
    transforms reach these as they reach arguments. They are found by one evaluation at each call,
    which functions that use their arguments only are spared. Inside of torch.compile and
    torch.export the parameters and buffers of a module are found, and nothing else. What cannot be
    followed is an error, never a gradient of zero.

    For splitting solvers give `affine` and `phi` with step = phi ∘ affine, phi elementwise with
    slopes in [0, 1]. `rate` is a proved factor of contraction in max|·|. `failure` is what happens
    if there is no convergence, forward or backward: "raise" ConvergenceError, "warn", or
    "fall_back" to safer solvers before raising. `warm_start` begins where the last solve ended, if
    that fits; it is no part of the state_dict, and copies and pickles begin anew.

    It computes in the dtype of its states, without autocast; under autocast, half-precision
    states are solved in float32. Its parameters and buffers are those of a step that is a module.
    """

    def __init__(
        self,
        step: Step,
        name: str,
        line: int = 0,
        *,
        affine: Step | None = None,
        phi: Callable[[Tensor], Tensor] | None = None,
        solver: Solver | None = None,
        backward: Backward | None = None,
        rate: float | None = None,
        failure: Failure = "raise",
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        if (affine is None) != (phi is None):
            raise ValueError("affine and phi come together: step = phi ∘ affine")
        if failure not in FAILURES:
            raise ValueError(f"failure must be one of {', '.join(FAILURES)}, not {failure!r}")
        gradient = backward or Implicit()
        self.settings = checked(Settings(name, line, solver or Auto(), gradient, failure, rate))
        self.step, self.phi = step if affine is None else affine, phi
        self._warm_start = warm_start
        self._begin_anew()

    def _begin_anew(self) -> None:
        around = None if is_pure(self.step) and is_pure(self.phi) else Surroundings(self.settings.name)
        self._key, self._known = register(Primal(self.settings, 1, 0, True, self.step, self.phi, around))
        self._ledger = Ledger()
        self._last: Tensors = ()

    @property
    def stats(self) -> Stats | None:
        """What the last solve did; None before the first. Read from the device only when asked."""
        return self._ledger.stats

    def forward(
        self,
        start: Tensors,
        batched: Tensors = (),
        shared: Tensors = (),
    ) -> Tensors:
        """The states of the equilibrium, from a first guess `start` of them.

        Raises ConvergenceError (see `failure`), and ValueError for tensors whose batches differ and
        for a step that is random or normalises by the batch.
        """
        dtype = state_dtype(start)
        start = tuple(state.to(dtype) for state in start)
        batched, shared = in_dtype(batched, dtype), in_dtype(shared, dtype)
        if (sweeps := asked()) is not None:
            problem = replace(self._known, states=len(start), batched=len(batched), around=None)
            return swept(problem, sweeps, self._ledger, start, batched, shared)
        if isinstance(self.settings.backward, Unrolled):  # autograd itself follows what a step uses
            problem = replace(self._problem(start, batched, shared), around=None)
            return made_again(Call(problem, self._ledger), start, batched, shared)
        if self._warm_start:
            start = self._warmer(start)
        graph = recorded()
        if graph:
            forbid_onnx(self.settings)
            found = self._captured(start, batched, (*shared, *carried(self._known)))
        else:
            check_batch(self.settings.name, start, batched)
            problem = self._problem(start, batched, shared)
            around = problem.around.followed if problem.around else ()
            found = Solve.apply(Call(problem, self._ledger), *start, *batched, *shared, *around)
        if self._warm_start and (not graph or replayed()):
            self._last = tuple(state.detach() for state in found)
        return found

    def _problem(self, start: Tensors, batched: Tensors, shared: Tensors) -> Primal:
        """The equation of this call, with what its step uses at this time."""
        problem = replace(self._known, states=len(start), batched=len(batched))
        if problem.around is None or recorded():
            return problem
        step, phi = held(self.step), None if self.phi is None else held(self.phi)
        alone = replace(problem, step=step, phi=phi, around=None)
        with unautocast(start[0].device):
            found = surroundings(self.settings.name, alone.sweep, (*start, *batched, *shared))
        around = replace(found, places=places_of((step, phi), found.tensors))
        return replace(alone, samples=not found.per_sample(len(start[0])), around=around)

    def _captured(
        self, start: Sequence[Tensor], batched: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> Tensors:
        tensors = [*start, *batched, *shared]
        found, solution = solve_captured(self._key, len(start), len(batched), tensors)
        if replayed():
            self._ledger.enter(solution, self.settings.solver, start[0].dtype, self.settings.rate)
        return tuple(found)

    def _warmer(self, start: Tensors) -> Tensors:
        """The last solution, if it is of the same kind as `start`."""
        kinds = [(state.shape, state.dtype, state.device) for state in start]
        return self._last if [(s.shape, s.dtype, s.device) for s in self._last] == kinds else start

    def extra_repr(self) -> str:
        settings = self.settings
        text = f"{settings.name!r}, solver={settings.solver!r}, backward={settings.backward!r}"
        return text if settings.rate is None else f"{text}, rate={settings.rate:g}"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_ledger", "_last", "_key", "_known"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin_anew()


def state_dtype(start: Sequence[Tensor]) -> torch.dtype:
    """The dtype in which states are iterated. Raises TypeError if they are not real numbers."""
    dtype = start[0].dtype
    for state in start[1:]:
        dtype = torch.promote_types(dtype, state.dtype)
    if not dtype.is_floating_point:
        raise TypeError(f"the states of an equilibrium are real numbers, not {dtype}")
    narrow = dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if narrow and autocasts(start[0].device) else dtype


def in_dtype(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensors:
    """Real tensors in one dtype; indices and masks as they are. Gradients come back in the dtype given."""
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)


def check_batch(name: str, start: Sequence[Tensor], batched: Sequence[Tensor]) -> None:
    """Raise ValueError unless all have the same first axis."""
    sizes = [tensor.shape[0] if tensor.ndim else None for tensor in (*start, *batched)]
    if any(size != sizes[0] or size is None for size in sizes):
        listed = ", ".join(str(tuple(tensor.shape)) for tensor in (*start, *batched))
        raise ValueError(f"states and batched tensors of `{name}` need the same first axis, not {listed}")
