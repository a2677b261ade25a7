"""Projections of matrices that are in sets of their own, such as symmetric ones, onto a bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints.base import Constraint, Weights
from implicit_dsl.runtime.constraints.budgets import Group
from implicit_dsl.runtime.constraints.matrices import MeasureBound
from implicit_dsl.runtime.constraints.rows import RowBound
from implicit_dsl.runtime.constraints.sharing import nearest_sharing
from implicit_dsl.runtime.structures import Structure, matrix_of, nearest_of, used_of
from implicit_dsl.sets.linear import LinearSet

_ALTERNATIONS = 5_000  # of Dykstra's method
_SHRINKS = 50
_AT_REST = 1e-12  # relative change at which it has converged


@dataclass(frozen=True)
class Within:
    """The sets that the tensors of a constraint are in, by id; others are what they are."""

    structures: Mapping[str, Structure]

    def member(self, id: str, tensor: Tensor) -> Tensor:
        return matrix_of(self.structures[id], tensor) if id in self.structures else tensor

    def used(self, id: str, matrix: Tensor) -> Tensor:
        return used_of(self.structures[id], matrix) if id in self.structures else matrix

    def scales_rows(self, id: str) -> bool:
        made = self.structures.get(id)
        return not isinstance(made, LinearSet) or made.scales_rows

    def nearest(self, constraint: Constraint, weights: Weights) -> dict[str, Tensor]:
        """The trained tensors of the nearest point of bound and sets, in the Frobenius norm of the matrices.

        Where the projection onto the bound does not lead out of the sets, as for rows of triangular matrices
        or singular values of symmetric ones, that is it. Rows that share numbers, and matrix measures, have a
        method of their own (`SharedRows`). Else it is the limit of Dykstra's alternating projections (Boyle
        and Dykstra 1986), or, for a bound that is not convex, the first of these. What is left outside is
        scaled. What is within the bound stays as it is, to the last bit.
        """
        sets = {id: made for id, made in self.structures.items() if isinstance(made, LinearSet)}
        dtypes = {id: weight.dtype for id, weight in weights.items()}
        if constraint.measured(weights) <= constraint.limit:
            return {}
        groups: list[Group] | None = None
        measures = isinstance(constraint, MeasureBound)
        tied = isinstance(constraint, RowBound) and any(made.tied for made in sets.values())
        if isinstance(constraint, MeasureBound | RowBound) and (tied or measures):
            groups = constraint.groups(weights)
        if groups is not None:
            nearest = nearest_sharing(groups, weights, sets, measures)
            return _scaled_within(constraint, sets, nearest, dtypes)
        current = {id: weight.double() for id, weight in weights.items()}
        memory = {id: torch.zeros_like(weight) for id, weight in current.items()}
        scale = max(1e-300, *(float(weight.abs().max()) for weight in current.values()))
        for _ in range(_ALTERNATIONS if constraint.convex else 1):
            moved = {id: current[id] + memory[id] for id in current}
            found = constraint.nearest(moved)
            memory = {id: moved[id] - found[id] for id in moved}
            # a set is a subspace: what its projection takes away needs no memory
            inside = {id: _onto_set(sets, id, weight) for id, weight in found.items()}
            off = max(float((inside[id] - found[id]).abs().max()) for id in found)
            change = max(float((inside[id] - current[id]).abs().max()) for id in found)
            current = inside
            if min(off, change) <= _AT_REST * scale:
                break
        return _scaled_within(constraint, sets, current, dtypes)


def _onto_set(sets: Mapping[str, LinearSet], id: str, weight: Tensor) -> Tensor:
    return matrix_of(sets[id], nearest_of(sets[id], weight)) if id in sets else weight


def _numbers_stored(
    sets: Mapping[str, LinearSet], weights: Weights, dtypes: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """The trained tensors of members of sets, in their dtypes."""
    return {
        id: (nearest_of(sets[id], weight) if id in sets else weight).to(dtypes[id])
        for id, weight in weights.items()
    }


def _scaled_within(
    constraint: Constraint,
    sets: Mapping[str, LinearSet],
    weights: Weights,
    dtypes: Mapping[str, torch.dtype],
) -> dict[str, Tensor]:
    """The same, scaled until what is stored is within the bound: both are convex and hold zero."""
    shrunk = 1.0
    eps = max(torch.finfo(dtype).eps for dtype in dtypes.values())
    for _ in range(_SHRINKS):
        stored = _numbers_stored(sets, {id: shrunk * weight for id, weight in weights.items()}, dtypes)
        made = {id: matrix_of(sets[id], w) if id in sets else w for id, w in stored.items()}
        found, limit = constraint.measured(made), constraint.limit
        if found <= limit or not limit > 0:
            break
        shrunk *= min(limit / found, 1 - eps)
    return stored
