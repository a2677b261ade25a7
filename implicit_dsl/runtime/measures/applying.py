"""What the penalties of a module come to, and the step that makes them small within its sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from implicit_dsl.runtime.constraints.base import Constraint, tensor_of
from implicit_dsl.runtime.constraints.groups import GroupBound
from implicit_dsl.runtime.constraints.rows import RowBound
from implicit_dsl.runtime.measures.composing import SHRINKS, Atom, composed
from implicit_dsl.runtime.measures.penalty import Penalty, Steps
from implicit_dsl.runtime.sharding import parted, whole


def penalty(module: nn.Module, penalties: Sequence[Penalty]) -> Tensor:
    """The sum of some penalties of a module: one number, differentiable."""
    weights = {id: whole(tensor_of(module, id)) for one in penalties for id in one.tensors}
    made = _made_by_constraints(module) if any(one.made for one in penalties) else {}
    values = [one.value(weights, {id: made[id] for id in one.made}) for one in penalties]
    return torch.stack(values).sum()


def _made_by_constraints(module: nn.Module) -> dict[str, Tensor]:
    """The matrices that parametrised constraints make, by id."""
    found: dict[str, Tensor] = {}
    for constraint in getattr(module, "constraints", ()):
        if constraint.method == "parametrize":
            found.update(constraint.effective(module))
    return found


def by_gradient(penalties: Sequence[Penalty]) -> tuple[Penalty, ...]:
    """The penalties that have no proximal operator, so that only their gradient makes them small."""
    return tuple(one for one in penalties if not one.proximal)


def prox_(
    module: nn.Module, penalties: Sequence[Penalty], constraints: Sequence[Constraint], step: Steps
) -> None:
    """Move the weights w of a module to argmin |θ − w|² ∕ (2 step) + penalties(θ) within its sets, in place.

    `step` is the learning rate, or for tensors by id one for each entry; a penalized tensor that is not among
    them stays. Norms of nested groups, and absolute entries with bounds of rows, have closed forms; other
    sums of convex functions are solved in turns; sets that are not convex, and those of members of sets, are
    projected onto behind the rest. Penalties without a proximal operator (`by_gradient`) are left to
    gradients. Raises ValueError for a step that is negative or not finite.
    """
    _check_step(step)
    with torch.no_grad():
        kept = [one for one in constraints if one.method == "project"]
        taken = [one for one in penalties if one.proximal and _concerns(one, step)]
        ids = {id for one in taken for id in one.tensors}
        given = {id: whole(tensor_of(module, id)) for id in ids}
        if any(weight.is_meta for weight in given.values()):
            return
        joined = [one for one in kept if one.convex and one.within is None and set(one.tensors) & ids]
        equal = isinstance(step, float | int)
        atoms = [atom for one in taken for atom in one.atoms]
        given.update({id: whole(tensor_of(module, id)) for one in joined for id in one.tensors})
        wide = {id: weight.double() for id, weight in given.items()}
        sets = [atom_of(one, wide) for one in joined] if equal else []
        steps = {id: _step(step, id, weight) for id, weight in wide.items()}
        if atoms:
            for id, weight in composed([*atoms, *sets], wide, steps).items():
                target = tensor_of(module, id)
                target.copy_(parted(weight.to(target.dtype), target))
        for constraint in kept:
            constraint.project_(module)


def _check_step(step: Steps) -> None:
    values = [torch.as_tensor(step)] if isinstance(step, float | int) else list(step.values())
    if any(not bool((value >= 0).all()) or not bool(value.isfinite().all()) for value in values):
        raise ValueError("a step is a number of at least 0, such as the learning rate")


def _concerns(one: Penalty, step: Steps) -> bool:
    return isinstance(step, float | int) or bool(set(one.tensors) & set(step))


def _step(step: Steps, id: str, like: Tensor) -> Tensor:
    given: Any = step if isinstance(step, float | int) else step.get(id, 0.0)
    return torch.as_tensor(given, dtype=like.dtype, device=like.device)


def atom_of(constraint: Constraint, weights: Mapping[str, Tensor]) -> Atom:
    """A constraint as a function that is zero within it; rows and groups of it are not told apart."""

    def onto(weights: Mapping[str, Tensor], steps: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return constraint.nearest({id: weights[id] for id in constraint.tensors})

    owners = {id: torch.zeros(weights[id].numel(), dtype=torch.long) for id in constraint.tensors}
    kind = SHRINKS if isinstance(constraint, RowBound | GroupBound) else constraint.text
    return Atom(kind, owners, onto, bound=True)


__all__ = ["atom_of", "by_gradient", "penalty", "prox_"]
