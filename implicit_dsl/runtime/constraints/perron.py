"""The Perron root of |A| at most κ, through a positive vector v with |A| v ≤ κ v."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints.base import (
    Block,
    Constraint,
    ConstraintError,
    Weights,
    inward,
    like_rows,
    matrix_rows,
)
from implicit_dsl.runtime.constraints.budgets import Group, Part
from implicit_dsl.runtime.constraints.rows import dtype_of, nearest_in_all

_POWER_STEPS = 2000  # of the power iteration
_TIGHT = 1e-6  # relative distance of the two bounds of the Perron root at which it ends
_ROOM = 1e-5  # by which a projection stays below κ, so that this iteration sees that it is
_LEFT = 0.1  # of what constant operators leave of a row, at least for its parameters
_NEARLY = 1.01  # so near to κ, an upper bound may be above it only as it is not sharp
_UNIFORM = 1e-6  # of the constant vector, so that v stays positive where |A| is reducible


@dataclass(frozen=True)
class PerronBound(Constraint):
    """The Perron root (spectral radius) of |A| over the given blocks is at most `bound`.

    A convolution counts by its channels, N[o, c] = Σ|K[o, c]|: v is constant on a channel, so
    that |A| v ≤ N v. `nearest` takes v, the Perron vector of N, and projects rows onto
    Σⱼ |Aᵢⱼ| vⱼ ≤ κ vᵢ, which is the nearest point for this v; the set itself is not convex (Tsai,
    Gu and El Ghaoui 2024). `made` conjugates rows within their budget by e^d, with free d.
    """

    convex = False

    @property
    def measure(self) -> str:
        return "an upper bound of the Perron root"

    def measured(self, weights: Weights) -> float:
        N, places = self._matrix(weights)
        return _perron(N, self._used(N, places), self.bound)[1]

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        N, places = self._matrix(weights)
        v, upper = _perron(N, self._used(N, places), self.bound)
        if upper <= self.bound:
            return dict(weights)
        target = inward(self.bound, dtype_of(weights)) * (1 - _ROOM)
        v = self._with_room(v, self._used(N, places), places, target)
        groups = self._groups(weights, v, places, target)
        found = nearest_in_all(groups, weights)
        return {id: found[id].to(weights[id].dtype) for id in weights}

    def made(self, weights: Weights) -> dict[str, Tensor]:
        rows: dict[str, list[Block]] = {}
        for block in self.blocks:
            rows.setdefault(block.row, []).append(block)
        found = dict(weights)
        target = inward(1.0, dtype_of({block.tensor: weights[block.tensor] for block in self.blocks}))
        for row, blocks in rows.items():
            budget = (self.bound - float(self.fixed.get(row, 0.0))) * target
            sums = torch.stack(
                [matrix_rows(weights[b.tensor], b.axis).abs().sum(1) * abs(b.factor) for b in blocks]
            ).sum(0)
            factor = budget / sums.clamp_min(budget)
            for block in blocks:
                made = matrix_rows(weights[block.tensor], block.axis) * factor[:, None]
                left, right = weights[_scale(block.row)], weights[_scale(block.column)]
                spread = (left[:, None] - _per_entry(right, weights[block.tensor], block)).exp()
                found[block.tensor] = like_rows(made * spread, weights[block.tensor], block.axis)
        return found

    def extra_shapes(self, weights: Weights) -> dict[str, tuple[int, ...]]:
        if any(self.fixed.values()):
            raise ConstraintError(f'`{self.text}`: constant operators in the loop need method = "project"')
        if len(self.tensors) < len(self.blocks):
            raise ConstraintError(
                f'`{self.text}`: a tensor that stands in two places needs method = "project"'
            )
        return {_scale(name): (size,) for name, (_, size) in self._places(weights).items()}

    def _places(self, weights: Weights) -> dict[str, tuple[int, int]]:
        """Where the channels of each state are in N: first and how many."""
        sizes: dict[str, int] = {}
        for block in self.blocks:
            shape = weights[block.tensor].movedim(block.axis, 0).shape
            for name, size in ((block.row, shape[0]), (block.column, shape[1])):
                if sizes.setdefault(name, size) != size:
                    raise ConstraintError(
                        f"`{self.text}` (line {self.line}): the blocks of `{name}` have {sizes[name]} and "
                        f"{size} channels; bound the matrices one by one"
                    )
        for name in self.fixed:
            sizes.setdefault(name, 1)  # a state that reads and is read by constant operators alone
        places: dict[str, tuple[int, int]] = {}
        total = 0
        for name, size in sizes.items():
            places[name] = (total, size)
            total += size
        return places

    def _matrix(self, weights: Weights) -> tuple[Tensor, dict[str, tuple[int, int]]]:
        """N over all channels, and where the channels of each state are."""
        places = self._places(weights)
        total = sum(size for _, size in places.values())
        device = next(iter(weights.values())).device
        whole = torch.zeros(total, total, dtype=torch.float64, device=device)
        for block in self.blocks:
            (i, rows), (j, cols) = places[block.row], places[block.column]
            whole[i : i + rows, j : j + cols] += abs(block.factor) * _channels(
                weights[block.tensor], block.axis
            )
        return whole, places

    def _used(self, N: Tensor, places: Mapping[str, tuple[int, int]]) -> Tensor:
        """The gains of constant operators for each channel: they may read any state, so that they count
        with the largest entry of v."""
        used = N.new_zeros(len(N))
        for name, gain in self.fixed.items():
            start, size = places[name]
            used[start : start + size] = gain
        return used

    def _with_room(
        self, v: Tensor, used: Tensor, places: Mapping[str, tuple[int, int]], target: float
    ) -> Tensor:
        """v, made larger where constant operators need it: no projection changes used · max v ≤ κ v."""
        share = used / target
        for name in {block.row for block in self.blocks}:
            start, size = places[name]
            mixed = share[start : start + size]
            share[start : start + size] = torch.where(mixed > 0, mixed + _LEFT * (1 - mixed), mixed)
        return torch.maximum(v, share * v.max())

    def _groups(
        self, weights: Weights, v: Tensor, places: Mapping[str, tuple[int, int]], target: float
    ) -> list[Group]:
        rows: dict[str, dict[tuple[str, int], Tensor]] = {}
        for block in self.blocks:
            weight = weights[block.tensor]
            start, size = places[block.column]
            entries = _per_entry(v[start : start + size], weight, block) * abs(block.factor)
            parts = rows.setdefault(block.row, {})
            key = (block.tensor, block.axis)
            parts[key] = parts[key] + entries if key in parts else entries
        found = []
        for row, parts in rows.items():
            start, size = places[row]
            radius = target * v[start : start + size] - float(self.fixed.get(row, 0.0)) * v.max()
            if not bool((radius > 0).all()):
                raise ConstraintError(
                    f"`{self.text}` (line {self.line}) cannot be projected onto: constant operators use up "
                    f"the rows of `{row}`"
                )
            listed = tuple(Part(id, axis, entries) for (id, axis), entries in parts.items())
            found.append(Group(listed, radius))
        return found


def _scale(name: str) -> str:
    """The attribute of the free d of a state."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_") + "_scale"


