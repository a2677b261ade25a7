"""Keeping things apart on a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def spread(
    wanted: Sequence[float],
    extents: Sequence[float],
    weights: Sequence[float] | None = None,
    lowest: float = float("-inf"),
    highest: float = float("inf"),
) -> list[float]:
    """Centres as near to the wanted ones as can be, in the given order and without overlap.

    Minimises Σ w (p − wanted)² subject to p[i+1] − p[i] ≥ (extent[i] + extent[i+1]) / 2.
    With the extents taken off this is isotonic regression, which pooling adjacent
    violators solves exactly in one pass. `lowest` and `highest` bound the outer edges; where not
    all fits between them, `lowest` holds.
    """
    if not wanted:
        return []
    offsets = [0.0]
    for before, after in pairwise(extents):
        offsets.append(offsets[-1] + (before + after) / 2)
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for at, offset, weight in zip(wanted, offsets, weights or [1.0] * len(wanted)):
        mean, total, members = at - offset, weight, 1
        while pools and pools[-1][0] > mean:
            other, its, count = pools.pop()
            mean = (mean * total + other * its) / (total + its)
            total, members = total + its, members + count
        pools.append((mean, total, members))
    least = lowest + extents[0] / 2
    most = max(least, highest - extents[-1] / 2 - offsets[-1])
    means = [min(max(mean, least), most) for mean, _, members in pools for _ in range(members)]
    return [mean + offset for mean, offset in zip(means, offsets)]
