"""How large weights are, as differentiable numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from implicit_dsl.demands import Family, Matrix, MeasureName
from implicit_dsl.runtime.matrix_functions import spectral_norm
from implicit_dsl.runtime.measures.cells import Cells
from implicit_dsl.runtime.measures.gathering import gathered, selected

MOST_CELLS = 50_000_000  # of an assembled matrix that is written out for its singular values


def of_groups(name: MeasureName, rows: Tensor) -> Tensor:
    """The sum over groups [groups, entries] of l1, l2, linf or squares."""
    found: Tensor
    match name:
        case "l1":
            found = rows.abs()
        case "l2":
            found = torch.linalg.vector_norm(rows, dim=1)
        case "linf":
            found = rows.abs().amax(1)
        case _:
            found = rows.square()
    return found.sum()


def of_matrix(name: MeasureName, matrix: Tensor) -> Tensor:
    """A measure of one matrix, or of a kernel [out, …], of which row sums are taken."""
    found: Tensor
    match name:
        case "largest_row":
            return matrix.abs().flatten(1).sum(1).amax()
        case "largest_column":
            return matrix.abs().movedim(1, 0).flatten(1).sum(1).amax()
        case "spectral":
            return spectral_norm(matrix)
        case "nuclear":
            found = torch.linalg.svdvals(matrix.float() if matrix.dtype.itemsize < 4 else matrix)
            return found.sum()
        case _:
            return of_groups(name, matrix.flatten()[None])


def of_family(name: MeasureName, family: Family, weights: Mapping[str, Tensor]) -> Tensor:
    """A measure of pieces of matrices by id."""
    if name in ("l1", "l2", "linf", "squares"):
        return of_groups(name, gathered(family, weights))
    (piece,) = family.pieces
    return of_matrix(name, selected(weights[piece.tensor], piece))


def of_cells(name: MeasureName, cells: Cells, numbers: Mapping[str, Tensor]) -> Tensor:
    """A measure of the entries of an assembled matrix, made of numbers by id."""
    values = cells.values(numbers)
    match name:
        case "l1" | "squares":
            return of_groups(name, values[None])
        case "l2":
            squares = _per(values.square(), cells.groups, cells.count)
            return torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0).sum()
        case "linf":
            groups = cells.groups.to(values.device)
            return values.new_zeros(cells.count).scatter_reduce(0, groups, values.abs(), "amax").sum()
        case "largest_row":
            return _per(values.abs(), cells.rows, cells.shape[0]).amax()
        case "largest_column":
            return _per(values.abs(), cells.columns, cells.shape[1]).amax()
    rows, columns = (torch.unique(one, return_inverse=True) for one in (cells.rows, cells.columns))
    shape = (len(rows[0]), len(columns[0]))
    if shape[0] * shape[1] > MOST_CELLS:
        raise ValueError(f"a matrix {shape[0]} × {shape[1]} is too large for its singular values")
    places = (rows[1].to(values.device), columns[1].to(values.device))
    return of_matrix(name, values.new_zeros(shape).index_put(places, values))


def _per(values: Tensor, groups: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add(0, groups.to(values.device), values)


def expression(terms: Matrix, weights: Mapping[str, Tensor]) -> Tensor:
    """A sum of products of matrices by id, some of them transposed."""
    like = next(weights[id] for term in terms for id, _ in term.tensors)
    found: Tensor | None = None
    for term in terms:
        made: Tensor | None = None
        for id, transposed in term.tensors:
            factor = weights[id].mT if transposed else weights[id]
            made = factor if made is None else made @ factor
        if made is None:  # the identity, as large as the others are
            size = next(_size(other.tensors, weights) for other in terms if other.tensors)
            made = torch.eye(size, dtype=like.dtype, device=like.device)
        made = made if term.factor == 1 else term.factor * made
        found = made if found is None else found + made
    assert found is not None, "an expression has a term"
    return found


def _size(tensors: tuple[tuple[str, bool], ...], weights: Mapping[str, Tensor]) -> int:
    id, transposed = tensors[0]
    return weights[id].shape[1 if transposed else 0]


__all__ = ["expression", "of_cells", "of_family", "of_groups", "of_matrix"]
