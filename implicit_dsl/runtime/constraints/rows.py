"""Bounds on absolute row sums, with weights: ‖A‖∞ ≤ κ, and Σⱼ |Aᵢⱼ| vⱼ ≤ κ vᵢ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from implicit_dsl.runtime.constraints.balls import onto_balls_
from implicit_dsl.runtime.constraints.base import (
    Block,
    Constraint,
    ConstraintError,
    Weights,
    inward,
    like_rows,
    matrix_rows,
    tensor_of,
)
from implicit_dsl.runtime.constraints.budgets import Group, Part
from implicit_dsl.runtime.constraints.sharing import nearest_sharing


def nearest_in_all(groups: list[Group], weights: Weights) -> dict[str, Tensor]:
    """The nearest tensors in the sets of all groups, in their dtypes or in float64.

    Groups without a tensor in common are done one by one; those with are solved together.
    """
    owners: dict[str, int] = {}
    for group in groups:
        for part in group.parts:
            owners[part.tensor] = owners.get(part.tensor, 0) + 1
    if all(count == 1 for count in owners.values()):
        return {**weights, **{id: found for group in groups for id, found in group.nearest(weights).items()}}
    current = {id: weight.double() for id, weight in weights.items()}
    return _scaled_inside(groups, nearest_sharing(groups, current, {}))


def _scaled_inside(groups: list[Group], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What rounding has left outside of a set is scaled into all of them."""
    worst = max(float((group.sums(weights) / group.radius).max()) for group in groups)
    return weights if worst <= 1 else {id: weight / worst for id, weight in weights.items()}


def dtype_of(weights: Weights) -> torch.dtype:
    """The coarsest dtype among some tensors."""
    coarsest, *others = [weight.dtype for weight in weights.values()]
    for dtype in others:  # torch.compile knows no max with a key
        if torch.finfo(dtype).eps > torch.finfo(coarsest).eps:
            coarsest = dtype
    return coarsest


Parts: TypeAlias = "dict[tuple[str, int], float]"  # tensors with the axes that count rows, and their factors


