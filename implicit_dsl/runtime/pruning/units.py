"""Which states matter: those that are not zero whatever the input, and those that outputs depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Block
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")

_MOST_SLOTS = 2048  # of an activation that is not elementwise, whose windows are looked at


def not_zero(system: System, inputs: bool = False) -> np.ndarray:
    """The states [states] that may be other than zero, or with `inputs` than constant.

    What reads nothing but zeros and has φ(0) = 0 is zero, where the equilibrium is unique.
    """
    A, B = (_pattern(matrix.to_scipy()) for matrix in (system.A, system.B))
    slots = np.asarray(B.sum(1)).reshape(-1) > 0
    start = np.zeros(A.shape[1], bool)
    if not inputs:
        slots = slots | (system.b != 0)
        start = at_zero(system.states) != 0
    return _closure(start, lambda states: _to_states(system.states, slots | ((A @ states) > 0)))


def observed(system: System) -> np.ndarray:
    """The states [states] that an output depends on, directly or through others."""
    A, C = (_pattern(matrix.to_scipy()) for matrix in (system.A, system.C))
    start = np.asarray(C.sum(0)).reshape(-1) > 0
    return _closure(start, lambda states: (A.T @ slots_of(system.states, states)) > 0)


def at_zero(blocks: Sequence[Block]) -> np.ndarray:
    """φ(0) of some states, one block below the other."""
    parts = [np.zeros(0)]
    for block in blocks:
        made = np.zeros(count(block.shape))
        if block.activation is not None:
            zeros = np.zeros((1, *sizes(block.slots)))
            made = activation_rule(block.activation).reference(block.activation, zeros).reshape(-1)
        parts.append(made)
    return np.concatenate(parts)


def slots_of(blocks: Sequence[Block], states: np.ndarray) -> np.ndarray:
    """The slots that chosen states are computed from, at most."""
    parts, start = [np.zeros(0, bool)], 0
    for block in blocks:
        part = states[start : start + count(block.shape)]
        start += count(block.shape)
        parts.append(part if _one_to_one(block) else _read_by(block, part))
    return np.concatenate(parts)


def _read_by(block: Block, states: np.ndarray) -> np.ndarray:
    """The slots that chosen states of one block depend on; of many slots all, if there is one such state."""
    size = count(block.slots)
    if size > _MOST_SLOTS or not states.any():
        return np.full(size, bool(states.any()))
    each = _reached(block, np.eye(size).reshape(size, *sizes(block.slots)))
    return np.asarray(each[:, states].any(1))


def _to_states(blocks: Sequence[Block], slots: np.ndarray) -> np.ndarray:
    """The states that depend on chosen slots."""
    parts, start = [np.zeros(0, bool)], 0
    for block in blocks:
        part = slots[start : start + count(block.slots)]
        start += count(block.slots)
        if not _one_to_one(block):
            part = _reached(block, part.astype(float).reshape(1, *sizes(block.slots)))[0]
        parts.append(part)
    return np.concatenate(parts)


def _reached(block: Block, change: np.ndarray) -> np.ndarray:
    """Which states [batch, states] can move if slots move where `change` is not zero."""
    assert block.activation is not None
    with np.errstate(all="ignore"):
        made = activation_rule(block.activation).majorant(block.activation, change)
    return np.asarray(~(made.reshape(len(change), -1) == 0))


def _one_to_one(block: Block) -> bool:
    return block.activation is None or activation_rule(block.activation).elementwise


def _closure(start: np.ndarray, grow: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    found = start
    while True:
        grown = found | grow(found)
        if (grown == found).all():
            return found
        found = grown


def _pattern(matrix: sparse.csr_array) -> sparse.csr_array:
    """1.0 where a matrix is not zero."""
    made = matrix.copy()
    made.eliminate_zeros()
    made.data[:] = 1.0
    return made
