"""Tensors whose rows share numbers: those in sets, and those that stand in several places."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints.base import Weights, matrix_rows
from implicit_dsl.runtime.constraints.budgets import Group
from implicit_dsl.runtime.constraints.tied import SharedRows
from implicit_dsl.runtime.structures import matrix_of, nearest_of
from implicit_dsl.sets.linear import LinearSet


def nearest_sharing(
    groups: list[Group], weights: Weights, sets: Mapping[str, LinearSet], measures: bool = False
) -> dict[str, Tensor]:
    """The nearest tensors, members of their sets, whose rows are within their budgets, in float64.

    With `measures`, diagonal entries count as they are. They share no number with others: no set has that.
    """
    numbering: dict[str, Tensor] = {}  # for each entry of a tensor its number, −1 where it is always zero
    masses, given, count = [], [], 0
    for id, weight in weights.items():
        made = sets.get(id)
        if made is None:
            own = torch.arange(weight.numel(), device=weight.device).reshape(weight.shape)
            theta = weight.double().flatten()
        else:
            theta = nearest_of(made, weight.double())
            own = matrix_of(made, torch.arange(1, made.count + 1, device=weight.device)).abs() - 1
        held = own[own >= 0]
        masses.append(torch.bincount(held, minlength=len(theta)).double())
        given.append(theta)
        numbering[id] = torch.where(own >= 0, own + count, own)
        count += len(theta)
    # where all rows hold the same numbers, one of them stands for all: radii and weights are the same, too
    alike = all(id in sets and sets[id].same_rows for id in weights)
    rows, numbers, factors, radii, before = [], [], [], [], 0
    for group in groups:
        most = 1 if alike else len(group.radius)
        for part in group.parts:
            own = matrix_rows(numbering[part.tensor], part.axis)[:most]
            i, j = (own >= 0).nonzero(as_tuple=True)
            rows.append(i + before)
            numbers.append(own[i, j])
            factors.append(part.weights[i, j])
        radii.append(group.radius[:most])
        before += most
    plain = None
    if measures:
        plain = torch.zeros(count, dtype=torch.bool, device=rows[0].device)
        for own in numbering.values():
            diagonal = own.diagonal()
            plain[diagonal[diagonal >= 0]] = True
    shared = SharedRows(
        torch.cat(rows), torch.cat(numbers), torch.cat(factors), torch.cat(radii), torch.cat(masses), plain
    )
    found = torch.split(shared.nearest(torch.cat(given)), [len(theta) for theta in given])
    return {
        id: matrix_of(sets[id], theta) if id in sets else theta.reshape(weights[id].shape)
        for id, theta in zip(weights, found)
    }
