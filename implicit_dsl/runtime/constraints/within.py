"""Projections of matrices that are in sets of their own, such as symmetric ones, onto a bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from implicit_dsl.runtime.structures import matrix_of, nearest_of
from implicit_dsl.sets.linear import LinearSet

if TYPE_CHECKING:
    from implicit_dsl.runtime.constraints.base import Constraint

Weights: TypeAlias = Mapping[str, Tensor]

_SWEEPS = 5_000  # of Dykstra's method
_SETTLED = 1e-12  # relative change at which it has converged


def kept_within(constraint: Constraint, weights: Weights) -> dict[str, Tensor]:
    """What to store in the tensors of a module, so that matrices in sets are within a bound.

    `weights` are the matrices. The result is the nearest point of bound and sets in the Frobenius norm
    of the matrices: the limit of Dykstra's alternating projections (Boyle and Dykstra 1986). Where a
    projection onto the bound does not lead out of the sets, as for rows of triangular matrices or singular
    values of symmetric ones, that is one step. What rounding leaves outside is scaled.
    """
    if not constraint.structures:
        return constraint.nearest(weights)
    sets = {id: made for id, made in constraint.structures.items() if isinstance(made, LinearSet)}
    dtypes = {id: weight.dtype for id, weight in weights.items()}
    if constraint.measured(weights) <= constraint.limit:
        return _stored(sets, weights, dtypes)
    current = {id: weight.double() for id, weight in weights.items()}
    memory = {id: torch.zeros_like(weight) for id, weight in current.items()}
    scale = max(1e-300, *(float(weight.abs().max()) for weight in current.values()))
    for _ in range(_SWEEPS):
        moved = {id: current[id] + memory[id] for id in current}
        found = constraint.nearest(moved)
        memory = {id: moved[id] - found[id] for id in moved}
        # a set is a subspace: what its projection takes away is taken away again next time
        inside = {id: _projected(sets, id, weight) for id, weight in found.items()}
        off = max(float((inside[id] - found[id]).abs().max()) for id in found)
        change = max(float((inside[id] - current[id]).abs().max()) for id in found)
        current = inside
        if min(off, change) <= _SETTLED * scale:
            break
    return _inside(constraint, sets, current, dtypes)


def _projected(sets: Mapping[str, LinearSet], id: str, weight: Tensor) -> Tensor:
    return matrix_of(sets[id], nearest_of(sets[id], weight)) if id in sets else weight


def _stored(
    sets: Mapping[str, LinearSet], weights: Weights, dtypes: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """The trained tensors of members of sets, in their dtypes."""
    return {
        id: (nearest_of(sets[id], weight) if id in sets else weight).to(dtypes[id])
        for id, weight in weights.items()
    }


def _inside(
    constraint: Constraint,
    sets: Mapping[str, LinearSet],
    weights: Weights,
    dtypes: Mapping[str, torch.dtype],
) -> dict[str, Tensor]:
    """The same, scaled until what is stored is within the bound: both are convex and hold zero."""
    shrunk = 1.0
    eps = max(torch.finfo(dtype).eps for dtype in dtypes.values())
    while True:
        stored = _stored(sets, {id: shrunk * weight for id, weight in weights.items()}, dtypes)
        made = {id: matrix_of(sets[id], w) if id in sets else w for id, w in stored.items()}
        found, limit = constraint.measured(made), constraint.limit
        if found <= limit or not limit > 0 or shrunk < 0.5:
            return stored
        shrunk *= min(limit / found, 1 - eps)
