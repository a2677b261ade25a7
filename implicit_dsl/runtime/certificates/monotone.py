"""Monotone loops: I − A ⪰ m I, in the Euclidean norm (Winston and Kolter 2020) or a weighted one (LBEN).

Each φ with slopes in [0, 1] is the proximal operator of a convex f, so x = φ(A x + b) says that
b ∈ (I − A) x + ∂f(x). Where the symmetric part of I − A is positive definite this operator is strongly
monotone, and there is one solution. Forward-backward steps x ← prox_{αf}(x − α ((I − A) x − b))
contract with √(1 − 2αm + α²L²), L = ‖I − A‖₂: with √(1 − m²/L²) for α = m ÷ L².

With Λ = diag(λ) > 0 the same holds for Λ^½ A Λ^−½ and ψᵢ(z) = λᵢ^½ φᵢ(z ÷ λᵢ^½), whose slopes are those
of φ: the condition is Λ (I − A) + (I − A)ᵀ Λ ≻ 0 (Revay, Wang and Manchester 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.certificates.interval import Interval
from implicit_dsl.runtime.certificates.rounding import (
    UNIT,
    largest_singular_value,
    least_eigenvalue,
    symmetric_part,
)

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

LARGEST = 1500  # states, above which no dense matrix is factored
LARGEST_SEARCH = 150  # states, above which no Λ is searched for
_NEWTON_STEPS = 60
_MOST_PUSH = 1e9
_ROOM = 1e-7  # least entry of Λ, for a trace of 1


@dataclass(frozen=True, slots=True)
class Monotone:
    """m and L in the norm Σ λᵢ xᵢ². `proved`: I − A is strongly monotone in it, though m may be 0."""

    weights: np.ndarray
    proved: bool
    monotonicity: float
    lipschitz: float
    least: float  # of the symmetric part, as computed: how far it got

    @property
    def rate(self) -> float | None:
        """√(1 − m²/L²), rounded up; None if it is not below 1."""
        if not (self.proved and self.monotonicity > 0):
            return None
        quotient = self.monotonicity / self.lipschitz * (1 - 8 * UNIT)
        rate = float(np.sqrt(max(0.0, 1 - quotient * quotient * (1 - 8 * UNIT))) * (1 + 4 * UNIT))
        return rate if rate < 1 else None

    @property
    def damping(self) -> float:
        """α = m ÷ L²."""
        return self.monotonicity / self.lipschitz**2


def monotone(A: Interval) -> Monotone:
    """m and L of I − A in the Euclidean norm."""
    return _in_norm(A, np.ones(A.mid.shape[1]))


def diagonally_monotone(A: Interval) -> Monotone | None:
    """m and L in the norm of the Λ that is found; None above the size at which one is searched."""
    size = A.mid.shape[1]
    if size > LARGEST_SEARCH:
        return None
    weights = _search(np.eye(size) - A.mid.toarray())
    # powers of 4, so that the scaling by roots is exact, prove the same if there is room
    for candidate in (4.0 ** np.round(np.log2(weights) / 2), weights):
        found = _in_norm(A, candidate)
        if found.proved:
            return found
    return found


def _in_norm(A: Interval, weights: np.ndarray) -> Monotone:
    mid, rad = A.dense()
    K = np.eye(len(mid)) - mid
    error = rad + UNIT * np.abs(K)
    if (weights != 1).any():
        root = np.sqrt(weights)
        K = K * root[:, None] / root
        error = 1.01 * error * root[:, None] / root + 8 * UNIT * np.abs(K)
    S, off = symmetric_part(K, error)
    least = float(np.linalg.eigvalsh(S)[0]) if np.isfinite(S).all() else -np.inf
    m = least_eigenvalue(S, off, least) if least > 0 else None
    if m is None:
        return Monotone(weights, False, 0.0, np.inf, least)
    return Monotone(weights, True, m, largest_singular_value(K, error), least)


def _search(K: np.ndarray) -> np.ndarray:
    """λ > 0 with Σ λ = 1 and a large t with ΛK + KᵀΛ ⪰ t I, times n.

    Newton's method on −c t − log det F − Σ log λᵢ with F = ΛK + KᵀΛ − t I for growing c. With P = F⁻¹,
    G = K P and Q = K P Kᵀ, ∂ log det F / ∂λᵢ = 2 Gᵢᵢ, and the second derivatives are −2 (Gᵢⱼ Gⱼᵢ + Qᵢⱼ Pᵢⱼ).
    No t is above 2 max Gᵢᵢ ÷ tr P, since t tr P ≤ tr P (ΛK + KᵀΛ) = 2 Σ λᵢ Gᵢᵢ: if that is not
    positive there is no Λ, and near it there is none much better.
    """
    size = len(K)
    weights = np.full(size, 1 / size)
    if not np.isfinite(K).all():
        return weights * size
    least = float(np.linalg.eigvalsh(_lyapunov(weights, K))[0])
    t, push = least - max(0.1 * abs(least), 1e-3 / size), 1.0
    for _ in range(_NEWTON_STEPS):
        found = _newton_step(weights, t, K, push)
        if found is None or found.most <= 0 or t > 0.5 * found.most:
            break
        moved = _moved(weights, t, K, push, found)
        if moved is None and push > _MOST_PUSH:
            break
        if moved is not None:
            weights, t = moved
        if moved is None or found.decrement < 0.5:
            push *= 8
    return weights * size


def _lyapunov(weights: np.ndarray, K: np.ndarray) -> np.ndarray:
    product = weights[:, None] * K
    return np.asarray(product + product.T)


@dataclass(frozen=True, slots=True)
class _Step:
    """Directions of λ (of sum 0) and t, Newton's decrement, and what no t is above."""

    along: np.ndarray
    up: float
    decrement: float
    most: float


