"""How far outputs can be from what they were, for other matrices: proved, sample by sample.

Let x solve x = φ(A x + B u + b) and x' the same with A', B', b'. With the majorant M of φ,

    |x' − x| ≤ δ for every δ with M(|A'| δ + |ΔA||x| + |ΔB||u| + |Δb|) ≤ δ,

if there is a v > 0 with M(|A'| v) < v (see `certificates.spreading`). And
|y' − y| ≤ |C'| δ + |ΔC||x| + |ΔD||u| + |Δd|.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.certificates.majorants import NoBound, magnitudes
from implicit_dsl.runtime.certificates.rounding import growth, upwards
from implicit_dsl.runtime.certificates.spreading import Spread
from implicit_dsl.runtime.system import System

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


def output_bound(before: System, after: System, U: np.ndarray, X: np.ndarray) -> np.ndarray:
    """|y' − y| [outputs, batch] at most, for U [inputs, batch] and the states X [states, batch] before.

    Raises NoBound. Exact but for rounding, which is upwards; x itself is taken as it was solved.
    """
    everywhere = np.ones(after.partition("slots").total, bool)
    spread = Spread(after, within=False, entered=everywhere)  # states before lie in other boxes than these
    C = magnitudes(after, "C")
    with np.errstate(all="ignore"):
        delta = spread.forward(_moved(before, after, ("A", "B", "b"), X, U))
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


__all__ = ["NoBound", "output_bound"]
