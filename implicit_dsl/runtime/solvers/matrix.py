"""The matrix of an affine map that is known only by its values and its derivative."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.base import Equation
from implicit_dsl.runtime.solvers.krylov import Linearised

MOST_ENTRIES = 1 << 27  # of the matrices of a batch whose samples have matrices of their own: 512 MiB
_ROWS = 512  # of W that are read off at once, where samples can be repeated
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

    W is read off row by row as derivatives eᵢᵀ W, in which c has no part: it can neither swallow W
    nor make it depend on the sample. Raises ValueError if each sample has a matrix of its own and
    these are too large to hold.
    """
    affine, _ = equation.split(solver)
    working = torch.promote_types(like.dtype, torch.float32)
    n = like.shape[1]
    linear = Linearised(affine, torch.zeros_like(like))
    c = linear.image.to(working)
    if not _shared(linear, like):
        return Affine(_separate(linear, like, working, solver), c)
    batch = len(like)
    if batch < _ROWS and equation.restrict is not None:
        batch = min(n, _ROWS)
        repeated = equation.restrict(torch.zeros(batch, dtype=torch.int64, device=like.device))
        linear = Linearised(repeated.split(solver)[0], like.new_zeros((batch, n)))
    W = like.new_empty((n, n), dtype=working)
    for first in range(0, n, batch):
        count = min(batch, n - first)
        basis = like.new_zeros((batch, n))
        basis[:count, first : first + count].fill_diagonal_(1)
        W[first : first + count] = linear.pulled_back(basis)[:count].to(working)
    return Affine(W, c)


def _shared(linear: Linearised, like: Tensor) -> bool:
    """Whether one vector v has the same image vᵀW in all samples."""
    v = torch.arange(1, like.shape[1] + 1, dtype=torch.float64, device=like.device).square_().sin_()
    images = linear.pulled_back(v.to(like.dtype).expand_as(like).contiguous())
    allowed = _AGREEMENT * torch.finfo(like.dtype).eps * images.abs().max()
    return bool((images - images[:1]).abs().max() <= allowed)


def _separate(linear: Linearised, like: Tensor, working: torch.dtype, solver: str) -> Tensor:
    """W (b, n, n), by one derivative for each row."""
    batch, n = like.shape
    if batch * n * n > MOST_ENTRIES:
        raise ValueError(
            f"{solver} would hold a matrix of {n} × {n} for each of {batch} samples, because these differ; "
            "choose forward_backward, or a smaller batch"
        )
    W = like.new_empty((batch, n, n), dtype=working)
    for row in range(n):
        basis = torch.zeros_like(like)
        basis[:, row] = 1
        W[:, row] = linear.pulled_back(basis).to(working)
    return W