def _newton_step(weights: np.ndarray, t: float, K: np.ndarray, push: float) -> _Step | None:
    size = len(K)
    try:
        P = np.linalg.inv(_lyapunov(weights, K) - t * np.eye(size))
        G = K @ P
        inner, total = G.diagonal(), float(P.trace())
        gradient = np.append(-2 * inner - 1 / weights, total - push * size)
        H = np.zeros((size + 2, size + 2))
        H[:size, :size] = 2 * (G * G.T + (G @ K.T) * P)
        H[range(size), range(size)] += weights**-2
        H[:size, size] = H[size, :size] = -2 * (G * P).sum(1)
        H[size, size] = (P * P).sum()
        H[size + 1, :size] = H[:size, size + 1] = 1  # Σ λ stays
        direction = np.linalg.solve(H, np.append(-gradient, 0.0))[: size + 1]
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(direction).all():
        return None
    decrement = max(0.0, -float(gradient @ direction)) ** 0.5
    return _Step(direction[:size], float(direction[size]), decrement, 2 * float(inner.max()) / total)


def _moved(
    weights: np.ndarray, t: float, K: np.ndarray, push: float, step: _Step
) -> tuple[np.ndarray, float] | None:
    """The point after the longest halved step that lowers the function; None if none does."""

    def value(at: np.ndarray, level: float) -> float:
        if at.min() <= _ROOM / len(at):
            return float("inf")
        try:
            root = np.linalg.cholesky(_lyapunov(at, K) - level * np.eye(len(at)))
        except np.linalg.LinAlgError:
            return float("inf")
        logarithm = 2 * np.log(root.diagonal()).sum()
        return float(-push * len(at) * level - logarithm - np.log(at).sum())

    start, size = value(weights, t), 1.0
    for _ in range(30):
        at, level = weights + size * step.along, t + size * step.up
        if value(at, level) < start - 1e-12 * abs(start):
            return at, level
        size /= 2
    return None
