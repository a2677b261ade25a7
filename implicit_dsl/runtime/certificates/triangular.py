"""Triangular: no entry of a state depends on itself, once the zeros of the current weights are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.certificates.sweep import Sweep

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

MOST_SWEEPS = 2000


def depth(sweep: Sweep) -> int | None:
    """How many sweeps make the result exact, from any start; None if there is no such number (below 2000).

    P(σ) marks the entries that a change of the marked entries can reach. Starting from all, the
    marks only become fewer. If none is left after L sweeps, fᴸ is constant: that constant c is
    the only equilibrium, since f(c) = f(fᴸ(x)) = fᴸ(f(x)) = c, and f(x) = x means x = fᴸ(x) = c.
    """
    marks = sweep.ones()
    for made in range(1, MOST_SWEEPS + 1):
        reached = sweep.pattern(marks)
        left = sum(int(mark.sum()) for mark in reached.values())
        if not left:
            return made
        if left == sum(int(mark.sum()) for mark in marks.values()):
            return None  # a subset of as many: they stay
        marks = reached
    return None
