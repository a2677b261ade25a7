"""x = φ(a x + s) for single numbers, a φ' < 1: its solution grows with s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.network import Node
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.rounding import UNIT

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_STEPS = 200
_LIBRARY = 1e-13


def solved(
    node: Node, diagonal: np.ndarray, box: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the solutions for a = `diagonal` and s in a box, all [batch, size].

    g(x) = φ(a x + s) − x falls, by 1 − a K at least for each unit where a > 0 and slopes are up to K, and by
    1 where a < 0: so the solution is within |g(x)| ÷ that of any x.
    """
    activation = node.block.activation
    slope = (1.0, 1.0) if activation is None else activation_rule(activation).slope(activation)
    assert slope is not None
    steepest = slope[1]
    least = np.where(diagonal > 0, 1 - diagonal * steepest, 1.0)
    most = 1 + np.abs(diagonal) * steepest
    made = []
    for s, sign in zip(box, (-1.0, 1.0)):
        x = _found(node, diagonal, s, least, most)
        value = node.activated(diagonal * x + s)
        size = steepest * (np.abs(diagonal * x) + np.abs(s)) + np.abs(value) + np.abs(x)
        off = np.abs(value - x) + (_LIBRARY + 16 * UNIT) * (1e-3 + size)
        made.append(x + sign * off / least * (1 + 1e-12))
    return made[0], made[1]


def _found(node: Node, a: np.ndarray, s: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """About the solution: in closed form where φ is linear or relu, else by secants with halving."""
    activation = node.block.activation
    if activation is None or activation.kind in ("identity", "relu"):
        return np.asarray(node.activated(s) / (1 - a))  # a < 1, so that x has the sign of s
    # from an interval that holds it
    x = node.activated(s)
    g = node.activated(a * x + s) - x
    reach = np.abs(g) / least
    low, high = np.where(g > 0, x, x - reach), np.where(g > 0, x + reach, x)
    for step in range(_STEPS):
        # a secant that leaves the interval, and each third step, halves it
        x = (low + high) / 2 if step % 3 == 2 else np.clip(x + g / np.where(g > 0, least, most), low, high)
        g = node.activated(a * x + s) - x
        low, high = np.where(g >= 0, x, low), np.where(g <= 0, x, high)
        if not ((high - low) > 1e-15 * (1 + np.abs(x))).any():
            break
    return np.asarray(x)