def _channels(weight: Tensor, axis: int) -> Tensor:
    """|T| as rows × columns, the sizes of a kernel's taps added up; the groups of a kernel side by side."""
    matrix = weight.detach().double().movedim(axis, 0).abs()
    return matrix.flatten(2).sum(2) if matrix.ndim > 2 else matrix


def _per_entry(vector: Tensor, weight: Tensor, block: Block) -> Tensor:
    """For each entry of the rows of a tensor [rows, entries], the number of its column."""
    shape = weight.movedim(block.axis, 0).shape
    taps = weight.numel() // (shape[0] * shape[1])
    return vector.repeat_interleave(taps).expand(shape[0], -1)


def _perron(N: Tensor, used: Tensor, wanted: float) -> tuple[Tensor, float]:
    """v > 0 and max (M v)ᵢ / vᵢ for M v = N v + used · max v: an upper bound of the Perron root.

    Power iteration between the bounds of Collatz and Wielandt, which hold for M too: it is
    monotone and homogeneous.
    """
    v = torch.ones(len(N), dtype=N.dtype, device=N.device)
    best, upper = v, float("inf")
    for _ in range(_POWER_STEPS):
        image = N @ v + used * v.max()
        ratios = image / v
        if float(ratios.max()) < upper:
            best, upper = v, float(ratios.max())
        if upper <= wanted or upper - float(ratios.min()) <= _TIGHT * upper:
            break
        image = image + v  # shifted: periodic matrices converge too
        v = image / image.max() + _UNIFORM
    if wanted < upper < _NEARLY * wanted:
        resolved = _resolved(N, used, wanted * (1 - _ROOM / 4), int(best.argmax()))
        if resolved is not None and float(((N @ resolved + used * resolved.max()) / resolved).max()) < upper:
            best, upper = resolved, float(((N @ resolved + used * resolved.max()) / resolved).max())
    return best, upper * (1 + (len(N) + 2) * torch.finfo(torch.float64).eps)


def _resolved(N: Tensor, used: Tensor, root: float, top: int) -> Tensor | None:
    """v = (s I − N − used eᵀ)⁻¹ 1 for s = `root` and e the unit vector of `top`, if it is positive.

    Then N v + used v_top = s v − 1 < s v, which no power iteration finds where N is reducible: its Perron
    vector has zeros. It proves Perron roots below s, if v is largest at `top` (or nothing is `used`).
    """
    matrix = root * torch.eye(len(N), dtype=N.dtype, device=N.device) - N
    matrix[:, top] -= used
    v, singular = torch.linalg.solve_ex(matrix, torch.ones_like(used))
    usable = int(singular) == 0 and bool(torch.isfinite(v).all()) and bool((v > 0).all())
    return v / v.max() if usable else None
