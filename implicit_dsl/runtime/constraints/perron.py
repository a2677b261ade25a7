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
_SLOW = 0.9  # a gap that shrinks by less in a step
_LOOKS, _STALLED = 25, 1e-8  # steps, and by how much the upper bound falls in so many, at least
_ROOM = 1e-5  # by which a projection stays below κ, so that this iteration sees that it is
_LEFT = 0.1  # of what constant operators leave of a row, at least for its parameters
_NEARLY = 1.01  # so near to κ, an upper bound may be above it only as it is not sharp
_NOTHING = 1e-300  # the budget of a tensor that is zero
_POLICIES = 30  # times that the largest rows are taken
_EARLY, _LITTLE = 32, 0.1  # the step at which bounds with this ratio say little
_UNIFORM = 1e-6  # of the constant vector, so that v stays positive where |A| is reducible


@dataclass(frozen=True)
class PerronBound(Constraint):
    """The Perron root (spectral radius) of |A| over the given blocks is at most `bound`.

    A convolution counts by its channels, N[o, c] = Σ|K[o, c]|: v is constant on a channel, so
    that |A| v ≤ N v. On states that are `whole` it is constant, where channels of several blocks do not
    line up: there the largest row of each tensor counts. `nearest` takes v, the Perron vector of N, and
    projects rows onto Σⱼ |Aᵢⱼ| vⱼ ≤ κ vᵢ, which is the nearest point for this v; the set itself is not
    convex (Tsai, Gu and El Ghaoui 2024). Tensors in the rows of a whole state share its budget in
    proportion to their largest rows: feasible, not nearest. `made` conjugates rows within their budget
    by e^d, with free d.
    """

    convex = False
    whole: tuple[str, ...] = ()

    @property
    def measure(self) -> str:
        return "an upper bound of the Perron root"

    def measured(self, weights: Weights) -> float:
        return _perron(self._gains(weights, self._places(weights)), self.bound)[1]

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        places = self._places(weights)
        gains = self._gains(weights, places)
        v, upper = _perron(gains, self.bound)
        if upper <= self.bound:
            return dict(weights)
        target = inward(self.bound, dtype_of(weights)) * (1 - _ROOM)
        v = self._with_room(v, gains.used, places, target)
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
            shape = _rows(weights[block.tensor], block.axis).shape
            for name, size in ((block.row, shape[0]), (block.column, shape[1])):
                if name in self.whole:
                    sizes.setdefault(name, 1)
                elif sizes.setdefault(name, size) != size:
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

    def _gains(self, weights: Weights, places: Mapping[str, tuple[int, int]]) -> _Gains:
        """How much each channel reads of all, a row for each channel and for each row of a whole state."""
        total = sum(size for _, size in places.values())
        device = next(iter(weights.values())).device
        rows: dict[tuple[str, str, int], Tensor] = {}  # by state, and for whole ones by tensor
        for block in self.blocks:
            sizes = abs(block.factor) * _channels(weights[block.tensor], block.axis)
            start, size = places[block.column]
            if block.column in self.whole:
                sizes = sizes.sum(1, keepdim=True)
            key = (block.row, *((block.tensor, block.axis) if block.row in self.whole else ("", 0)))
            if key not in rows:
                rows[key] = torch.zeros(len(sizes), total, dtype=torch.float64, device=device)
            rows[key][:, start : start + size] += sizes
        parts, channels, count = [], [], 0
        for (row, _, _), made in rows.items():
            order = torch.arange(1 if row in self.whole else len(made), device=device)
            parts.append((order + count).expand(len(made)))
            channels.append(order + places[row][0])
            count += len(order)
        used = torch.zeros(total, dtype=torch.float64, device=device)
        for name, gain in self.fixed.items():
            start, size = places[name]
            used[start : start + size] = gain
        return _Gains(torch.cat([*rows.values()]), torch.cat(parts), torch.cat(channels), used)

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
            entries = _per_entry(v[start : start + size] * abs(block.factor), weight, block)
            parts = rows.setdefault(block.row, {})
            key = (block.tensor, block.axis)
            parts[key] = parts[key] + entries if key in parts else entries
        found = []
        for row, parts in rows.items():
            start, size = places[row]  # the fixed operators count with the largest entry of v
            radius = target * v[start : start + size] - float(self.fixed.get(row, 0.0)) * v.max()
            if not bool((radius > 0).all()):
                raise ConstraintError(
                    f"`{self.text}` (line {self.line}) cannot be projected onto: constant operators use up "
                    f"the rows of `{row}`"
                )
            listed = tuple(Part(id, axis, entries) for (id, axis), entries in parts.items())
            group = Group(listed, radius)
            found += self._shared_out(group, weights) if row in self.whole else [group]
        return found

    def _shared_out(self, group: Group, weights: Weights) -> list[Group]:
        """The budget of a whole state as one for each of its tensors, in proportion to their largest rows."""
        alone = [Group((part,), group.radius) for part in group.parts]
        tops = torch.stack([one.sums(weights).max() for one in alone])
        shares = group.radius * tops / tops.sum().clamp_min(_NOTHING)
        shares = group.radius if len(alone) == 1 else shares.clamp_min(_NOTHING)
        sizes = [len(part.weights) for part in group.parts]
        return [Group(one.parts, share.expand(n)) for one, share, n in zip(alone, shares, sizes)]


