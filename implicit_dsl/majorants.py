"""Activations as matrices K ≥ 0 with |φ(u) − φ(v)| ≤ K |u − v| for all u and v."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Triplets: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray]"

_AT_ONCE = 1 << 22  # numbers that a majorant is given at once


def is_bounded(activation: Operator) -> bool:
    """Whether there is such a matrix, of finite numbers. The sizes of the activation must be known."""
    rule = activation_rule(activation)
    if rule.gain(activation) is not None:
        return True
    if rule.elementwise:
        return False
    change = np.ones((1, *sizes(activation.source)))
    with np.errstate(all="ignore"):
        return bool(np.isfinite(rule.majorant(activation, change)).all())


def majorant_matrix(activation: Operator, of: Callable[[np.ndarray], np.ndarray] | None = None) -> Triplets:
    """Rows [entries], columns and numbers of K [size of the state, slots], by the majorant M of the rule.

    For an entry by entry activation the largest slope on the diagonal. Else the column of slot j is the
    majorant of the unit vector eⱼ: M is subadditive and positively homogeneous, so that M(Σ σⱼ eⱼ) is at
    most Σ σⱼ M(eⱼ). For max-pooling that is the sum over its window, where M takes the largest. `of` is a
    majorant to be taken in place of M, such as one that is rounded up: M(σ) [k, *state] of σ [k, *slots].
    """
    rule = activation_rule(activation)
    majorant = of or (lambda change: rule.majorant(activation, change))
    slots, shape = count(activation.source), sizes(activation.source)
    if rule.elementwise:
        diagonal = np.arange(slots)
        return diagonal, diagonal, np.asarray(majorant(np.ones((1, *shape)))).reshape(-1)
    parts = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    step = max(1, _AT_ONCE // max(1, slots, count(activation.target)))
    for start in range(0, slots, step):
        chosen = np.arange(start, min(start + step, slots))
        units = np.zeros((len(chosen), slots))
        units[np.arange(len(chosen)), chosen] = 1.0
        made = np.asarray(majorant(units.reshape(len(chosen), *shape))).reshape(len(chosen), -1)
        columns, rows = np.nonzero(made)
        parts.append((rows, columns + start, made[columns, rows]))
    rows, columns, values = (np.concatenate(part) for part in zip(*parts))
    return rows, columns, values


__all__ = ["is_bounded", "majorant_matrix"]
