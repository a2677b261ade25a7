"""The matrix of an affine map that is known only by its values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.base import Equation

MOST_ENTRIES = 1 << 27  # of the matrices of a batch whose samples have matrices of their own: 512 MiB
_ROWS = 512  # basis vectors in one evaluation, where samples can be repeated
_AGREEMENT = 1e4  # units of rounding within which two samples have the same matrix


@dataclass(slots=True)
class Affine:
    """z ↦ W z + c for each sample: W (n, n) if it is the same for all, otherwise (b, n, n); c (b, n)."""

    W: Tensor
    c: Tensor

    @property
    def shared(self) -> bool:
        """Whether all samples have the same W."""
        return self.W.ndim == 2

    def take(self, places: Tensor) -> None:
        """Keep only the samples at these places."""
        self.c = self.c[places]
        if not self.shared:
            self.W = self.W[places]

    def times(self, matrix: Tensor, z: Tensor) -> Tensor:
        """M z for each sample, for an M with as many axes as W."""
        return z @ matrix.T if matrix.ndim == 2 else torch.bmm(matrix, z.unsqueeze(2)).squeeze(2)


def materialise(equation: Equation, like: Tensor, solver: str) -> Affine:
    """W and c of `equation.affine` for samples (b, n), in float32 or wider.

    W is read off at multiples of the basis vectors: large enough that c does not swallow it, and
    a power of two, so that nothing is rounded. Raises ValueError if each sample has a matrix of
    its own and these are too large to hold.
    """
    affine, _ = equation.split(solver)
    working = torch.promote_types(like.dtype, torch.float32)
    batch, n = like.shape
    c = affine(torch.zeros_like(like))
    largest = float(c.abs().max())
    if not math.isfinite(largest):
        return Affine(like.new_full((n, n), torch.nan, dtype=working), c.to(working))
    scale = 2.0 ** min(10, math.ceil(math.log2(max(1.0, largest))))
    if not _shared(equation, c):
        return Affine(_separate(equation, c, scale, working, solver), c.to(working))
    if batch < _ROWS and equation.restrict is not None:
        batch = min(n, _ROWS)
        equation = equation.restrict(torch.zeros(batch, dtype=torch.int64, device=like.device))
        affine, _ = equation.split(solver)
        c_rows = c[:1].expand(batch, n)
    else:
        c_rows = c
    W = like.new_empty((n, n), dtype=working)
    for first in range(0, n, batch):
        count = min(batch, n - first)
        basis = like.new_zeros((batch, n))
        basis[:count, first : first + count].fill_diagonal_(scale)
        W[:, first : first + count] = ((affine(basis) - c_rows)[:count].to(working) / scale).T
    return Affine(W, c.to(working))


def _shared(equation: Equation, c: Tensor) -> bool:
    """Whether one vector has the same image W v in all samples."""
    assert equation.affine is not None
    n = c.shape[1]
    v = torch.sin(torch.arange(1, n + 1, dtype=torch.float64, device=c.device) ** 2).to(c.dtype)
    images = equation.affine(v.expand_as(c).contiguous()) - c
    allowed = _AGREEMENT * torch.finfo(c.dtype).eps * (images.abs().max() + c.abs().max())
    return bool((images - images[:1]).abs().max() <= allowed)


def _separate(equation: Equation, c: Tensor, scale: float, working: torch.dtype, solver: str) -> Tensor:
    """W (b, n, n), by one evaluation for each column."""
    assert equation.affine is not None
    batch, n = c.shape
    if batch * n * n > MOST_ENTRIES:
        raise ValueError(
            f"{solver} would hold a matrix of {n} × {n} for each of {batch} samples, because these differ; "
            "choose forward_backward, or a smaller batch"
        )
    W = c.new_empty((batch, n, n), dtype=working)
    for column in range(n):
        basis = torch.zeros_like(c)
        basis[:, column] = scale
        W[:, :, column] = (equation.affine(basis) - c).to(working) / scale
    return W