def _scale(name: str) -> str:
    """The attribute of the free d of a state."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_") + "_scale"


def _channels(weight: Tensor, axis: int) -> Tensor:
    """|T| as rows × columns, the sizes of a kernel's taps added up; the groups of a kernel side by side."""
    matrix = _rows(weight.detach().double(), axis).abs()
    return matrix.flatten(2).sum(2) if matrix.ndim > 2 else matrix


def _rows(weight: Tensor, axis: int) -> Tensor:
    """A tensor by its rows; a vector of factors has one entry in each."""
    made = weight.movedim(axis, 0)
    return made[:, None] if made.ndim == 1 else made


def _per_entry(vector: Tensor, weight: Tensor, block: Block) -> Tensor:
    """For each entry of the rows of a tensor [rows, entries], the number of its column."""
    shape = _rows(weight, block.axis).shape
    if len(vector) == 1:  # a whole state, or one channel
        return vector.expand(shape[0], weight.numel() // shape[0])
    taps = weight.numel() // (shape[0] * shape[1])
    return vector.repeat_interleave(taps).expand(shape[0], -1)


@dataclass(frozen=True)
class _Gains:
    """M(v) = Σ over parts of the largest row of F v, + used · max v: monotone, homogeneous, subadditive.

    `rows` F is [rows, channels]; `part` [rows] numbers what the largest is taken of, most often one row
    alone, and `channel` [parts] says which channel that is of. `used` [channels] are the gains of constant
    operators: they may read any state, so that they count with the largest entry of v.
    """

    rows: Tensor
    part: Tensor
    channel: Tensor
    used: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        values = self.rows @ v
        if len(self.channel) < len(values):
            values = self._largest(values)
        return torch.zeros_like(v).index_add_(0, self.channel, values) + self.used * v.max()

    def at(self, v: Tensor) -> Tensor:
        """N [channels, channels] of the rows that are the largest at v: N v + used · max v = M(v)."""
        values = self.rows @ v
        order = torch.arange(len(values), device=values.device)
        best = torch.where(values >= self._largest(values)[self.part], order, -1)
        best = torch.full_like(self.channel, -1).scatter_reduce(0, self.part, best, "amax")
        return self.rows.new_zeros(len(v), len(v)).index_add_(0, self.channel, self.rows[best])

    def _largest(self, values: Tensor) -> Tensor:
        """The largest of each part, of numbers that are not negative."""
        return values.new_zeros(len(self.channel)).scatter_reduce(0, self.part, values, "amax")


def _perron(gains: _Gains, wanted: float) -> tuple[Tensor, float]:
    """v > 0 and max M(v)ᵢ / vᵢ: an upper bound of the Perron root.

    Power iteration between the bounds of Collatz and Wielandt, which hold for M: it is monotone and
    homogeneous. Where it says little, as loops that are nearly none make M, a linear system does.
    """
    v = torch.ones_like(gains.used)
    best, upper, gap, shift, seen = v, float("inf"), float("inf"), 0.0, float("inf")
    for step in range(_POWER_STEPS):
        image = gains(v)
        ratios = image / v
        least, most = torch.stack((ratios.min(), ratios.max())).tolist()
        if most < upper:
            best, upper = v, most
        if upper <= wanted or upper - least <= _TIGHT * upper:
            break
        if step == _EARLY and least < _LITTLE * upper:
            best, upper = _better(gains, wanted, best, upper)
            if upper <= wanted:
                break
        if most - least > _SLOW * gap:
            shift = most  # of v in M v + shift v: periodic matrices converge too
        gap = most - least
        if step % _LOOKS == _LOOKS - 1:  # with a part of 1 in v, the bounds may stay apart
            if upper > (1 - _STALLED) * seen:
                break
            seen = upper
        image = image + shift * v if shift else image
        v = image / image.max() + _UNIFORM
    if wanted < upper < _NEARLY * wanted:
        best, upper = _better(gains, wanted, best, upper)
    return best, upper * (1 + (len(v) + 2) * torch.finfo(torch.float64).eps)


def _better(gains: _Gains, wanted: float, v: Tensor, upper: float) -> tuple[Tensor, float]:
    """v and its bound, or those of a linear system where these are better."""
    found = _resolved(gains, wanted * (1 - _ROOM / 4), v)
    bound = upper if found is None else float((gains(found) / found).max())
    return (v, upper) if found is None or bound >= upper else (found, bound)


def _resolved(gains: _Gains, root: float, v: Tensor) -> Tensor | None:
    """v = (s I − N − used eᵀ)⁻¹ 1 for s = `root` and e the unit vector of the largest entry, if positive.

    Then N v + used v_top = s v − 1 < s v, which no power iteration finds where N is reducible: its Perron
    vector has zeros. It proves Perron roots below s, if v is largest at `top` (or nothing is `used`), and
    if the rows that N is made of are the largest there; else these are taken next (Howard 1960).
    """
    found = None
    for _ in range(_POLICIES):
        matrix = root * torch.eye(len(v), dtype=v.dtype, device=v.device) - gains.at(v)
        matrix[:, int(v.argmax())] -= gains.used
        next_v, singular = torch.linalg.solve_ex(matrix, torch.ones_like(v))
        usable = int(singular) == 0 and bool(torch.isfinite(next_v).all()) and bool((next_v > 0).all())
        if not usable:
            return found
        v = found = next_v / next_v.max()
        if bool((gains(v) <= root * v).all()):
            break
    return found
