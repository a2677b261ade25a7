"""How far outputs can be from what they were, for other matrices: proved, sample by sample.

Let x solve x = φ(A x + B u + b) and x' the same with A', B', b'. With the majorant M of φ,

    |x' − x| ≤ δ for every δ with M(|A'| δ + |ΔA||x| + |ΔB||u| + |Δb|) ≤ δ,

if there is a v > 0 with M(|A'| v) < v: then σ ↦ M(|A'|σ + r) is a monotone contraction in max σᵢ ∕ vᵢ, whose
iterates from |x' − x| rise to its fixed point, and those from δ fall to it. And
|y' − y| ≤ |C'| δ + |ΔC||x| + |ΔD||u| + |Δd|.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Block
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.contraction import candidates
from implicit_dsl.runtime.certificates.rounding import growth, upwards
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")

_SUMS = 4_000  # steps of v ← 1 + M(|A'| v)
_STEPS = 20_000  # towards the least δ
_STEADY = 1e-12


class NoBound(ValueError):  # noqa: N818 (it is what was found, not a fault of the program)
    """No bound is proved; the text says why."""


def output_bound(before: System, after: System, U: np.ndarray, X: np.ndarray) -> np.ndarray:
    """|y' − y| [outputs, batch] at most, for U [inputs, batch] and the states X [states, batch] before.

    Raises NoBound. Exact but for rounding, which is upwards; x itself is taken as it was solved.
    """
    blocks = after.states
    for block in blocks:
        change = np.ones((1, *sizes(block.slots)))
        with np.errstate(all="ignore"):
            made = _of_block(block, change)
        if not np.isfinite(made).all():
            raise NoBound(f"{block.phi} of `{block.name}` has no bounded slope")
    A, C = (abs(matrix.to_scipy()) for matrix in (after.A, after.C))
    with np.errstate(all="ignore"):
        given = _moved(before, after, ("A", "B", "b"), X, U)
        delta = _states(blocks, A, given)
        made = C @ delta + _moved(before, after, ("C", "D", "d"), X, U)
    return upwards(made, C.shape[1] + 4)


def _moved(
    before: System, after: System, names: tuple[str, str, str], X: np.ndarray, U: np.ndarray
) -> np.ndarray:
    """|ΔA||x| + |ΔB||u| + |Δb|, or the same for C, D and d."""
    first, second = (
        abs(getattr(before, name).to_scipy() - getattr(after, name).to_scipy()) for name in names[:2]
    )
    offset = np.abs(getattr(before, names[2]) - getattr(after, names[2]))
    made = first @ np.abs(X) + second @ np.abs(U) + offset[:, None]
    return upwards(made * (1 + growth(4)), first.shape[1] + second.shape[1] + 2)


def _states(blocks: Sequence[Block], A: sparse.csr_array, given: np.ndarray) -> np.ndarray:
    """δ [states, batch] with M(A δ + given) ≤ δ."""

    def step(delta: np.ndarray) -> np.ndarray:
        return _majorant(blocks, upwards(A @ delta + given, A.shape[1] + 1))

    v, rate = _vector(blocks, A)
    delta = np.zeros((A.shape[1], given.shape[1]))
    for _ in range(_STEPS):
        risen = step(delta)
        change = float((np.abs(risen - delta) / v[:, None]).max(initial=0.0))
        delta = np.maximum(delta, risen)
        if change <= _STEADY * float((delta / v[:, None]).max(initial=0.0)):
            break
    for room in (0.0, 1.0, 10.0, 1e3, 1e6):
        over = np.maximum(step(delta) - delta, 0.0) / v[:, None]
        found: np.ndarray = delta + room * over.max(0, initial=0.0) / (1 - rate) * v[:, None]
        if (step(found) <= found).all():
            return found
    raise NoBound("rounding keeps the bound from closing: its loop contracts too slowly")


def _vector(blocks: Sequence[Block], A: sparse.csr_array) -> tuple[np.ndarray, float]:
    """v > 0 and κ < 1 with M(A v) ≤ κ v."""

    def step(v: np.ndarray) -> np.ndarray:
        return np.asarray(_majorant(blocks, upwards(A @ v, A.shape[1])[:, None])[:, 0])

    v = np.ones(A.shape[1])
    for _ in range(_SUMS):
        image = step(v)
        if (image < v).all():
            return v, float((image / v).max(initial=0.0))
        if not np.isfinite(image).all():
            break
        v = 1 + image
    if all(block.activation is None or activation_rule(block.activation).elementwise for block in blocks):
        unit = _majorant(blocks, np.ones((A.shape[0], 1)))[:, 0]
        for v in candidates(A.toarray() * unit[:, None]):
            image = step(v)
            if (image < v).all():
                return v, float((image / v).max(initial=0.0))
    raise NoBound("no v > 0 with |A| v < v is found for its loops, so nothing bounds what goes round in them")


def _majorant(blocks: Sequence[Block], change: np.ndarray) -> np.ndarray:
    """The majorants of the activations on changes [slots, batch], as [states, batch]."""
    made, start, batch = [], 0, change.shape[1]
    for block in blocks:
        part = change[start : start + count(block.slots)]
        start += count(block.slots)
        if block.activation is not None:
            found = _of_block(block, part.T.reshape(batch, *sizes(block.slots)))
            part = found.reshape(batch, count(block.shape)).T
        made.append(part)
    return np.concatenate(made) if made else np.asarray(change)


def _of_block(block: Block, change: np.ndarray) -> np.ndarray:
    if block.activation is None:
        return change
    rule = activation_rule(block.activation)
    terms = 0 if rule.elementwise else 2 * count(block.slots)
    return np.asarray(upwards(rule.majorant(block.activation, change), terms))
