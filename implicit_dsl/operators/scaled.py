"""Bounds of normalised sets of numbers on boxes: y = c ÷ √(Σ c² ÷ n + ε), c = z − μ or z itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.joint import Planes, by_derivatives, closest, rounded
from implicit_dsl.operators.relaxation import LIBRARY, mean_slopes, outwards

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Ends: TypeAlias = "tuple[np.ndarray, np.ndarray]"


@dataclass(frozen=True)
class Scaled:
    """y on the box between `lower` and `upper` [batch, sets, n], which may be infinite."""

    lower: np.ndarray
    upper: np.ndarray
    eps: float
    centred: bool

    @property
    def _most(self) -> np.ndarray:
        return np.asarray(np.maximum(np.abs(self.lower), np.abs(self.upper)))

    @property
    def _size(self) -> int:
        return int(self.lower.shape[-1])

    @cached_property
    def _centre(self) -> Ends:
        """Bounds of c, rounded outwards."""
        low, high = self.lower, self.upper
        if not self.centred:
            return low, high
        with np.errstate(invalid="ignore"):
            lost = 4 * LIBRARY * self._most.max(-1, keepdims=True)
            others = [bound.sum(-1, keepdims=True) - bound for bound in (low, high)]
            least = low - (low + others[1]) / self._size - lost
            largest = high - (high + others[0]) / self._size + lost
        return np.where(np.isnan(least), -np.inf, least), np.where(np.isnan(largest), np.inf, largest)

    @cached_property
    def scales(self) -> Ends:
        """Bounds of √(Σ c² ÷ n + ε), [batch, sets]."""
        low, high = (np.sqrt(some.mean(-1) + self.eps) for some in _squares(*self._centre))
        return np.maximum(low * (1 - 8 * LIBRARY), math.sqrt(self.eps)), high * (1 + 8 * LIBRARY)

    @cached_property
    def ends(self) -> Ends:
        """Bounds of y, which increases with its own c: y = c ÷ √(c² ÷ n + r).

        r is ε and what the squares of the others add, of which the sum is −c where they are centred.
        """
        n, (least, largest) = self._size, self._centre
        others = 1 / (n * (n - 1)) if self.centred else 0.0
        few, many = ((some.sum(-1, keepdims=True) - some) / n for some in _squares(least, largest))
        made = []
        for c, sign in ((least, -1), (largest, 1)):
            rest = np.maximum(np.where(sign * c > 0, few, many), c * c * others) + self.eps
            y = c / np.sqrt(c * c / n + rest)
            made.append(y + sign * 16 * LIBRARY * (1 + np.abs(y)))
        most = math.sqrt(n - 1 if self.centred else n) * (1 + 1e-12)
        return outwards(made[0], made[1], -most, most)

    @property
    def _lost(self) -> np.ndarray:
        """What rounding makes of y in the middle: a small scale makes more of what it leaves of c."""
        return np.asarray(4 * LIBRARY * self._most.max(-1, keepdims=True) / self.scales[0][..., None])

    def planes(
        self, value: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[Sequence[Planes], Sequence[Planes]]:
        """Linear bounds below and above, from y in the middle, and its bounds.

        By the derivatives, or with the scale between its bounds, and c as it is: linear in z.
        """

        def slopes(lower: np.ndarray, upper: np.ndarray) -> Ends:
            inner = replace(self, lower=lower, upper=upper)
            return inner._jacobian(*inner._near(value))

        least, most = mean_slopes(slopes, self.lower, self.upper)
        near = by_derivatives(value, least, most, self.lower, self.upper)
        middle = (self.lower + self.upper) / 2
        below, above = (
            closest([one.moved(sign * self._lost), other], end, middle, sign)
            for one, other, end, sign in zip(near, self._between(), (low, high), (-1, 1))
        )
        return below, above

    def _near(self, value: np.ndarray) -> Ends:
        """Bounds of y, also by how far it moves: J is P ÷ s with 0 ⪯ P ⪯ I − 11ᵀ ÷ n."""
        n, half = self._size, (self.upper - self.lower) / 2
        own = 1 - 1 / n if self.centred else 1.0
        moved = (own * half + 0.5 * (half.sum(-1, keepdims=True) - half)) / self.scales[0][..., None]
        moved = moved * (1 + 8 * LIBRARY) + self._lost + 16 * LIBRARY
        low, high = self.ends
        return np.maximum(low, value - moved), np.minimum(high, value + moved)

    def _jacobian(self, low: np.ndarray, high: np.ndarray) -> Ends:
        """Bounds of J = (I − 11ᵀ ÷ n − yyᵀ ÷ n) ÷ √(Σ c² ÷ n + ε), [batch, sets, n, n].

        Without the quotient it is a matrix between 0 and I: its other entries are at most ½.
        """
        n = self._size
        own = np.eye(n, dtype=bool)
        products = [a[..., :, None] * b[..., None, :] for a in (low, high) for b in (low, high)]
        least, most = np.minimum.reduce(products), np.maximum.reduce(products)
        least, most = (np.where(own, s[..., None], p) for s, p in zip(_squares(low, high), (least, most)))
        fixed, whole = (own - 1 / n, 1 - 1 / n) if self.centred else (own.astype(float), 1.0)
        bottom = np.maximum(fixed - most / n, np.where(own, 0.0, -0.5))
        top = np.minimum(fixed - least / n, np.where(own, whole, 0.5))
        bottom, top = np.minimum(bottom, top), np.maximum(bottom, top)
        large, small = (1 / scale[..., None, None] for scale in self.scales)
        slack = 8 * LIBRARY * large
        least, most = np.minimum(bottom * large, bottom * small), np.maximum(top * large, top * small)
        return least - slack, most + slack

    def _between(self) -> tuple[Planes, Planes]:
        """Of c ÷ s for any of the scales s: the least is concave in c, and the most convex, with a chord."""
        low, high = self._centre
        unit = np.eye(self._size) - (1 / self._size if self.centred else 0.0)
        wide = high > low
        made = []
        for sign, choose in ((-1, np.minimum), (1, np.maximum)):
            first, last = (choose(*(c / scale[..., None] for scale in self.scales)) for c in (low, high))
            slope = np.where(wide, (last - first) / np.where(wide, high - low, 1.0), 0.0)
            sizes = np.abs(first) + np.abs(last) + np.abs(slope) * self._most.max(-1, keepdims=True)
            offset = choose(first - slope * low, last - slope * high) + sign * 16 * LIBRARY * (1 + sizes)
            made.append(rounded(Planes(slope[..., None] * unit, offset), self._most, sign))
        return made[0], made[1]


def _squares(low: np.ndarray, high: np.ndarray) -> Ends:
    """Bounds of the squares of what lies between."""
    ends = low * low, high * high
    return np.where((low <= 0) & (high >= 0), 0.0, np.minimum(*ends)), np.maximum(*ends)
