"""Groups of entries of whole tensors, as rows of a matrix, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from implicit_dsl.demands import Family, Piece


def gathered(family: Family, weights: Mapping[str, Tensor]) -> Tensor:
    """The groups of a family [groups, entries], from matrices and kernels by id."""
    return torch.cat([_as_rows(selected(weights[p.tensor], p), family.axis) for p in family.pieces], 1)


def scattered(family: Family, weights: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The tensors of a family with its groups replaced by rows [groups, entries]."""
    found = {id: weights[id] for id in family.tensors}
    parts = [selected(weights[piece.tensor], piece) for piece in family.pieces]
    widths = [_as_rows(part, family.axis).shape[1] for part in parts]
    for piece, part, taken in zip(family.pieces, parts, torch.split(rows, widths, 1)):
        found[piece.tensor] = replaced(found[piece.tensor], piece, _unrows(taken, part, family.axis))
    return found


def selected(weight: Tensor, piece: Piece) -> Tensor:
    """The rows and columns of a tensor that a piece has."""
    for axis, kept in enumerate((piece.rows, piece.columns)):
        if kept is not None:
            weight = weight.index_select(axis, torch.tensor(kept, device=weight.device))
    return weight


def replaced(weight: Tensor, piece: Piece, part: Tensor) -> Tensor:
    """A tensor with other entries where a piece has some."""
    if piece.rows is None and piece.columns is None:
        return part
    rows = torch.tensor(piece.rows if piece.rows is not None else range(len(weight)), device=weight.device)
    found = weight.clone()
    if piece.columns is None:
        found[rows] = part
    else:
        found[rows[:, None], torch.tensor(piece.columns, device=weight.device)] = part
    return found


def _as_rows(part: Tensor, axis: str) -> Tensor:
    match axis:
        case "columns":
            return part.movedim(1, 0).flatten(1)
        case "rows":
            return part.flatten(1)
        case _:
            return part.flatten()[None]


def _unrows(rows: Tensor, part: Tensor, axis: str) -> Tensor:
    if axis == "columns":
        return rows.reshape(part.movedim(1, 0).shape).movedim(0, 1)
    return rows.reshape(part.shape)
