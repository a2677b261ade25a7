"""Linear bounds of functions of whole sets of slots, as softmax and normalisation are: each entry reads all.

log Σ exp is convex. It lies above its tangent in the middle of a box, and below what the chords of its powers
make of it: exp(z) ≤ a + b z, and log s ≤ log s₀ + (s − s₀) ÷ s₀ (as in Wei et al. 2023, "Convex bounds on the
softmax function"). Other functions are bounded by intervals of their derivatives, by the mean value theorem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.relaxation import LIBRARY, Line, Lines

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

LARGEST = 256  # entries of a set that have lines; of larger ones these would not be worth their memory


@dataclass(frozen=True)
class Planes:
    """Linear functions of the n slots of each set: `slope` [batch, sets, entries, n], `offset`."""

    slope: np.ndarray
    offset: np.ndarray

    def at(self, z: np.ndarray) -> np.ndarray:
        """Their values for z [batch, sets, n], [batch, sets, entries]."""
        return np.asarray((self.slope * z[..., None, :]).sum(-1) + self.offset)

    def size(self, most: np.ndarray) -> np.ndarray:
        """The numbers that they are sums of, for |z| ≤ most."""
        return 1 + Planes(np.abs(self.slope), np.abs(self.offset)).at(most)

    def moved(self, by: np.ndarray) -> Planes:
        return Planes(self.slope, self.offset + by)


def rounded(planes: Planes, most: np.ndarray, sign: int) -> Planes:
    """With room for what rounding and NumPy's functions make of their numbers, for |z| ≤ most."""
    return planes.moved(sign * 32 * LIBRARY * planes.size(most))


def closest(
    candidates: Sequence[Planes], ends: np.ndarray, middle: np.ndarray, sign: int
) -> Sequence[Planes]:
    """The two of `candidates`, and of the constants `ends`, that are closest in the middle.

    sign: 1 for bounds above, −1 below. What is no number is left out.
    """
    constant = Planes(np.zeros_like(candidates[0].slope), ends)
    found = [constant]
    for one in candidates:
        usable = np.isfinite(one.slope).all(-1) & np.isfinite(one.offset)
        slope = np.where(usable[..., None], one.slope, 0.0)
        found.append(Planes(slope, np.where(usable, one.offset, ends)))
    order = np.argsort([sign * one.at(middle) for one in found], axis=0, kind="stable")[:2]
    slopes, offsets = np.stack([one.slope for one in found]), np.stack([one.offset for one in found])
    chosen = np.take_along_axis(slopes, order[..., None], 0), np.take_along_axis(offsets, order, 0)
    return [Planes(slope, offset) for slope, offset in zip(*chosen)]


def of_sets(slots: np.ndarray, below: Sequence[Planes], above: Sequence[Planes]) -> Lines:
    """As lines of the states, which are numbered as their slots, `slots` [sets, n]."""
    count = slots.size
    order = slots.reshape(-1)

    def by_state(values: np.ndarray) -> np.ndarray:
        made = np.empty((*values.shape[:-2], count), values.dtype)
        made[..., order] = values.reshape(*values.shape[:-2], count)
        return made

    def made(planes: Planes) -> Line:
        return Line(by_state(np.moveaxis(planes.slope, -1, 1)), by_state(planes.offset))

    index = by_state(np.broadcast_to(slots.T[:, :, None], (slots.shape[1], *slots.shape)))
    return Lines(index, tuple(map(made, below)), tuple(map(made, above)))


def log_sum_exp(lower: np.ndarray, upper: np.ndarray) -> tuple[Planes, Planes]:
    """log Σ exp over each set, between planes: boxes [batch, sets, n], one entry."""
    middle, top = (lower + upper) / 2, upper.max(-1, keepdims=True)
    powers = np.exp(middle - top)
    total = powers.sum(-1, keepdims=True)
    tangent = powers / total
    value = (top + np.log(total))[..., 0]
    below = Planes(tangent[..., None, :], (value - (tangent * middle).sum(-1))[..., None])
    slope, offset = _chords(lower - top, upper - top)
    at = offset + slope * (middle - top)
    total = at.sum(-1, keepdims=True)
    share = slope / total
    value = (top + np.log(total))[..., 0]
    above = Planes(share[..., None, :], (value - (share * middle).sum(-1))[..., None])
    most = np.maximum(np.abs(lower), np.abs(upper))
    return rounded(below, most, -1), rounded(above, most, 1)


def shares_below(lower: np.ndarray, upper: np.ndarray) -> Planes:
    """Planes below −log (1 + Σ_{j≠i} exp (zⱼ − zᵢ)), from chords of these powers: close if zᵢ is largest."""
    n = lower.shape[-1]
    own = np.eye(n, dtype=bool)
    least = np.where(own, 0.0, lower[..., None, :] - upper[..., :, None])
    most = np.where(own, 0.0, upper[..., None, :] - lower[..., :, None])
    with np.errstate(all="ignore"):
        slope, offset = _chords(least, most)
        slope = np.where(own, 0.0, slope)
        total = np.where(own, 1.0, offset + slope * (least + most) / 2).sum(-1)
        share = slope / total[..., None]
        slopes = -share
        slopes[..., np.arange(n), np.arange(n)] = share.sum(-1)
        middle = (lower + upper) / 2
        value = -np.log(total)
        made = Planes(slopes, value - (slopes * middle[..., None, :]).sum(-1))
        size = np.maximum(np.abs(lower), np.abs(upper))
        return rounded(made, 2 * size, -1)


def _chords(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b z ≥ exp(z) on each interval, as b and a."""
    low, high = np.exp(lower), np.exp(upper)
    narrow = upper - lower <= 1e-9 * (1 + np.abs(lower) + np.abs(upper))
    slope = np.where(narrow, 0.0, (high - low) / np.where(narrow, 1.0, upper - lower))
    return slope, high - slope * upper


def by_derivatives(
    value: np.ndarray, least: np.ndarray, most: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[Planes, Planes]:
    """From φ in the middle [batch, sets, n] and bounds of its Jacobian on the box [batch, sets, n, n].

    φ(z) − φ(m) = ∫ J (z − m), where each entry of J is its middle, up to half of its width.
    """
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    slope, spread = (least + most) / 2, (most - least) / 2
    reach = (spread * half[..., None, :]).sum(-1)
    centre = value - (slope * middle[..., None, :]).sum(-1)
    size = np.maximum(np.abs(lower), np.abs(upper))
    below, above = Planes(slope, centre - reach), Planes(slope, centre + reach)
    return rounded(below, size, -1), rounded(above, size, 1)
