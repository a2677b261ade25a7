"""Anderson acceleration of many rows, each with its own coefficients and its own restarts.

D. G. Anderson, Iterative procedures for nonlinear integral equations, J. ACM 12 (1965); in the
difference form of H. Walker and P. Ni, SIAM J. Numer. Anal. 49 (2011).
"""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.results import Front, Results
from implicit_dsl.runtime.dense.rows import Rows

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
PIECE_ROWS = 32
DROP_SHARE = 4


def anderson(
    rows: Rows, x: Tensor, numbers: Tensor, results: Results, step: int, last: int, memory: int = MEMORY
) -> None:
    """Solve the rows of these numbers from x (rows, n), of which `step` steps are already counted."""
    size = max(PIECE_ROWS, PIECE_NUMBERS // max(1, x.shape[1]))
    for places in torch.split(torch.arange(len(x), device=x.device), size):
        piece = Piece(rows.take(numbers[places]), numbers[places], results, memory)
        piece.solve(x.index_select(0, places), step, last)


class Piece:
    """Some rows with their histories: differences of residuals and of images, newest at `slot`."""

    def __init__(self, rows: Rows, numbers: Tensor, results: Results, memory: int) -> None:
        self.front, self.goal = Front(rows, results, numbers), results.goal
        shape = (memory, *rows.c.shape)
        self.memory, self.used, self.slot = memory, 0, -1
        self.dr, self.df = rows.c.new_empty(shape), rows.c.new_empty(shape)
        self.products = rows.c.new_empty(shape)
        self.gram = rows.c.new_zeros(shape[1], memory, memory, dtype=torch.float64)
        self.least = rows.c.new_full(shape[1:2], float("inf"))
        self.mark, self.tired = self.least, torch.zeros_like(self.least, dtype=torch.bool)
        self.some_tired = False
        self.regularisation = REGULARISATION.get(rows.c.dtype, 1e-14)

    def solve(self, x: Tensor, step: int, last: int) -> None:
        """From x until every row has left, or to step `last`."""
        image = self.front.rows.step(x, torch.empty_like(x)).clone()
        residual, next_x = image - x, image.clone()
        size = self.goal.size(residual)
        step, first = step + 1, step + 1
        while True:
            step += 1
            x = next_x
            new_image = self.front.rows.step(x, torch.empty_like(x))
            new_residual = new_image - x
            new_size = self.goal.size(new_residual)
            result = self.goal.result(x, new_image)
            scale = self.goal.scale(result)
            if self.front.leave(new_size, scale, result, step):
                return
            if step >= last:
                self.front.suspend(new_size, scale, result, step)
                return
            kept = self.front.drop(DROP_SHARE)
            if kept is not None:
                self._keep(kept)
                pick = (image, residual, size, new_image, new_residual, new_size)
                image, residual, size, new_image, new_residual, new_size = (
                    given.index_select(0, kept) for given in pick
                )
            self._remember(image, residual, new_image, new_residual)
            self._forget(new_size > RESTART_GROWTH * size)
            next_x = self._mix(new_image, new_residual)
            self._note(new_size, step - first)
            if self.some_tired:
                next_x = torch.where(self.tired[:, None], self._plain(new_image, new_residual), next_x)
            image, residual, size = new_image, new_residual, new_size

    def _remember(self, image: Tensor, residual: Tensor, new_image: Tensor, new_residual: Tensor) -> None:
        """Enter the newest differences, in place of the oldest, and their row of the Gram matrix."""
        self.slot = (self.slot + 1) % self.memory
        self.used = min(self.used + 1, self.memory)
        torch.sub(new_residual, residual, out=self.dr[self.slot])
        torch.sub(new_image, image, out=self.df[self.slot])
        products = self._products(self.dr[self.slot])
        self.gram[:, self.slot, : self.used] = products
        self.gram[:, : self.used, self.slot] = products

    def _products(self, vector: Tensor) -> Tensor:
        """⟨dr_i, vector⟩ for each row: (rows, used), float64."""
        used = self.used
        torch.mul(self.dr[:used], vector, out=self.products[:used])
        return self.products[:used].sum(2).T.double()

    def _mix(self, image: Tensor, residual: Tensor) -> Tensor:
        """f − Σ γ_i df_i, with γ that makes ‖r − Σ γ_i dr_i‖₂ least, row by row."""
        used = self.used
        gram = self.gram[:, :used, :used]
        shift = gram.diagonal(dim1=1, dim2=2).amax(1).mul_(self.regularisation).add_(1e-300)
        shifted = gram + shift[:, None, None] * torch.eye(used, dtype=torch.float64, device=gram.device)
        gamma = torch.linalg.solve_ex(shifted, self._products(residual).unsqueeze(2))[0]
        gamma = gamma.squeeze(2).nan_to_num_(0.0, 0.0, 0.0).to(image.dtype)
        mixed = image.clone()
        for i in range(used):
            mixed.addcmul_(self.df[i], gamma[:, i : i + 1], value=-1)
        return mixed

    def _forget(self, outrun: Tensor) -> None:
        """Empty the histories of rows whose residual has jumped."""
        if bool(outrun.any()):
            self.dr[:, outrun] = 0
            self.gram[outrun] = 0

    def _note(self, size: Tensor, steps: int) -> None:
        """See, once in PATIENCE steps, whom acceleration does not help."""
        self.least = torch.minimum(self.least, size)
        if steps % PATIENCE == 0:
            self.tired |= ~(self.least < PROGRESS * self.mark)
            self.mark = self.least
            self.some_tired = bool(self.tired.any())

    def _plain(self, image: Tensor, residual: Tensor) -> Tensor:
        """A step without acceleration: the image if such steps are proved to converge, else an average."""
        return image if self.goal.contracts else image - 0.5 * residual

    def _keep(self, kept: Tensor) -> None:
        """Only these rows from now on."""
        self.dr, self.df = self.dr.index_select(1, kept), self.df.index_select(1, kept)
        self.gram = self.gram.index_select(0, kept)
        self.products = self.products[:, : len(kept)]
        self.least, self.mark, self.tired = self.least[kept], self.mark[kept], self.tired[kept]