@dataclass(frozen=True)
class RowBound(Constraint):
    """‖A‖∞ ≤ κ: the absolute sum of each row, over all its blocks, is at most `bound`.

    `nearest` is the Euclidean projection, also where a tensor stands in several places. Blocks of a row
    whose tensors count different rows, such as a kernel beside a full matrix, share the budget in proportion
    to their largest rows: feasible, not nearest. `made` multiplies rows by min(1, κ / sum), and leaves those
    within their budget alone.
    """

    @property
    def measure(self) -> str:
        return "the largest absolute row sum"

    def measured(self, weights: Weights) -> float:
        totals: dict[str, float] = {}
        for row, listed in self._sets(weights):
            top = float(_sums(listed, weights).max())
            totals[row] = totals.get(row, self._fixed(row)) + top
        return max(totals.values(), default=0.0)

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        groups = [group for _, group in self._groups(weights)]
        if all(bool((group.sums(weights) <= self._whole(group, weights)).all()) for group in groups):
            return dict(weights)
        found = nearest_in_all(groups, weights)
        return {id: found[id].to(weights[id].dtype) for id in weights}

    def project_(self, module: nn.Module) -> None:
        if not (self.method == "project" and self.within is None and self._project_in_place(module)):
            super().project_(module)

    @torch.no_grad()
    def _project_in_place(self, module: nn.Module) -> bool:
        """The projection without copies, where each tensor stands alone in its rows."""
        weights = {id: tensor_of(module, id) for id in self.tensors}
        plain = all(type(w) in (Tensor, nn.Parameter) and not w.is_meta for w in weights.values())
        groups = self.groups(weights) if plain else None
        if groups is None:
            return False
        parts = [part for group in groups for part in group.parts]
        if len(parts) != len(groups) or len({part.tensor for part in parts}) != len(parts):
            return False
        if any(part.axis != 0 or part.factor is None for part in parts):
            return False
        if all(bool((group.sums(weights) <= self._whole(group, weights)).all()) for group in groups):
            return True
        for group, part in zip(groups, parts):
            weight = weights[part.tensor].detach()
            rows = matrix_rows(weight, 0)
            shared = rows.data_ptr() == weight.data_ptr()  # a view, as of all contiguous tensors
            if not (part.factor and shared and onto_balls_(rows, group.radius / part.factor)):
                return False
            torch.autograd.graph.increment_version(weights[part.tensor])
        return True

    def made(self, weights: Weights) -> dict[str, Tensor]:
        factors: dict[tuple[str, int], Tensor] = {}
        for _, group in self._groups(weights):
            sums = torch.stack(
                [
                    (matrix_rows(weights[p.tensor], p.axis).abs() * p.shared.to(weights[p.tensor])).sum(1)
                    for p in group.parts
                ]
            ).sum(0)
            radius = group.radius.to(sums)
            factor = radius / torch.maximum(sums, radius)
            for part in group.parts:
                key = (part.tensor, part.axis)
                factors[key] = torch.minimum(factors[key], factor) if key in factors else factor
        found = dict(weights)
        for (id, axis), factor in factors.items():
            if self.within is not None and not self.within.scales_rows(id):
                factor = factor.min().expand_as(factor)
            found[id] = like_rows(matrix_rows(found[id], axis) * factor[:, None], found[id], axis)
        return found

    def groups(self, weights: Weights) -> list[Group] | None:
        """The rows that share budgets; None where blocks of a row count different rows."""
        found = self._groups(weights)
        rows = [row for row, _ in found]
        return [group for _, group in found] if len(set(rows)) == len(rows) else None

    def _fixed(self, row: str) -> float:
        return float(self.fixed.get(row, 0.0))

    def _budget(self, row: str) -> float:
        left = self.bound - self._fixed(row)
        if not left > 0:
            raise ConstraintError(
                f"`{self.text}` (line {self.line}) cannot hold: constant operators already use "
                f"{self._fixed(row):g} of the rows of `{row}`"
            )
        return left

    def _sets(self, weights: Weights) -> list[tuple[str, Parts]]:
        """Row blocks with the factors of their tensors, those that count the same rows together.

        A tensor that stands there twice counts twice.
        """
        found: dict[tuple[str, int, int], Parts] = {}
        for block in self.blocks:
            rows = weights[block.tensor].shape[block.axis]
            parts = found.setdefault((block.row, block.part, rows), {})
            key = (block.tensor, block.axis)
            parts[key] = parts.get(key, 0.0) + abs(block.factor)
        return [(row, parts) for (row, _, _), parts in found.items()]

    def _whole(self, group: Group, weights: Weights) -> Tensor:
        """The budget before it was moved inwards: rows within it stay as they are."""
        return group.radius / inward(1.0, dtype_of(weights))

    def _groups(self, weights: Weights) -> list[tuple[str, Group]]:
        """The rows of each row block, with budgets a little inwards."""
        target = inward(1.0, dtype_of(weights))
        sets: dict[str, list[Parts]] = {}
        for row, parts in self._sets(weights):
            sets.setdefault(row, []).append(parts)
        found = []
        for row, several in sets.items():
            budget = self._budget(row) * target
            shares = [budget]
            if len(several) > 1:
                tops = [float(_sums(parts, weights).max()) for parts in several]
                total = max(sum(tops), 1e-300)
                shares = (
                    [budget * max(top / total, 1e-12) for top in tops]
                    if total > budget
                    else [max(top, 1e-300) for top in tops]
                )
            for parts, share in zip(several, shares):
                listed = tuple(Part(id, axis, _all(f, weights[id], axis)) for (id, axis), f in parts.items())
                rows, device = len(listed[0].weights), listed[0].weights.device
                radius = torch.full((rows,), share, dtype=torch.float64, device=device)
                found.append((row, Group(listed, radius)))
        return found


def _sums(parts: Parts, weights: Weights) -> Tensor:
    """The absolute sums of rows over some tensors, in float64."""
    listed = [matrix_rows(weights[id].double(), axis).abs().sum(1) * f for (id, axis), f in parts.items()]
    return torch.stack(listed).sum(0)


def _all(factor: float, weight: Tensor, axis: int) -> Tensor:
    """The same weight [rows, entries] for all entries of the rows of a tensor."""
    rows = weight.shape[axis]
    one = torch.full((1, 1), factor, dtype=torch.float64, device=weight.device)
    return one.expand(rows, max(1, weight.numel() // max(1, rows)))


__all__ = ["Block", "Group", "Part", "RowBound", "nearest_in_all"]
