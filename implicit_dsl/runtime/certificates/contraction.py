"""∞-norm and Perron-Frobenius: a vector v > 0 with M(v) < v.

λ(M) < 1 if and only if there is such a v (theory: for |A|, v = (I − |A|)⁻¹ 1). Good ones come from the
power iteration: max M(v)ᵢ ÷ vᵢ bounds the Perron root from above, min M(v)ᵢ ÷ vᵢ over the support of
any v ≥ 0 from below (Collatz and Wielandt).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.certificates.roots import perron_bounds
from implicit_dsl.runtime.certificates.rounding import TINY, greatest_ratio, in_units
from implicit_dsl.runtime.certificates.sweep import Sweep, Vector
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")

Map: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
_SWEEPS = 300  # of the power iteration
_ENOUGH = 60  # of them once λ ≥ 1 is known
_POLISH = 10  # of them if a given vector proves it
_SPREAD = 1e-60  # least entry of v beside its largest: far above what underflow can falsify
_CLOSE = 1e-3  # the root is known well enough: hi − lo beside 1 − hi
_RESOLVED = 4e-9  # the two bounds come no closer: the lower one is rounded by so much
_DECISIVE = 1e-9  # of the Perron root, beside its distance to 1
_LARGEST_DENSE = 1500  # unknowns of a dense solve
_LARGEST_EIGENVECTOR = 300


@dataclass(frozen=True, slots=True)
class Perron:
    """Bounds of the Perron root, and the v that attains the upper one."""

    vector: np.ndarray
    lower: float
    upper: float


def flat(sweep: Sweep) -> Map:
    """The majorant of a sweep on the iterated states one below the other."""
    blocks = sweep.blocks(sweep.loop.iterated)

    def moved(change: np.ndarray) -> np.ndarray:
        parts, start = {}, 0
        for block in blocks:
            parts[block.name] = change[start : start + count(block.shape)].reshape(sizes(block.shape))
            start += count(block.shape)
        made = sweep(parts)
        return np.concatenate([made[block.name].reshape(-1) for block in blocks])

    return moved


def by_state(sweep: Sweep, vector: np.ndarray) -> tuple[tuple[str, np.ndarray], ...]:
    """A vector over the iterated states, by name in their shapes."""
    made: Vector = {}
    start = 0
    for block in sweep.blocks(sweep.loop.iterated):
        made[block.name] = vector[start : start + count(block.shape)].reshape(sizes(block.shape)).copy()
        start += count(block.shape)
    return tuple(made.items())


def upper_bound(M: Map, v: np.ndarray) -> float:
    """A proved κ with M(v) ≤ κ v, for v > 0 (infinite if v is of no use)."""
    if not (np.isfinite(v).all() and (v > _SPREAD * v.max(initial=0.0)).all()):
        return float("inf")
    return greatest_ratio(M(v), v)


def perron(
    M: Map, size: int, starts: tuple[np.ndarray, ...] = (), close: float = _CLOSE, enough: float = 0.0
) -> Perron:
    """Bounds of the Perron root of M by the power iteration from good vectors, if there are any.

    It ends where the root is known to `close`, beside its distance to 1, or to be at most `enough`.
    """
    best = Perron(np.ones(size), 0.0, float("inf"))
    for v in starts:
        upper = upper_bound(M, v)
        if upper < best.upper:
            best = Perron(in_units(v), best.lower, upper)
    v = best.vector if best.upper < float("inf") else np.ones(size)
    polished = best.upper < 1
    total, power = np.ones(size), np.ones(size)  # Σ Mᵗ 1, which proves it once Mᵗ 1 < 1
    for sweep in range(_POLISH if polished and close >= _CLOSE else _SWEEPS):
        image = M(v)
        upper = greatest_ratio(image, v) if (v > _SPREAD).all() else float("inf")
        if upper < best.upper:
            best = Perron(v, best.lower, upper)
        lower = _lower_bound(M, v, image, thorough=sweep % 10 == 0)
        best = Perron(best.vector, max(best.lower, lower), best.upper)
        known = best.upper <= enough or _is_known(best, close)
        if not np.isfinite(image).all() or known or (best.lower >= 1 and sweep > _ENOUGH):
            break
        if best.upper >= 1 and sweep % 4 == 3:  # the other way: it needs no Perron vector
            power = M(power)
            total = total + power
            upper = upper_bound(M, total)
            if upper < best.upper:
                best = Perron(in_units(total), best.lower, upper)
        largest = float(image.max(initial=0.0))
        if largest <= TINY * 1e10:
            break
        # a part of v itself, as M may permute; a little of 1, as it may be reducible
        little = 0.0 if polished else 10.0 ** -min(14, 3 + sweep // 20)
        v = image / largest + 0.2 * v + little
        v = v / v.max()
    return best


def _is_known(found: Perron, close: float) -> bool:
    return found.upper - found.lower <= max(close * abs(1 - found.upper), _RESOLVED * found.upper)


def _lower_bound(M: Map, v: np.ndarray, image: np.ndarray, thorough: bool) -> float:
    """λ ≥ min M(w)ᵢ ÷ wᵢ over the support of w: of v, or of its part where M(v)ᵢ ÷ vᵢ is not small."""
    simple = float((image / v).min()) if (v > 0).all() else 0.0
    support = image > 0.5 * float(image.max(initial=0.0)) * v
    if not thorough or support.all() or not support.any():
        return _downwards(simple)
    w = np.where(support, v, 0.0)
    inner = M(w)
    return _downwards(max(simple, float((inner[support] / w[support]).min())))


def _downwards(ratio: float) -> float:
    """A lower bound of a ratio that was rounded up: by far less than this, in parts of it and in all."""
    return max(0.0, ratio * (1 - 1e-9) - 1e-200)


def proving(magnitude: sparse.csr_array, gains: np.ndarray) -> tuple[np.ndarray, ...]:
    """Vectors v > 0 that may prove G |A| v < v, for a matrix and the gains G of its rows.

    The Perron vector decides, but within its gap of 1: there, as for A with cycles alone, others may.
    """
    scaled = magnitude * gains[:, None]
    if not (scaled.shape[0] and np.isfinite(scaled.sum(1)).all()):
        return ()
    found = perron_bounds(scaled, gap=_DECISIVE)
    first = () if found.vector is None else (found.vector,)
    decided = found.lower >= 1 or (found.upper < 1 and found.vector is not None)
    return first if decided else first + candidates(scaled.toarray())


def candidates(N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Vectors v > 0 that may prove N v < v: the Perron vector, and (s I − N)⁻¹ 1 where it is positive.

    N has no negative entries off its diagonal. For s above the Perron root λ, v = (s I − N)⁻¹ 1 has
    N v = s v − 1 < s v, also where N is reducible and its Perron vector has zeros; s = 1 needs no λ.
    """
    if len(N) > _LARGEST_DENSE or not np.isfinite(N).all():
        return ()
    found, shifts = [], [1.0]
    if len(N) <= _LARGEST_EIGENVECTOR:
        roots, vectors = np.linalg.eig(N)
        largest = int(roots.real.argmax())
        root, v = float(roots[largest].real), np.abs(vectors[:, largest].real)
        found += [v + little * v.max() for little in (1e-12, 1e-40)]
        shifts += [root + room * max(abs(1 - root), 1e-9) for room in (1e-3, 1e-8)]
    for shift in shifts:
        try:
            inverse = np.linalg.inv(shift * np.eye(len(N)) - N)
        except np.linalg.LinAlgError:
            continue
        v = inverse.sum(1)
        if np.isfinite(v).all() and (v > 0).all():
            found.append(v)
            found += _polished(inverse, v) if len(N) > _LARGEST_EIGENVECTOR else []
    return tuple(found)


def _polished(inverse: np.ndarray, start: np.ndarray) -> list[np.ndarray]:
    """Steps of the inverse iteration, towards the Perron vector."""
    found, v = [], start
    for _ in range(4):
        v = np.abs(inverse @ (v / v.max()))
        found.append(v + 1e-9 * v.max() * start / start.max())
    return found
