"""The tensors of a module in which its matrices are linear, by id, differentiable."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from implicit_dsl.model import ImplicitModel
from implicit_dsl.operators.structured import set_of
from implicit_dsl.runtime.constraints.base import tensor_of
from implicit_dsl.runtime.sharding import whole
from implicit_dsl.runtime.structures import matrix_of
from implicit_dsl.sets.linear import LinearSet


def tensors_of_model(module: nn.Module, model: ImplicitModel) -> dict[str, Tensor]:
    """What the operators of a model of a module read, by id: parameters, buffers, and what is made of them.

    Members of linear sets are given by their numbers, others as the matrices that they are.
    """
    operators = [operator for term in model.terms for operator in term.chain]
    sets = {op.parameters[0][1]: set_of(op) for op in operators if op.kind == "structured"}
    made = _parametrised(module)
    held: Mapping[str, object] = getattr(module, "structures", {})
    found: dict[str, Tensor] = {}
    for id in dict.fromkeys(id for operator in operators for _, id in operator.parameters):
        if id in made:
            found[id] = _numbers(sets[id], made[id]) if id in sets else made[id]
            continue
        tensor = whole(tensor_of(module, id))
        within = held.get(id)
        made_of = within is not None and not isinstance(within, LinearSet)
        found[id] = matrix_of(within, tensor) if made_of else tensor  # type: ignore[arg-type]  # a structure
    return found


def _parametrised(module: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for constraint in getattr(module, "constraints", ()):
        if constraint.method == "parametrize":
            found.update(constraint.effective(module))
    return found


def _numbers(made: LinearSet, matrix: Tensor) -> Tensor:
    """The numbers θ [count] of a member of a linear set, each read where it stands first."""
    places = matrix_of(made, torch.arange(1, made.count + 1)).flatten()  # ±(1 + number), 0 where it is zero
    order = places.abs().argsort(stable=True)
    numbers, counts = torch.unique_consecutive(places[order].abs(), return_counts=True)
    first = order[counts.cumsum(0) - counts][numbers > 0].to(matrix.device)
    return matrix.flatten()[first] * places.to(matrix.device)[first].sign().to(matrix)


__all__ = ["tensors_of_model"]
