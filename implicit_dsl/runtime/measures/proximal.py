"""The proximal operator of a family of groups: whatever it is made of, as rows of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from implicit_dsl.demands import Family, MeasureName
from implicit_dsl.runtime.measures.cells import Separate
from implicit_dsl.runtime.measures.gathering import gathered, scattered
from implicit_dsl.runtime.measures.shrinking import cap_groups, scale_entries, shrink_entries, shrink_groups

_OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": shrink_entries,
    "l2": shrink_groups,
    "linf": cap_groups,
    "squares": scale_entries,
}


def prox_of_family(
    name: MeasureName, family: Family, weights: Mapping[str, Tensor], steps: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors after the operator of Σ over groups of a norm; `steps` λs are [], or as the tensors."""
    rows = gathered(family, weights)
    if (
        all(steps[id].ndim == 0 for id in family.tensors)
        and len({float(steps[id]) for id in family.tensors}) == 1
    ):
        taken = steps[family.tensors[0]].reshape(1, 1)
    else:
        taken = gathered(family, {id: steps[id].expand_as(weights[id]) for id in family.tensors})
    return scattered(family, weights, _OPERATORS[name](rows, taken))


def prox_of_numbers(
    name: MeasureName, separate: Separate, weights: Mapping[str, Tensor], steps: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same for numbers that count with weights: y = w θ has steps w² s, and Σ w|θ| has w s."""
    flat = torch.cat([weights[id].flatten() for id in separate.ids])
    taken = torch.cat([steps[id].expand_as(weights[id]).flatten() for id in separate.ids])
    found = flat.clone()
    for places, counted in separate.buckets:
        at, w = places.to(flat.device), counted.to(flat)
        if name in ("l1", "squares"):
            scaled = taken[at] * (w if name == "l1" else w.square())
            found[at] = _OPERATORS[name](flat[at], scaled)
        else:
            found[at] = _OPERATORS[name](flat[at] * w, taken[at] * w.square()) / w
    parts = torch.split(found, [weights[id].numel() for id in separate.ids])
    return {id: part.reshape(weights[id].shape) for id, part in zip(separate.ids, parts)}


def shrink_singular_values(name: MeasureName, matrix: Tensor, step: float) -> Tensor:
    """The operator of the spectral or nuclear norm of a matrix: that of the largest, or of the sum, of σ."""
    U, sizes, V = torch.linalg.svd(matrix, full_matrices=False)
    operator = cap_groups if name == "spectral" else shrink_entries
    shrunk = operator(sizes[None], sizes.new_tensor([[step]]))
    moved: Tensor = (U * shrunk) @ V
    return moved


__all__ = ["prox_of_family", "prox_of_numbers", "shrink_singular_values"]
