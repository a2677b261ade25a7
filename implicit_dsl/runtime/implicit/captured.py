"""Equilibria inside of captured graphs (torch.compile, torch.export): opaque operations, looked up by a key.

A solve decides by its data when to stop, which a graph cannot. So it is one operation of the
graph, `implicitc::equilibrium`, and its backward pass another. What they solve is found by a
string: a description for steps that can be imported, a number for modules and closures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from implicit_dsl.runtime.autocast import unautocast
from implicit_dsl.runtime.implicit.folding import mapped
from implicit_dsl.runtime.implicit.functions import Call, pulled, pulled_once
from implicit_dsl.runtime.implicit.linearisation import Tensors
from implicit_dsl.runtime.implicit.naming import described, digest, recalled
from implicit_dsl.runtime.implicit.problem import Primal
from implicit_dsl.runtime.implicit.solving import settled
from implicit_dsl.runtime.implicit.surroundings import HAND_IN, surroundings
from implicit_dsl.runtime.solution import Solution
from implicit_dsl.runtime.statistics import Ledger

# PyTorch drops the derivatives of custom operations there without a word (pytorch#193279)
NO_TRANSFORMS = (
    "an equilibrium cannot be captured inside of torch.func.grad, vmap and their like: differentiate the "
    "compiled function by torch.autograd.grad instead, or do not ask for fullgraph=True"
)
# A step that closes over tensors lives as long as the module that has it.
_PROBLEMS: WeakValueDictionary[str, Primal] = WeakValueDictionary()
_PURE: set[Primal] = set()


def register(problem: Primal) -> tuple[str, Primal]:
    """Make an equation known to captured graphs. Its key, and the equation, which is to be kept.

    Equal equations share a key. That of a step that can be imported describes it, for every process.
    """
    # the counts of tensors are known at the call only
    blank = replace(problem, states=0, batched=0)
    text = described(blank)
    if text is not None:
        return text, blank
    step = f"{problem.step.__module__}.{getattr(problem.step, '__qualname__', type(problem.step).__name__)}"
    key, number = f"{step}:{digest(blank)}", 1
    while (known := _PROBLEMS.setdefault(key, blank)) != blank:  # another one of the same name
        number += 1
        key = f"{step}:{digest(blank)}:{number}"
    if problem.around is None:
        _PURE.add(known)
    return key, known


def carried(problem: Primal) -> Tensors:
    """The tensors beside its arguments that a graph can give to a step: those of a step that is a module."""
    if problem.around is None:
        return ()
    modules = [part for part in (problem.step, problem.phi) if isinstance(part, nn.Module)]
    return tuple(tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))


def solve_captured(
    key: str, states: int, batched: int, tensors: list[Tensor]
) -> tuple[list[Tensor], Solution]:
    """The states, and what the solve did, for tensors (*start, *batched, *shared), inside of a graph."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(NO_TRANSFORMS)
    *found, residual, steps, status = _equilibrium(key, states, batched, tensors)
    return found, Solution(found[0].detach().flatten(1), residual.detach(), steps, status)


def _problem(key: str, states: int, batched: int) -> Primal:
    known = recalled(key) if key.startswith("{") else _PROBLEMS.get(key)
    if known is None:
        step = key.partition(":")[0]
        raise RuntimeError(
            f"this graph solves an equilibrium of `{step}`, which this process has not made: make it once, "
            "as where the graph was captured, with the same version of Python"
        )
    around = known.around and replace(known.around, followed=carried(known))
    return replace(known, states=states, batched=batched, around=around)


def _looked_into(problem: Primal, tensors: Sequence[Tensor]) -> Primal:
    """The equation, whose step uses nothing that the graph does not give it.

    Raises RuntimeError if it does: the graph would take the tensor for what it was at its last call.
    """
    if problem.around is None:
        return problem
    given = len(tensors) - len(problem.around.followed)
    with torch.no_grad(), unautocast(tensors[0].device):
        alone = replace(problem, around=None)
        seen = surroundings(problem.settings.name, alone.sweep, tuple(tensors[:given]))
    known = {id(tensor) for tensor in problem.around.followed}
    for tensor in seen.tensors:
        if id(tensor) not in known:
            raise RuntimeError(
                f"the step of `{problem.settings.name}` uses a tensor {tuple(tensor.shape)} that it finds by "
                f"itself, which cannot be followed inside of a captured graph: {HAND_IN}, or make the step "
                "an nn.Module with this as a parameter or buffer"
            )
    return replace(problem, samples=not seen.per_sample(len(tensors[0])))


def _autograd_restored() -> Any:
    """A context in which autograd works: operations run below it, but a solve needs ∂f/∂x."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


@torch.library.custom_op("implicitc::equilibrium", mutates_args=())
def _equilibrium(key: str, states: int, batched: int, tensors: list[Tensor]) -> list[Tensor]:
    with _autograd_restored():
        problem, ledger = _looked_into(_problem(key, states, batched), tensors), Ledger()
        found = settled(problem, *Call(problem, ledger).parts(tensors), ledger)
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


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *ctx.place, ctx.needed, gradients, saved = inputs
    ctx.count = len(gradients)
    ctx.save_for_backward(*gradients, *saved)


def _second_gradients(ctx: Any, outer: Sequence[Tensor]) -> Any:
    """The gradients of gradients, where a captured graph runs as it is: PyTorch compiles no second ones."""
    key, states, batched = ctx.place
    problem = _problem(key, states, batched)
    with torch.enable_grad():
        tensors = tuple(tensor.view_as(tensor) for tensor in ctx.saved_tensors)
        gradients, saved = tensors[: ctx.count], tensors[ctx.count :]
        found = pulled(Call(problem, Ledger()), gradients, saved, ctx.needed)
        live = [tensor for tensor in tensors if tensor.requires_grad]
        made = torch.autograd.grad(
            found, live, outer, create_graph=torch.is_grad_enabled(), allow_unused=True
        )
    places = iter(made)
    each = [next(places) if tensor.requires_grad else None for tensor in tensors]
    return None, None, None, None, each[: ctx.count], each[ctx.count :]


_equilibrium.register_autograd(_gradients, setup_context=_setup_context)
_backward.register_autograd(_second_gradients, setup_context=_setup_second)


def _mapped(
    info: Any, in_dims: tuple[Any, ...], key: str, states: int, batched: int, tensors: list[Tensor]
) -> tuple[list[Tensor], list[int]]:
    count = states + batched
    run = lambda *given: tuple(_equilibrium(key, states, batched, list(given)))  # noqa: E731
    foldable = _problem(key, states, batched).samples
    found = mapped(run, info.batch_size, in_dims[3], tuple(tensors), count, foldable)
    return list(found), [0] * len(found)


_equilibrium.register_vmap(_mapped)
