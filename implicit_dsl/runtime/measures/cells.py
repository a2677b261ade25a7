"""Entries of matrices as linear functions of trained numbers: of assembled matrices, and of members of sets.

A cell is an entry of a matrix. Each contribution adds coefficient · θ.flat[slot] to a cell, so that a number
that stands in several places, as that of a kernel or of a symmetric matrix, counts in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_dsl.demands import Family
from implicit_dsl.runtime.structures import matrix_of
from implicit_dsl.sets.linear import LinearSet


class Contribution(NamedTuple):
    """cells[cell] += coefficient · θ.flat[slot], θ the tensor with this id; None: the constant 1."""

    id: str | None
    slots: Tensor | None
    coefficients: Tensor
    cells: Tensor


@dataclass(frozen=True)
class Cells:
    """Cells of a family with their groups: `groups` [cells] counts from 0, and so do `rows`, `columns`."""

    contributions: tuple[Contribution, ...]
    groups: Tensor
    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]

    def values(self, numbers: Mapping[str, Tensor]) -> Tensor:
        """The cells [cells], from the numbers that matrices are linear in, by id."""
        like = next(iter(numbers.values()))
        found = like.new_zeros(len(self.groups))
        for one in self.contributions:
            coefficients = one.coefficients.to(like)
            if one.id is not None and one.slots is not None:
                coefficients = coefficients * numbers[one.id].reshape(-1)[one.slots.to(like.device)]
            found = found.index_add(0, one.cells.to(like.device), coefficients)
        return found

    @property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.groups.max()) + 1 if len(self.groups) else 0


def cells_of_pieces(
    family: Family, structures: Mapping[str, LinearSet], shapes: Mapping[str, tuple[int, ...]]
) -> Cells:
    """The cells of pieces, of which those within sets have numbers in several places, or none."""
    contributions, groups, begin = [], [], 0
    for piece in family.pieces:
        numbers = _numbering(piece.tensor, structures, shapes)  # ±(1 + slot), 0 where it is always zero
        at = torch.arange(numbers.numel()).reshape(numbers.shape)
        for axis, kept in enumerate((piece.rows, piece.columns)):
            if kept is not None:
                at = at.index_select(axis, torch.tensor(kept))
        own = {"columns": 1, "rows": 0}.get(family.axis)
        group = torch.zeros_like(at)
        if own is not None:
            group = torch.arange(at.shape[own]).reshape([-1 if k == own else 1 for k in range(at.ndim)])
        held = numbers.flatten()[at.flatten()]
        used = held != 0
        cells = begin + torch.arange(int(used.sum()))
        begin += len(cells)
        groups.append(group.expand(at.shape).flatten()[used])
        contributions.append(
            Contribution(piece.tensor, held[used].abs() - 1, held[used].sign().double(), cells)
        )
    empty = torch.zeros(begin, dtype=torch.long)
    return Cells(tuple(contributions), torch.cat(groups), empty, empty, (0, 0))


def _numbering(id: str, structures: Mapping[str, LinearSet], shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
    if id in structures:
        made = structures[id]
        return matrix_of(made, torch.arange(1, made.count + 1))
    shape = shapes[id]
    return torch.arange(1, prod(shape) + 1).reshape(shape)


@dataclass(frozen=True)
class Separate:
    """The numbers of a family whose groups have none in common, in buckets of groups of one size.

    `places` [groups, entries] are those in the flat tensors one behind another, in the order of `ids`.
    `weights` are what the entries count: a group is Σ w|θ|, √Σ w²θ², or max w|θ|.
    """

    ids: tuple[str, ...]
    buckets: tuple[tuple[Tensor, Tensor], ...]


def separated(cells: Cells, ids: tuple[str, ...], counts: Mapping[str, int], measure: str) -> Separate | None:
    """The same as groups of numbers; None if a cell is a sum, or a number is in several groups."""
    fixed = [one for one in cells.contributions if one.id is None or one.id not in ids]
    if fixed and measure not in ("l1", "squares"):
        return None  # a constant in a group has a part in its norm
    met = torch.zeros(len(cells.groups), dtype=torch.long)
    constant = torch.zeros(len(cells.groups), dtype=torch.bool)
    for one in fixed:
        constant[one.cells] = True
    offsets = dict(zip(ids, accumulate((counts[id] for id in ids), initial=0)))
    total = sum(counts[id] for id in ids)
    owner = torch.full((total,), -1)
    sizes = torch.zeros(total, dtype=torch.float64)
    for slots, coefficients, own in _placed(cells, offsets):
        met.index_add_(0, own, torch.ones_like(own))
        groups = cells.groups[own]
        given = owner[slots]
        if bool(((given >= 0) & (given != groups)).any()):
            return None
        owner[slots] = groups
        if bool((owner[slots] != groups).any()):  # within this contribution
            return None
        match measure:
            case "l1":
                sizes.index_add_(0, slots, coefficients.abs())
            case "linf":
                sizes.scatter_reduce_(0, slots, coefficients.abs(), "amax")
            case _:
                sizes.index_add_(0, slots, coefficients.square())
    if bool((met != (~constant).long()).any()):
        return None
    if measure in ("l2", "squares"):
        sizes = sizes.sqrt()
    return Separate(ids, tuple(_buckets(owner, sizes)))


def _placed(cells: Cells, offsets: Mapping[str, int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for one in cells.contributions:
        if one.id is None or one.id not in offsets or one.slots is None:
            continue
        yield one.slots + offsets[one.id], one.coefficients, one.cells


def _buckets(owner: Tensor, sizes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    held = ((owner >= 0) & (sizes > 0)).nonzero()[:, 0]
    held = held[owner[held].argsort(stable=True)]
    _, counts = torch.unique_consecutive(owner[held], return_counts=True)
    begins = counts.cumsum(0) - counts
    for size in counts.unique().tolist():
        chosen = (counts == size).nonzero()[:, 0]
        places = held[begins[chosen][:, None] + torch.arange(size)]
        yield places, sizes[places]


__all__ = ["Cells", "Contribution", "Separate", "cells_of_pieces", "separated"]
