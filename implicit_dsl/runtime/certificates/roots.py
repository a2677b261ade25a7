"""The Perron root of a non-negative matrix between proved bounds, and a vector that proves the upper one.

For v > 0, min (M v)ᵢ ÷ vᵢ ≤ λ(M) ≤ max (M v)ᵢ ÷ vᵢ (Collatz 1942, Wielandt 1950); the lower bound holds over
the support of any v ≥ 0. A matrix is taken apart into its strongly connected parts: λ is the largest of
theirs, and each of these has a positive eigenvector. It is found by the power iteration and, where that is
slow, by Noda's inverse iteration, (s I − M) v' = v with s above the upper bound: v' is positive, and
the bounds close
in quadratically (Noda 1971; Elsner 1976).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.certificates.rounding import TINY, UNIT, growth

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
    import torch
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")
    torch = lazy_module("torch")

NonNegative: TypeAlias = "np.ndarray | sparse.csr_array"
Product: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
_STEPS = 400  # of the power iteration
_SETTLING = 3  # of them before their rate is judged
_INVERSE_STEPS = 12
_LARGEST_DENSE = 5000  # unknowns of a solve
_LARGEST_SPARSE = 200_000
_SPARSE_SOLVE, _DENSE_SOLVE = (
    100.0,
    0.05,
)  # products that a solve costs as much as; of a dense one, for each unknown
_STUCK = 0.9  # a gap that shrinks by less in a step
_SHIFT = 0.3  # of v in M v + shift v, where M turns vectors around in cycles
_FLOOR, _CUTS = 1e-12, (1e-12, 1e-9, 1e-6)  # of the largest entry: what is added to v, and taken from it
_SPREAD = 1e280  # of the entries of v, at most


class PerronBounds(NamedTuple):
    """lower ≤ λ ≤ upper, and v > 0 with M v ≤ upper · v: None where its entries would overflow."""

    lower: float
    upper: float
    vector: np.ndarray | None


def perron_bounds(matrix: Any, *, gap: float = 1e-4) -> PerronBounds:
    """Bounds of the Perron root (spectral radius) of |matrix| that are `gap` apart, relatively, or closer.

    `matrix` [n, n] is a NumPy array, a tensor, or a SciPy sparse array, and taken for exact: all rounding
    goes outwards. The gap may stay wider where rounding or too many steps stand against it; the bounds hold
    all the same. Raises ValueError for what is not square or not finite, and for a gap not in (0, 1).
    """
    if not 0 < gap < 1:
        raise ValueError(f"the gap must lie between 0 and 1, and {gap:g} does not")
    M = _Magnitude.of(matrix)
    image = M @ np.ones(M.size)
    if not np.isfinite(image).all():
        raise ValueError("the matrix holds values that are not finite, or too large to be added up")
    if M.size == 0:
        return PerronBounds(0.0, 0.0, np.ones(0))
    if M.size == 1:
        return PerronBounds(*2 * (float(M.whole.sum()),), np.ones(1))
    count, label = (1, None) if M.is_surely_connected else _components(M.sparse)
    if count == 1 or label is None:
        whole = _connected(M, gap, image)
        return PerronBounds(whole.lower, whole.upper, whole.vector)
    order = np.argsort(label, kind="stable")
    sizes = np.bincount(label, minlength=count)
    diagonal = M.sparse.diagonal()
    parts = {}
    for k in np.flatnonzero(sizes > 1):
        start = int(sizes[:k].sum())
        states = order[start : start + int(sizes[k])]
        inner = _Magnitude.of(M.part(states))
        parts[int(k)] = replace(_connected(inner, gap, inner @ np.ones(inner.size)), states=states)
    alone = sizes[label] == 1
    single = float(diagonal[alone].max(initial=0.0))  # a state alone: its diagonal entry, to the last bit
    lower = max([single, *(part.lower for part in parts.values())])
    upper = max([single, *(part.upper for part in parts.values())])
    vector, attained = _joined(M.sparse, label, parts, upper, gap)
    return PerronBounds(lower, upper if vector is None else max(upper, attained), vector)


@dataclass(frozen=True)
class _Magnitude:
    """|A|, as a product at least: a dense A is read where it lies."""

    given: Any

    @staticmethod
    def of(matrix: Any) -> _Magnitude:
        if not (sparse.issparse(matrix) or isinstance(matrix, torch.Tensor)):
            matrix = np.asarray(matrix)
            if matrix.dtype not in (np.float32, np.float64):
                matrix = matrix.astype(np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"a matrix of shape {tuple(matrix.shape)} has no Perron root: it is not square")
        if isinstance(matrix, torch.Tensor):
            return _Magnitude(matrix.detach())
        if sparse.issparse(matrix):
            matrix = abs(sparse.csr_array(matrix)).astype(np.float64)
            matrix.eliminate_zeros()
        return _Magnitude(matrix)

    @property
    def size(self) -> int:
        return int(self.given.shape[0])

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        """|A| v, with a relative error of growth(n) at most."""
        return self._product(v)

    @cached_property
    def _product(self) -> Product:
        if sparse.issparse(self.given):
            return lambda v: self.given @ v
        from implicit_dsl.runtime.native import magnitude_product

        A = self.given
        if not isinstance(A, torch.Tensor):
            A = torch.from_numpy(np.ascontiguousarray(A))
        A = A.contiguous()
        if magnitude_product(A[:1], torch.ones(A.shape[1], dtype=torch.float64)) is not None:
            product: Callable[..., torch.Tensor] = cast(Any, magnitude_product)  # never None for this A
            return lambda v: product(A, torch.from_numpy(v)).numpy()
        wide = A.double().abs()
        return lambda v: (wide @ torch.from_numpy(v).to(wide.device)).cpu().numpy()

    @cached_property
    def whole(self) -> NonNegative:
        """The matrix itself."""
        if sparse.issparse(self.given):
            return self.given
        made = self.given
        if isinstance(made, torch.Tensor):
            made = made.cpu().double().numpy()
        return np.abs(made.astype(np.float64, copy=False))

    @cached_property
    def sparse(self) -> sparse.csr_array:
        return sparse.csr_array(self.whole)

    def part(self, states: np.ndarray) -> NonNegative:
        inner = self.sparse[states][:, states]
        return inner if inner.nnz < 0.3 * inner.shape[0] ** 2 else inner.toarray()

    @property
    def is_surely_connected(self) -> bool:
        """Whether all states are read by the first one and read it. (Others may be connected, too.)"""
        if sparse.issparse(self.given):
            A, n = self.given, self.size
            return A.nnz >= n * n // 2 and int(A.indptr[1]) == n and bool((A[:, [0]].data != 0).sum() == n)
        return bool((self.given[0] != 0).all() and (self.given[:, 0] != 0).all())


@dataclass(frozen=True, slots=True)
class _Part:
    """The bounds of a strongly connected part, its states, and v > 0 on these."""

    lower: float
    upper: float
    vector: np.ndarray
    states: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.intp))

    def closer(self, v: np.ndarray, image: np.ndarray) -> _Part:
        """The closest bounds so far, rounded outwards: both hold, whichever vector each is from."""
        ratios, loss = image / v, growth(len(v))
        lower = max(self.lower, float(ratios.min()) * (1 - loss) - TINY)
        upper = float(ratios.max()) * (1 + loss) + TINY
        return _Part(lower, upper, v) if upper < self.upper else replace(self, lower=lower)


def _components(M: sparse.csr_array) -> tuple[int, np.ndarray]:
    from scipy.sparse.csgraph import connected_components

    count, label = connected_components(M, directed=True, connection="strong")
    return int(count), label


def _connected(M: _Magnitude, gap: float, image: np.ndarray) -> _Part:
    """The bounds of a strongly connected matrix; `image` is M 1."""
    v = np.ones(M.size)
    best, shift, solve = _Part(0.0, float("inf"), v), 0.0, _products_of(M)
    wanted, gaps = max(gap, 4 * growth(M.size)), []
    for step in range(_STEPS):
        best = best.closer(v, image)
        gaps.append(best.upper / best.lower - 1 if best.lower > 0 else float("inf"))
        if gaps[-1] <= wanted:
            break
        if step >= _SETTLING and _remaining(gaps, wanted) > solve:
            best, solve = _by_inverse(M, best, wanted), float("inf")
            v, image = best.vector, M @ best.vector
            continue
        if step >= _SETTLING and gaps[-1] > _STUCK * gaps[-2]:
            shift = _SHIFT * best.upper  # |λ₂| is about λ₁: as in cycles
        v = image + shift * v if shift else image
        largest = float(v.max())
        if not v.min() > TINY * largest > 0:  # what underflows proves nothing
            break
        v = v / largest
        image = M @ v
    return best


def _remaining(gaps: list[float], gap: float) -> float:
    """How many more steps the power iteration takes, as the last ones went."""
    rate = (gaps[-1] / gaps[-3]) ** 0.5 if gaps[-3] < float("inf") else 1.0
    return float(np.log(gap / gaps[-1]) / np.log(rate)) if 0 < rate < 1 else float("inf")


def _products_of(M: _Magnitude) -> float:
    """To how many products a solve amounts; infinite where it is out of reach."""
    if sparse.issparse(M.given):
        return _SPARSE_SOLVE if M.size <= _LARGEST_SPARSE else float("inf")
    return _SPARSE_SOLVE + _DENSE_SOLVE * M.size if M.size <= _LARGEST_DENSE else float("inf")


def _by_inverse(M: _Magnitude, best: _Part, gap: float) -> _Part:
    """Noda's iteration, from the best vector of the power iteration.

    g = (s I − M)⁻¹ 1 has M g = s g − 1. Entries of v far below its largest may be far off, where v is
    localised; v + ε g has none, and shares the upper bound of v as long as that is above s. (v − ε g)₊ keeps
    the lower one: M (v − ε g)₊ ≥ M v − ε s g + ε where it is not zero, which cuts off what is far off.
    """
    for _ in range(_INVERSE_STEPS):
        before = best
        solve = _solver(M.whole, best.upper * (1 + 8 * UNIT * (M.size + 8)))
        found = None if solve is None else solve(np.stack((best.vector, np.ones(M.size)), 1))
        if found is None or not (np.isfinite(found).all() and (found[:, 1] > 0).all()):
            break
        v, g = np.maximum(found / found.max(0), 0.0).T
        raised = v + _FLOOR * g
        best = best.closer(raised, M @ raised)
        for cut in _CUTS:
            w = np.maximum(v - cut * g, 0.0)
            held = w > 0
            if held.any():
                ratio = float(((M @ w)[held] / w[held]).min()) * (1 - growth(M.size)) - TINY
                best = replace(best, lower=max(best.lower, ratio))
        if best.upper - best.lower <= gap * best.upper or not best.upper < before.upper:
            break
    return best


def _solver(M: NonNegative, shift: float) -> Callable[[np.ndarray], np.ndarray] | None:
    """b ↦ (s I − M)⁻¹ b; None if the factors are singular."""
    from scipy.linalg import LinAlgError, lu_factor, lu_solve
    from scipy.sparse.linalg import splu

    try:
        if sparse.issparse(M):
            K = (shift * sparse.eye_array(M.shape[0], format="csc") - M).tocsc()
            solve: Callable[[np.ndarray], np.ndarray] = splu(K).solve
            return solve
        K = -M
        K[np.diag_indices(len(K))] += shift
        with np.errstate(all="ignore"):
            factors = lu_factor(K, overwrite_a=True, check_finite=False)
    except (RuntimeError, LinAlgError):
        return None
    return lambda b: np.asarray(lu_solve(factors, b, check_finite=False))


def _joined(
    M: sparse.csr_array, label: np.ndarray, parts: dict[int, _Part], upper: float, gap: float
) -> tuple[np.ndarray | None, float]:
    """v > 0 for the whole from those of its parts, and a proved κ with M v ≤ κ v, near `upper`.

    With s above all roots and parts in the order in which they read each other, t v on a part has
    M t v + (what it reads) ≤ s t v once t ≥ max (what it reads)ᵢ ÷ ((s − κ) vᵢ), where κ v ≥ M v on the part
    alone. States that are alone in their parts are solved for together, as their matrix is triangular.
    """
    size, s = len(label), upper * (1 + gap / 2) + TINY
    rows, cols = M.nonzero()
    # SciPy numbers parts so that each reads only those before it, or only those behind it
    place = label if bool((label[rows] >= label[cols]).all()) else label.max() - label
    keys = sorted(int(place[parts[k].states[0]]) for k in parts)
    by_place = {int(place[part.states[0]]): part for part in parts.values()}
    v, order = np.zeros(size), np.argsort(place, kind="stable")
    bounds = [-1, *keys, int(place.max()) + 1]
    with np.errstate(all="ignore"):
        for before, key in pairwise(bounds):
            states = order[
                np.searchsorted(place[order], before, "right") : np.searchsorted(place[order], key)
            ]
            if len(states):
                v[states] = _alone(M, states, v, s)
            if key in by_place:
                part = by_place[key]
                assert part.states is not None
                needed = float((M[part.states] @ v / part.vector).max(initial=0.0))
                room = s - part.upper * (1 - growth(size))
                v[part.states] = max(1.0, 1.001 * needed / room) * part.vector
        v = v / v.max()
        if not (np.isfinite(v).all() and float(v.min()) * _SPREAD > 1):
            return None, float("inf")
        attained = float((M @ v / v).max()) * (1 + growth(size)) + TINY
    return (v, attained) if attained <= upper * (1 + gap) + 2 * TINY else (None, float("inf"))


def _alone(M: sparse.csr_array, states: np.ndarray, v: np.ndarray, s: float) -> np.ndarray:
    """t > 0 with M t + (what they read) < s t, for states in the order in which they read each other."""
    from scipy.sparse.linalg import splu

    own = M[states]
    K = (s * sparse.eye_array(len(states), format="csc") - own[:, states]).tocsc()
    factors = splu(K, permc_spec="NATURAL", diag_pivot_thresh=0.0)  # triangular: nothing is filled in
    return np.asarray(factors.solve(own @ v + s))
