"""Gains between the states of a loop as a map on positive vectors, and what it proves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROUNDING = 1 + 1e-12  # covers the rounding of gains computed in float64
_SWEEPS = 500  # of the power iteration on the gains of a loop


@dataclass(frozen=True, slots=True)
class Row:
    """How far a state moves if those that it reads move by v: min(Σ gainⱼ vⱼ, most · max vⱼ).

    Gains may be infinite (not bounded one by one), and so may `most` (not bounded together).
    """

    gains: Mapping[str, float]
    most: float = math.inf

    def of(self, v: Mapping[str, float]) -> float:
        """The bound for v > 0."""
        together = self.most * max(v[source] for source in self.gains)
        return min(sum(gain * v[source] for source, gain in self.gains.items()), together)


def swept(table: Mapping[str, Row], iterated: Sequence[str]) -> float:
    """An upper bound of the gain of one sweep in the ∞-norm of the iterated states.

    The other states of the table stand in the order in which a sweep computes them.
    """
    v = dict.fromkeys(iterated, 1.0)
    for name, row in table.items():
        if name not in iterated:
            v[name] = row.of(v) * ROUNDING
    return max(table[name].of(v) for name in iterated) * ROUNDING


def perron_root(table: Mapping[str, Row]) -> float:
    """An upper bound of the Perron root (Collatz and Wielandt): some v > 0 has M(v) ≤ root · v."""
    vector = dict.fromkeys(table, 1.0)
    best = math.inf
    for _ in range(_SWEEPS):
        image = {name: row.of(vector) for name, row in table.items()}
        best = min(best, max((image[name] / vector[name] for name in table), default=0.0) * ROUNDING)
        largest = max(image.values())
        if best < 1 or largest == 0 or largest == math.inf:
            break
        # a little of the constant vector keeps it positive where the loop is reducible
        vector = {name: value / largest + 1e-9 for name, value in image.items()}
    return best
