"""Nearest points of weighted row sums whose rows share numbers, as those of a symmetric matrix do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_DUAL_STEPS = 200
_BALANCED = 1e-13  # of the budgets: by how much rows may be outside, or off a budget that they are held to
_LEAST_DAMPING, _LESS_DAMPED, _MORE_DAMPED, _MOST_DAMPING = (
    1e-14,
    0.1,
    100.0,
    1e6,
)  # relative to the largest diagonal entry
_DESCENT, _MOST_HALVINGS = 1e-4, 12
_DENSE = 4  # entries of a full N for each that is not zero, at most
_PAIR_COST = 50  # multiplications that a pair of entries costs as much as


@dataclass(frozen=True)
class SharedRows:
    """Rows Σ weight · |x[number]| ≤ radius[row] over lists of entries (row, number, weight), all ≥ 0.

    `rows`, `numbers` and `weights` are [entries], `radius` [rows] > 0. `masses` [numbers] > 0 are those of
    the distance Σ mass (x − a)²: how often a number stands in a matrix. Where `plain` [numbers] holds, x
    stands in place of |x|.
    """

    rows: Tensor
    numbers: Tensor
    weights: Tensor
    radius: Tensor
    masses: Tensor
    plain: Tensor | None = None

    def nearest(self, a: Tensor) -> Tensor:
        """argmin Σ mass (x − a)² in float64, for a [numbers].

        With multipliers θ ≥ 0 of the rows it is x = sign(a) max(|a| − Nᵀθ ÷ mass, 0), N the matrix of the
        weights, and a − Nᵀθ ÷ mass where it is plain. The dual function ½ Σ mass x² + θ·radius is convex
        with gradient radius − N|x|, and is minimised by projected Newton steps (Bertsekas 1982) with
        N diag([x ≠ 0] ÷ mass) Nᵀ.
        """
        size, theta = self._sizes(a), torch.zeros_like(self.radius)
        value, gradient, x = self._dual(size, theta)
        scale, damping = float(self.radius.abs().max()), _LEAST_DAMPING
        for _ in range(_DUAL_STEPS):
            free = (theta > 0) | (gradient < 0)
            if not bool(free.any()) or float(gradient[free].abs().max()) <= _BALANCED * scale:
                break
            H = self._curvature(x)[free][:, free]
            found, least = None, float((self.weights**2 / self.masses[self.numbers]).min())
            while found is None and damping < _MOST_DAMPING:
                found = self._descent(size, theta, value, gradient, free, _damped(H, damping, least))
                damping = (
                    damping * _MORE_DAMPED if found is None else max(damping * _LESS_DAMPED, _LEAST_DAMPING)
                )
            if found is None:
                break  # no step goes down: rounding is reached
            theta, value, gradient, x = found
        return x.copysign(a) if self.plain is None else torch.where(self.plain, x, x.copysign(a))

    def _descent(
        self, size: Tensor, theta: Tensor, value: float, gradient: Tensor, free: Tensor, H: Tensor
    ) -> tuple[Tensor, float, Tensor, Tensor] | None:
        """A point with a lower value on the way of a step −H⁻¹ ∇ of the free rows, and what is there."""
        inverse, wrong = torch.linalg.solve_ex(H, gradient[free])
        if int(wrong):
            return None
        step = torch.zeros_like(gradient)
        step[free] = inverse
        for _ in range(_MOST_HALVINGS):
            tried = (theta - step).clamp_min(0.0)
            made = self._dual(size, tried)
            if made[0] < value + _DESCENT * float(gradient @ (tried - theta)):
                return tried, *made
            step = step / 2
        return None

    def sums(self, x: Tensor) -> Tensor:
        """N |x| [rows], with x itself where it is plain."""
        sizes = self._sizes(x)
        if self._full is not None:
            return self._full @ sizes
        return torch.zeros_like(self.radius).index_add_(0, self.rows, self.weights * sizes[self.numbers])

    @cached_property
    def _full(self) -> Tensor | None:
        """N [rows, numbers], if it is not much larger than the list of its entries."""
        rows, numbers = len(self.radius), len(self.masses)
        if rows * numbers > _DENSE * len(self.rows):
            return None
        N = torch.zeros(rows * numbers, dtype=self.weights.dtype, device=self.weights.device)
        return N.index_add_(0, self.rows * numbers + self.numbers, self.weights).reshape(rows, numbers)

    def _sizes(self, x: Tensor) -> Tensor:
        return x.abs() if self.plain is None else torch.where(self.plain, x, x.abs())

    def _dual(self, size: Tensor, theta: Tensor) -> tuple[float, Tensor, Tensor]:
        if self._full is not None:
            cut = theta @ self._full
        else:
            cut = torch.zeros_like(size).index_add_(0, self.numbers, self.weights * theta[self.rows])
        moved = size - cut / self.masses
        x = moved.clamp_min(0.0) if self.plain is None else torch.where(self.plain, moved, moved.clamp_min(0))
        value = float(0.5 * (self.masses * x * x).sum() + theta @ self.radius)
        return value, self.radius - self.sums(x), x

    def _curvature(self, x: Tensor) -> Tensor:
        """N diag([x > 0 or plain] ÷ mass) Nᵀ [rows, rows]."""
        kept = x > 0 if self.plain is None else (x > 0) | self.plain
        if self._full is not None:
            N = self._full * (kept / self.masses).sqrt()
            return N @ N.mT
        entry = kept[self.numbers]
        rows, weights, numbers = self.rows[entry], self.weights[entry], self.numbers[entry]
        weights = weights * self.masses[numbers].rsqrt()
        held = int(kept.sum())
        most = int(torch.bincount(numbers).max()) if held else 0
        if held * len(self.radius) ** 2 <= _PAIR_COST * most * len(numbers):
            N = x.new_zeros(len(self.radius), held)
            N[rows, (kept.cumsum(0) - 1)[numbers]] = weights
            return N @ N.mT
        order = numbers.argsort(stable=True)
        rows, weights, numbers = rows[order], weights[order], numbers[order]
        H = x.new_zeros(len(self.radius), len(self.radius))
        for apart in range(len(numbers)):  # pairs of entries of one number, as far apart in the list
            first, second = slice(0, len(numbers) - apart), slice(apart, None)
            same = numbers[first] == numbers[second]
            if not bool(same.any()):
                break
            i, j = rows[first][same], rows[second][same]
            pairs = (weights[first] * weights[second])[same]
            H.index_put_((i, j), pairs, accumulate=True)
            if apart:
                H.index_put_((j, i), pairs, accumulate=True)
        return H


def _damped(H: Tensor, damping: float, least: float) -> Tensor:
    """H with a little added to its diagonal: rows may share all their numbers, or have none left."""
    added = damping * max(float(H.diagonal().max()), least)
    return H + added * torch.eye(len(H), dtype=H.dtype, device=H.device)
