"""Equilibria inside of captured graphs (torch.compile, torch.export): opaque operations, looked up by a key.

A solve decides by its data when to stop, which a graph cannot. So it is one operation of the
graph, `implicitc::equilibrium`, and its backward pass another. What they solve is found by a
string: it is made of the name of the step and its settings, so that it is the same in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from implicit_dsl.runtime.implicit.folding import mapped
from implicit_dsl.runtime.implicit.functions import Call, pulled_once
from implicit_dsl.runtime.implicit.problem import Primal
from implicit_dsl.runtime.implicit.solving import settled
from implicit_dsl.runtime.solution import Solution
from implicit_dsl.runtime.statistics import Ledger

# PyTorch drops the derivatives of custom operations there without a word (pytorch#193279)
NO_TRANSFORMS = (
    "an equilibrium cannot be captured inside of torch.func.grad and its like: compile the function that is "
    "differentiated instead, differentiate by torch.autograd.grad, or do not ask for fullgraph=True"
)
_PROBLEMS: dict[str, Primal] = {}


def register(problem: Primal) -> str:
    """Make an equation known to captured graphs. Its key: equal equations share one."""
    step = f"{problem.step.__module__}.{getattr(problem.step, '__qualname__', type(problem.step).__name__)}"
    # the counts of tensors are known at the call only
    blank = replace(problem, states=0, batched=0)
    digest = hashlib.sha256(repr(blank.settings).encode()).hexdigest()[:8]
    key, number = f"{step}:{digest}", 1
    while _PROBLEMS.setdefault(key, blank) != blank:  # another function of the same name
        number += 1
        key = f"{step}:{digest}:{number}"
    return key


def solve_captured(
    key: str, states: int, batched: int, tensors: list[Tensor]
) -> tuple[list[Tensor], Solution]:
    """The states, and what the solve did, for tensors (*start, *batched, *shared), inside of a graph."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(NO_TRANSFORMS)
    *found, residual, steps, status = torch.ops.implicitc.equilibrium(key, states, batched, tensors)
    return found, Solution(found[0].detach().flatten(1), residual.detach(), steps, status)


def _problem(key: str, states: int, batched: int) -> Primal:
    known = _PROBLEMS.get(key)
    if known is None:
        module = key.partition(":")[0].rpartition(".")[0]
        raise RuntimeError(
            f"this graph solves the equilibrium {key}, which this process does not know: import `{module}` "
            "and make its module once, as where the graph was captured"
        )
    return replace(known, states=states, batched=batched)


def _autograd_restored() -> Any:
    """A context in which autograd works: operations run below it, but a solve needs ∂f/∂x."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


@torch.library.custom_op("implicitc::equilibrium", mutates_args=())
def _equilibrium(key: str, states: int, batched: int, tensors: list[Tensor]) -> list[Tensor]:
    with _autograd_restored():
        problem, ledger = _problem(key, states, batched), Ledger()
        call = Call(problem, ledger)
        found = settled(problem, *call.parts(tensors), ledger)
        assert ledger.forward is not None
        solution = ledger.forward
        # an operation must not return what it was given, nor two views of one tensor
        return [*(_dense(state) for state in found), solution.residual, solution.steps, solution.status]


@torch.library.custom_op("implicitc::equilibrium_backward", mutates_args=())
def _backward(
    key: str, states: int, batched: int, needed: list[bool], gradients: list[Tensor], saved: list[Tensor]
) -> list[Tensor]:
    with _autograd_restored(), torch.no_grad():
        call = Call(_problem(key, states, batched), Ledger())
        found = pulled_once(call, tuple(gradients), tuple(saved), needed)
        return [_dense(gradient) for gradient in found]


def _dense(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


@_equilibrium.register_fake
def _(key: str, states: int, batched: int, tensors: list[Tensor]) -> list[Tensor]:
    batch = tensors[0].shape[0]
    return [
        *(torch.empty_like(state, memory_format=torch.contiguous_format) for state in tensors[:states]),
        tensors[0].new_empty(batch, dtype=torch.float64),
        tensors[0].new_empty(batch, dtype=torch.int64),
        tensors[0].new_empty(batch, dtype=torch.int8),
    ]


@_backward.register_fake
def _(
    key: str, states: int, batched: int, needed: list[bool], gradients: list[Tensor], saved: list[Tensor]
) -> list[Tensor]:
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, need in zip(saved[states:], needed)
        if need
    ]


def _setup_context(ctx: Any, inputs: tuple[str, int, int, list[Tensor]], output: list[Tensor]) -> None:
    key, states, batched, tensors = inputs
    ctx.place = key, states, batched
    ctx.save_for_backward(*output[:states], *tensors[states:])


def _gradients(ctx: Any, gradients: Sequence[Tensor]) -> Any:
    key, states, batched = ctx.place
    needed = list(ctx.needs_input_grad[3][states:])
    found: list[Tensor | None] = [None] * len(needed)
    if any(needed):
        made = iter(
            _backward(key, states, batched, needed, list(gradients[:states]), list(ctx.saved_tensors))
        )
        found = [next(made) if need else None for need in needed]
    return None, None, None, [*(None for _ in range(states)), *found]


_equilibrium.register_autograd(_gradients, setup_context=_setup_context)


def _mapped(
    info: Any, in_dims: tuple[Any, ...], key: str, states: int, batched: int, tensors: list[Tensor]
) -> tuple[list[Tensor], list[int]]:
    count = states + batched
    run = lambda *given: tuple(_equilibrium(key, states, batched, list(given)))  # noqa: E731
    foldable = _problem(key, states, batched).samples
    found = mapped(run, info.batch_size, in_dims[3], tuple(tensors), count, foldable)
    return list(found), [0] * len(found)


_equilibrium.register_vmap(_mapped)
