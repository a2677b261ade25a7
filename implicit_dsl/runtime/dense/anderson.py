"""Anderson acceleration of many rows, each with its own coefficients and its own restarts.

D. G. Anderson, Iterative procedures for nonlinear integral equations, J. ACM 12 (1965); in the
difference form of H. Walker and P. Ni, SIAM J. Numer. Anal. 49 (2011).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from implicit_dsl.runtime.dense.results import Figures, Front, on_device, on_host

# More memory no longer pays for itself at 8 · n numbers a row; with less, spectra that fill an
# interval (the family `band` of the benchmark) take more steps.
MEMORY = 5
# Of the largest diagonal entry of the Gram matrix of differences, which is summed in float32.
REGULARISATION = {torch.float32: 1e-8, torch.float64: 1e-14}
# A residual that has grown by this factor has outrun its model: forget the past, take a plain step.
RESTART_GROWTH = 3.0
# Rows whose least residual has not fallen by PROGRESS in PATIENCE steps go on without acceleration.
PATIENCE = 40
PROGRESS = 0.98
# Histories (2 · MEMORY numbers for each number of a state) of one piece of the batch stay in the cache.
PIECE_NUMBERS = 1 << 15
PIECE_ROWS = 128  # fewer make products slow
DROP_SHARE = 0.25
# From this size on, sums of differences are products of matrices; below, those are slower than plain sums.
PRODUCT_SIZE = 128


def anderson(front: Front, x: Tensor, step: int, memory: int = MEMORY) -> None:
    """Solve the rows of a front from x (rows, n), of which `step` steps are already counted."""
    size = max(PIECE_ROWS, PIECE_NUMBERS // max(1, x.shape[1]))
    for first in range(0, front.present, size):
        last = min(front.present, first + size)
        piece = front if size >= front.present else front.piece(first, last)
        Piece(piece, memory).solve(x[first:last], step)


class Piece:
    """Some rows with their differences of residuals and of images (rows, memory, n), the newest at `slot`."""

    def __init__(self, front: Front, memory: int) -> None:
        self.front, self.goal, c = front, front.goal, front.rows.c
        shape = (c.shape[0], memory, c.shape[1])
        self.memory, self.used, self.slot = memory, 0, -1
        self.dr, self.df, self.products = c.new_empty(shape), c.new_empty(shape), c.new_empty(shape)
        self.gram = c.new_zeros((shape[0], memory, memory), dtype=torch.float64)
        self.identity = torch.eye(memory, dtype=torch.float64, device=c.device)
        self.least = self.mark = np.full(shape[0], np.inf)
        self.tired = np.zeros(shape[0], dtype=bool)  # rows that acceleration does not help
        self.regularisation = REGULARISATION.get(c.dtype, 1e-14)

    def solve(self, x: Tensor, step: int) -> None:
        """From x until every row has left, or to the last step."""
        goal, front = self.goal, self.front
        image = front.rows.step(x, torch.empty_like(x))
        residual, next_x = image - x, image
        size = on_host(goal.size(residual))
        step, first = step + 1, step + 1
        while True:
            step += 1
            x = next_x
            new_image = front.rows.step(x, torch.empty_like(x))
            new_residual = new_image - x
            new_size = on_host(goal.size(new_residual))
            if front.look(new_size, x, new_image, step):
                return
            if step >= goal.max_steps:
                front.suspend(x, new_image)
                return
            kept = front.drop(DROP_SHARE)
            if kept is not None:
                self._keep(kept)
                pick = (image, residual, new_image, new_residual)
                image, residual, new_image, new_residual = (given.index_select(0, kept) for given in pick)
                size, new_size = size[kept.cpu().numpy()], new_size[kept.cpu().numpy()]
            self._remember(image, residual, new_image, new_residual)
            self._forget(new_size > RESTART_GROWTH * size)
            next_x = self._mix(new_image, new_residual)
            self._note(new_size, step - first)
            if self.tired.any():
                tired = on_device(self.tired, x)[:, None]
                next_x = torch.where(tired, self._plain(new_image, new_residual), next_x)
            image, residual, size = new_image, new_residual, new_size

    def _remember(self, image: Tensor, residual: Tensor, new_image: Tensor, new_residual: Tensor) -> None:
        """Enter the newest differences, in place of the oldest, and their row of the Gram matrix."""
        self.slot = (self.slot + 1) % self.memory
        self.used = min(self.used + 1, self.memory)
        newest = new_residual - residual
        self.dr[:, self.slot] = newest
        torch.sub(new_image, image, out=self.df[:, self.slot])
        products = self._products(newest)
        self.gram[:, self.slot, : self.used] = products
        self.gram[:, : self.used, self.slot] = products

    def _products(self, vector: Tensor) -> Tensor:
        """⟨dr_i, vector⟩ for each row: (rows, used), float64. (A batched product would be slower.)"""
        here = self.products[: len(vector), : self.used]
        return torch.mul(self.dr[:, : self.used], vector[:, None], out=here).sum(2).double()

    def _mix(self, image: Tensor, residual: Tensor) -> Tensor:
        """f − Σ γ_i df_i, with γ that makes ‖r − Σ γ_i dr_i‖₂ least, row by row."""
        used = self.used
        gram = self.gram[:, :used, :used]
        shift = gram.diagonal(dim1=1, dim2=2).amax(1).mul_(self.regularisation).add_(1e-300)
        shifted = torch.addcmul(gram, shift[:, None, None], self.identity[:used, :used])
        gamma = torch.linalg.solve_ex(shifted, self._products(residual).unsqueeze(2))[0]
        gamma = gamma.nan_to_num_(0.0, 0.0, 0.0).to(image.dtype)
        if image.shape[1] >= PRODUCT_SIZE:
            mixed = torch.baddbmm(image[:, None], gamma.transpose(1, 2), self.df[:, :used], alpha=-1)
            return mixed.squeeze(1)
        mixed = image
        for i in range(used):
            mixed = torch.addcmul(mixed, self.df[:, i], gamma[:, i], value=-1)
        return mixed

    def _forget(self, outrun: Figures) -> None:
        """Empty the histories of rows whose residual has jumped."""
        if outrun.any():
            rows = on_device(np.flatnonzero(outrun), self.dr)
            self.dr.index_fill_(0, rows, 0.0)
            self.gram.index_fill_(0, rows, 0.0)

    def _note(self, size: Figures, steps: int) -> None:
        """See, once in PATIENCE steps, whom acceleration does not help."""
        self.least = np.fmin(self.least, size)
        if steps % PATIENCE == 0:
            self.tired |= ~(self.least < PROGRESS * self.mark)
            self.mark = self.least

    def _plain(self, image: Tensor, residual: Tensor) -> Tensor:
        """A step without acceleration: the image if such steps are proved to converge, else an average."""
        return image if self.goal.contracts else image - 0.5 * residual

    def _keep(self, kept: Tensor) -> None:
        """Only these rows from now on."""
        self.dr, self.df = self.dr.index_select(0, kept), self.df.index_select(0, kept)
        self.gram = self.gram.index_select(0, kept)
        places = kept.cpu().numpy()
        self.least, self.mark, self.tired = self.least[places], self.mark[places], self.tired[places]
