"""Bounds of attention on boxes: softmax(f q kᵀ) v for queries [t, d], keys [s, d] and values [s, e].

A product is m n + n (a − m) + m (b − n) up to the product of the half widths around the middles m and n, so
that scores are linear in q and k up to a constant; the weights of softmax lie between planes of the scores
(`softmax_planes`); and as the weights of a query add up to 1, only differences of values count with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.joint import Planes, closest
from implicit_dsl.operators.relaxation import LIBRARY
from implicit_dsl.operators.softmax import softmax_bounds, softmax_planes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Ends: TypeAlias = "tuple[np.ndarray, np.ndarray]"


@dataclass(frozen=True)
class Slopes:
    """A linear function of q, k and v for each entry of the result [batch, t, e].

    `q` [batch, t, e, d] of its own query, `k` [batch, t, e, s, d] of all keys, `v` [batch, t, e, s] of its
    own feature of all values; `offset` [batch, t, e].
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Attended:
    """Attention on a box, heads among the samples: q [batch, t, d], k [batch, s, d] and v [batch, s, e].

    `surely` and `maybe` [batch, t, s]: keys that a query attends to for all masks of the box, and for some.
    """

    q: Ends
    k: Ends
    v: Ends
    factor: float
    surely: np.ndarray
    maybe: np.ndarray

    @cached_property
    def _scores(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores of the middles, and what f (q k̂ + q̂ k − q̂ k̂) is off at most, [batch, t, s]."""
        (q, dq), (k, dk) = _middle(self.q), _middle(self.k)
        off = dq @ dk.swapaxes(1, 2)
        size = (np.abs(q) + dq) @ (np.abs(k) + dk).swapaxes(1, 2)
        return self.factor * q @ k.swapaxes(1, 2), self.factor * (off + 8 * LIBRARY * size) + 1e-300

    @cached_property
    def _score_ends(self) -> Ends:
        """Bounds of the scores [batch, t, s], each product between those of its ends."""
        products = [a[:, :, None] * b[:, None] for a in self.q for b in self.k]  # [batch, t, s, d]
        low, high = np.minimum.reduce(products).sum(-1), np.maximum.reduce(products).sum(-1)
        lost = 8 * LIBRARY * np.maximum.reduce([np.abs(one) for one in products]).sum(-1)
        return self.factor * (low - lost), self.factor * (high + lost)

    @cached_property
    def weights(self) -> Ends:
        """Bounds of the weights [batch, t, s]."""
        low, high = self._score_ends
        return softmax_bounds(low, high, self.surely, self.maybe)

    @cached_property
    def ends(self) -> Ends:
        """Bounds of the result [batch, t, e]: the mean of values with weights within their bounds.

        It is largest where weights have their lower bounds, and what is left of 1 goes to the largest values.
        """
        found = []
        for sign, values in ((-1, self.v[0]), (1, self.v[1])):
            best = sign * _largest_mean(sign * values, *self.weights)
            size = np.abs(values).max(1)[:, None]
            best = best + sign * 16 * LIBRARY * size * self.maybe.shape[2]
            none = ~np.asarray(self.surely.any(-1))[..., None]  # of the keys, perhaps: the result is zero
            far = np.minimum(best, 0.0) if sign < 0 else np.maximum(best, 0.0)
            found.append(np.where(none, far, best))
        return found[0], found[1]

    def slopes(self) -> tuple[Slopes, Slopes]:
        """Linear bounds below and above, where `surely` and `maybe` are the same."""
        (q, _), (k, _), (v, dv) = _middle(self.q), _middle(self.k), _middle(self.v)
        (p, dp), (score, off) = _middle(self.weights), self._scores
        below, above = self._planes()
        total = p.sum(-1, keepdims=True)
        mean = np.where(total > 0, p @ v / np.where(total > 0, total, 1.0), 0.0)
        apart = v.swapaxes(1, 2)[:, None] - mean[..., None]  # [batch, t, e, s]
        weights = np.broadcast_to(p[:, :, None], apart.shape)
        spread = dp @ dv
        made = []
        for sign, up, down in ((-1, below, above), (1, above, below)):
            rise, fall = np.maximum(apart, 0.0), np.minimum(apart, 0.0)
            by_score = rise @ up.slope + fall @ down.slope  # [batch, t, e, s]
            held = (rise @ up.offset[..., None] + fall @ down.offset[..., None])[..., 0]
            # the scores are f (q·k̂ + q̂·k − q̂·k̂) up to `off`, and `score` is f q̂·k̂
            held = held - (by_score * score[:, :, None]).sum(-1)
            reach = (np.abs(by_score) * off[:, :, None]).sum(-1)
            # v p = p̂ v + v̂ p − p̂ v̂, of which v̂ p is there; p̂ v̂ is `mean` times the sum of p̂
            held = held + mean - (weights * v.swapaxes(1, 2)[:, None]).sum(-1)
            slopes = Slopes(
                self.factor * np.einsum("btes,bsd->bted", by_score, k),
                self.factor * by_score[..., None] * q[:, :, None, None, :],
                weights,
                held,
            )
            room = reach + spread + self._lost(slopes, rise - fall, up, down)
            made.append(Slopes(slopes.q, slopes.k, slopes.v, held + sign * room))
        return made[0], made[1]

    def _planes(self) -> tuple[Planes, Planes]:
        """The weights [batch, t, s] between planes of the scores of their query; zero where no key is."""
        batch, queries, keys = self.maybe.shape
        seen = self.maybe.reshape(-1, keys)
        scores, weights = (
            tuple(end.reshape(-1, keys) for end in ends) for ends in (self._score_ends, self.weights)
        )
        slopes = np.zeros((2, len(seen), keys, keys))
        offsets = np.zeros((2, len(seen), keys))
        patterns, which = np.unique(seen, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            rows, some = np.flatnonzero(which.reshape(-1) == number), np.flatnonzero(pattern)
            if not len(some):
                continue
            low, high = (end[np.ix_(rows, some)][:, None] for end in scores)
            ends = tuple(end[np.ix_(rows, some)][:, None] for end in weights)
            found = softmax_planes(low, high, (ends[0], ends[1]))
            for side, sign in ((0, -1), (1, 1)):
                best, _ = closest(found[side], ends[side], (low + high) / 2, sign)
                slopes[side][np.ix_(rows, some, some)] = best.slope[:, 0]
                offsets[side][np.ix_(rows, some)] = best.offset[:, 0]
        shape = (batch, queries, keys)
        below, above = (
            Planes(slope.reshape(*shape, keys), offset.reshape(shape))
            for slope, offset in zip(slopes, offsets)
        )
        return below, above

    def _lost(self, slopes: Slopes, apart: np.ndarray, up: Planes, down: Planes) -> np.ndarray:
        """What rounding makes of the sums, [batch, t, e]."""
        q, k, v = (np.maximum(*map(np.abs, ends)) for ends in (self.q, self.k, self.v))
        size = np.einsum("bted,btd->bte", np.abs(slopes.q), q)
        size = size + np.einsum("btesd,bsd->bte", np.abs(slopes.k), k)
        size = size + np.einsum("btes,bse->bte", np.abs(slopes.v), v)
        score = self.factor * q @ k.swapaxes(1, 2)
        plane = np.maximum(*(one.size(score) for one in (up, down)))  # [batch, t, s]
        return np.asarray(
            64 * LIBRARY * (1 + size + np.abs(slopes.offset) + (apart * plane[:, :, None]).sum(-1))
        )


def _middle(ends: Ends) -> Ends:
    """The middles and the half widths, which are rounded upwards."""
    low, high = ends
    middle = (low + high) / 2
    return middle, np.maximum(high - middle, middle - low) * (1 + 4 * LIBRARY)


def _largest_mean(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """max Σ p v over low ≤ p ≤ high [batch, t, s] with Σ p = 1, for values v [batch, s, e].

    It is zero where all p are.
    """
    order = np.argsort(-values, axis=1, kind="stable").swapaxes(1, 2)[:, None]  # [batch, 1, e, s]
    shape = (*low.shape[:2], *order.shape[2:])
    least, most = (
        np.take_along_axis(np.broadcast_to(p[:, :, None], shape), np.broadcast_to(order, shape), 3)
        for p in (low, high)
    )
    ordered = np.take_along_axis(values.swapaxes(1, 2), order[:, 0], 2)[:, None]
    left = np.maximum(1 - low.sum(-1), 0.0)[..., None, None]
    room = np.cumsum(most - least, -1)
    given = np.minimum(room, left) - np.minimum(room - (most - least), left)
    return np.asarray(((least + given) * ordered).sum(-1))
