"""Keeping the weights of a module in their sets: projection after steps, a look before use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from implicit_dsl.runtime.constraints.base import Constraint, ConstraintError, tensor_of
from implicit_dsl.runtime.implicit.recording import recorded

Constraints: TypeAlias = Sequence[Constraint]
_Seen: TypeAlias = tuple[tuple[int, int, int], ...]  # which tensors were feasible: identity, storage, version

_feasible: WeakKeyDictionary[nn.Module, _Seen] = WeakKeyDictionary()


def project_(module: nn.Module, constraints: Constraints) -> None:
    """Move the weights of a module into all its sets, in place: the nearest point of each, in turn."""
    for constraint in constraints:
        constraint.project_(module)


def project_after(optimizer: torch.optim.Optimizer, *modules: nn.Module) -> RemovableHandle:
    """From now on, project the weights of some modules after each step of an optimiser.

    All submodules with a method `project_` are projected. Steps that a GradScaler skips are no steps.
    Returns a handle, whose `remove()` ends it. Raises TypeError if nothing can be projected.
    """
    kept = [inner for module in modules for inner in module.modules() if hasattr(inner, "project_")]
    if not kept:
        raise TypeError("none of these modules has weights to project: there is no `project_`")

    def after(optimizer: torch.optim.Optimizer, arguments: Any, keywords: Any) -> None:
        for module in kept:
            module.project_()  # type: ignore[operator]

    return optimizer.register_step_post_hook(after)


def require(module: nn.Module, constraints: Constraints) -> None:
    """Raise ConstraintError if the weights of a module have left a set.

    The numbers are looked at only if a tensor is another one than last time, or has another
    version: each change in place counts one up (a change through `.data` does not, and is not
    noticed). What storing weights in their dtype may add is allowed, as they may have been projected in
    another one. Nothing is asked while a graph is captured, under transforms of torch.func, and of
    tensors without numbers or memory of their own.
    """
    if recorded():
        return
    kept = [constraint for constraint in constraints if constraint.method == "project"]
    tensors = [tensor_of(module, id) for constraint in kept for id in constraint.tensors]
    if any(not _is_readable(tensor) for tensor in tensors):
        return
    seen = tuple((id(tensor), tensor.data_ptr(), _version(tensor)) for tensor in tensors)
    if _feasible.get(module) == seen:
        return
    for constraint in kept:
        with torch.no_grad():
            found = constraint.measured(constraint.weights(module))
            slack = constraint.rounding(constraint.weights(module))
        if not found <= constraint.limit + slack:
            raise ConstraintError(_left(constraint, found))
    _feasible[module] = seen


def _left(constraint: Constraint, found: float) -> str:
    where = f" (line {constraint.line})" if constraint.line else ""
    if found != found:
        return f"`{constraint.text}`{where}: {constraint.measure} is NaN, so a weight is not a number"
    return (
        f"`{constraint.text}`{where} does not hold: {constraint.measure} is {found:.6g}, and may be at most "
        f"{constraint.limit:.6g}. Call `model.project_()` after each optimiser step, or "
        "`runtime.project_after(optimizer, model)` once."
    )


def _is_readable(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta
    return plain and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def effective_weights(module: nn.Module, constraints: Constraints) -> dict[str, Tensor]:
    """The tensors that parametrised constraints make, by the ids of those that they are made from."""
    found: dict[str, Tensor] = {}
    for constraint in constraints:
        if constraint.method == "parametrize":
            made, within = constraint.effective(module), constraint.within
            for id in constraint.tensors:
                found[id] = made[id] if within is None else within.used(id, made[id])
    return found


def add_parameters(module: nn.Module, constraints: Constraints) -> None:
    """Give a module the free parameters that its parametrisations need; they start at zero.

    A square matrix, as that of a monotone parametrisation, starts near zero at random: at zero
    its gradient would vanish.
    """
    for constraint in constraints:
        if constraint.method != "parametrize":
            continue
        weights = constraint.weights(module)
        like = next(iter(weights.values()))
        for name, shape in constraint.extra_shapes(weights).items():
            start = like.new_zeros(shape)
            if len(shape) == 2 and not like.is_meta:
                nn.init.normal_(start, std=0.5 / shape[0] ** 0.5)
            module.register_parameter(name, nn.Parameter(start))


__all__ = [
    "ConstraintError",
    "add_parameters",
    "effective_weights",
    "project_",
    "project_after",
    "require",
]
