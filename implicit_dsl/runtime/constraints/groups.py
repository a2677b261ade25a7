"""Sums over groups of a norm of each, such as Σ_g max |w_g| ≤ κ: columns that are zero as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from implicit_dsl.demands import Family, Measured
from implicit_dsl.runtime.constraints.balls import onto_balls
from implicit_dsl.runtime.constraints.base import Constraint, Weights, inward
from implicit_dsl.runtime.constraints.capping import caps_of
from implicit_dsl.runtime.measures.gathering import gathered, scattered
from implicit_dsl.runtime.measures.penalty import Penalty

_BISECTIONS = 200  # of the interval of a multiplier, which ends where its ends are neighbours


@dataclass(frozen=True)
class GroupBound(Constraint):
    """Σ over the groups of some families of a norm of each ≤ κ: the ball of l1, ℓ1,2 or ℓ1,∞.

    `nearest` is the Euclidean projection, which makes whole groups zero: of ℓ1 by the row of all entries, of
    ℓ1,2 by the norms of the groups, of ℓ1,∞ by their largest entries (Quattoni et al. 2009). Numbers that
    count several times, as those of kernels in an assembled matrix (`system`), have a multiplier that is
    found by bisection.
    """

    measured_by: Measured = field(default_factory=lambda: Measured("l1"))
    system: Any = None

    @property
    def tensors(self) -> tuple[str, ...]:
        return self.measured_by.tensors

    @property
    def measure(self) -> str:
        norm = {"l1": "of its entries", "l2": "of the norms of its groups"}
        return f"the sum {norm.get(self.measured_by.name, 'of the largest entries of its groups')}"

    def measured(self, weights: Weights) -> float:
        wide = {id: weight.detach().double() for id, weight in weights.items()}
        return float(self.as_penalty(weights).value(wide))

    def as_penalty(self, weights: Weights) -> Penalty:
        """The measure as a function of tensors of these shapes."""
        shapes = {id: tuple(weights[id].shape) for id in self.tensors}
        return Penalty(self.text, self.line, 1.0, self.measured_by, shapes, system=self.system)

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        if self.measured(weights) <= self.bound:
            return dict(weights)
        eps = max((weight.dtype for weight in weights.values()), key=lambda dtype: torch.finfo(dtype).eps)
        wide = {id: weight.double() for id, weight in weights.items()}
        families, bound = self.measured_by.families, inward(self.bound, eps)
        pieces = [piece.tensor for family in families for piece in family.pieces]
        if all(family.part is None for family in families) and len(set(pieces)) == len(pieces):
            projections = {"l1": _onto_entries, "l2": _onto_norms, "linf": _onto_caps}
            found = _projected(projections[self.measured_by.name], families, wide, bound)
        else:
            found = self._by_multiplier(wide, bound)
        return {id: found[id].to(weight.dtype) for id, weight in weights.items()}

    def _by_multiplier(self, weights: Weights, bound: float) -> dict[str, Tensor]:
        """The proximal operator of λ · measure with the least λ that leads inside."""
        penalty = self.as_penalty(weights)
        low, high = 0.0, max(1e-300, *(float(weight.abs().max()) for weight in weights.values()))
        found = {**weights, **penalty.prox(weights, high)}
        while float(penalty.value(found)) > bound:
            low, high = high, 2 * high
            found = {**weights, **penalty.prox(weights, high)}
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if not low < middle < high:
                break
            tried = {**weights, **penalty.prox(weights, middle)}
            if float(penalty.value(tried)) > bound:
                low = middle
            else:
                high, found = middle, tried
        return found

    def made(self, weights: Weights) -> dict[str, Tensor]:
        total = self.as_penalty(weights).value(weights)
        return {id: weight * (self.bound / total.clamp_min(self.bound)) for id, weight in weights.items()}


def _projected(
    project: Callable[[list[Tensor], float], list[Tensor]],
    families: tuple[Family, ...],
    weights: Weights,
    bound: float,
) -> dict[str, Tensor]:
    found = dict(weights)
    for family, rows in zip(families, project([gathered(family, weights) for family in families], bound)):
        found.update(scattered(family, found, rows))
    return found


def _onto_entries(groups: list[Tensor], bound: float) -> list[Tensor]:
    flat = torch.cat([rows.flatten() for rows in groups])
    projected = onto_balls(flat[None], flat.new_tensor([bound]))[0]
    return [
        part.reshape(rows.shape)
        for part, rows in zip(torch.split(projected, [rows.numel() for rows in groups]), groups)
    ]


def _onto_norms(groups: list[Tensor], bound: float) -> list[Tensor]:
    norms = [torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in groups]
    scaled = _onto_entries(norms, bound)
    return [rows * (new / old.clamp_min(1e-300)) for rows, new, old in zip(groups, scaled, norms)]


def _onto_caps(groups: list[Tensor], bound: float) -> list[Tensor]:
    caps = caps_of([rows.abs() for rows in groups], bound)
    return [rows.clamp(-cap[:, None], cap[:, None]) for rows, cap in zip(groups, caps)]


__all__ = ["GroupBound"]
