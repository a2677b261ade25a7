"""Bounds of rounding errors in float64, so that what is computed proves something of the exact numbers.

Sources: Higham, Accuracy and Stability of Numerical Algorithms (2002), §3 and theorem 10.3; Rump,
Verification of positive definiteness, BIT 46 (2006).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

UNIT = 2.0**-53  # the unit roundoff u of float64
TINY = 1e-290  # covers what underflow loses, also in sums of many products
_SMALL, _POWERS = 200, 60  # states with all eigenvalues, and steps to the largest one of more
SLACK = 64  # roundings that no count of a sum covers: roots, quotients, factors on the way


def growth(terms: int) -> float:
    """γ ≥ k u ÷ (1 − k u) for k = terms + SLACK.

    A sum of so many products of non-negative numbers, in any order and with or without fused
    multiplications, has at most this relative error, as do max, roots and quotients of it.
    """
    k = (terms + SLACK) * UNIT
    assert k < 0.01, "a sum of 10¹³ terms"
    return 1.02 * k


def upwards(values: np.ndarray, terms: int) -> np.ndarray:
    """No less than the exact results, for computed non-negative `values` that were sums of `terms`."""
    made = values * (1 + growth(terms)) + TINY
    if not np.isfinite(made.sum()):  # infinity times zero, in a sum: unknown
        made = np.where(np.isnan(made), np.inf, made)
    return np.asarray(made)


def greatest_ratio(above: np.ndarray, below: np.ndarray) -> float:
    """No less than max aᵢ ÷ vᵢ, for vᵢ > 0."""
    if not len(above):
        return 0.0
    with np.errstate(over="ignore"):
        largest = float(np.max(above / below))
    return float(np.nextafter(largest, np.inf))


def in_units(v: np.ndarray) -> np.ndarray:
    """v times a power of two, so that its largest entry lies between ½ and 1: exactly the same vector."""
    return np.asarray(np.ldexp(v, -int(np.frexp(v.max(initial=0.0))[1])))


def largest_row_sum(magnitudes: np.ndarray) -> float:
    """No less than ‖E‖∞ for a non-negative E: for a symmetric one also a bound of its 2-norm."""
    return float(upwards(magnitudes.sum(1), magnitudes.shape[1]).max(initial=0.0))


def is_positive_definite(S: np.ndarray, error: float) -> bool:
    """Whether each symmetric matrix within `error` (in the 2-norm) of S is proved positive definite.

    If Cholesky's method runs to completion on S − c I in floating point, it has factored a matrix
    that differs from it by at most γ/(1 − γ) d dᵀ, with γ = γ_{n+1} and dᵢ = √(sᵢᵢ − c) (Higham, theorem
    10.3). So λ_min(S − c I) ≥ −γ/(1 − γ) tr S, and c > error + γ/(1 − γ) tr S, plus the rounding of
    the diagonal, proves λ_min > 0 for all of them (Rump).
    """
    diagonal = np.diag(S)
    if not (np.isfinite(S).all() and np.isfinite(error) and (diagonal > 0).all()):
        return False
    size = len(S)
    shift = 1.01 * (error + growth(size) * float(diagonal.sum())) + TINY * size
    shifted = S.copy()
    shifted[np.diag_indices(size)] -= shift + 4 * UNIT * diagonal
    try:
        root = np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(root).all())  # some LAPACKs take a pivot that is no number


def symmetric_part(K: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, float]:
    """(K + Kᵀ) ÷ 2, symmetric to the last bit, and a bound of its error in the 2-norm.

    `error` bounds that of K, entry by entry.
    """
    S = (K + K.T) / 2
    return S, largest_row_sum((error + error.T) / 2 + 2 * UNIT * np.abs(S))


def least_eigenvalue(S: np.ndarray, error: float, computed: float) -> float | None:
    """A proved lower bound of the least eigenvalue of all matrices within `error` of S, if it is positive.

    `computed` is that of S in floating point; 0 if only the sign is proved.
    """
    guess = computed - error
    for share in (1 - 1e-9, 1 - 1e-6, 0.99, 0.5):
        if guess > 0 and exceeds(S, error, share * guess):
            return share * guess
    return 0.0 if is_positive_definite(S, error) else None


def exceeds(S: np.ndarray, error: float, bound: float) -> bool:
    """Whether the least eigenvalue of all matrices within `error` of S is proved above `bound`."""
    moved = S.copy()
    moved[np.diag_indices(len(S))] -= bound
    return is_positive_definite(moved, error + 2 * UNIT * float(np.abs(np.diag(S)).max(initial=0.0) + bound))


def largest_singular_value(M: np.ndarray, error: np.ndarray) -> float:
    """A proved upper bound of ‖M‖₂ for all matrices within `error` (entry by entry) of M.

    c² I − MᵀM is shown to be positive definite, or else ‖M‖₂² ≤ ‖M‖₁ ‖M‖∞ is used.
    """
    size = np.abs(M) + error
    product, magnitude = M.T @ M, size.T @ size
    slack = magnitude - np.abs(M).T @ np.abs(M) + 2 * growth(2 * len(M)) * magnitude
    off = largest_row_sum(np.maximum(slack, 0.0))
    coarse = largest_row_sum(size.T) * largest_row_sum(size)
    guess = _largest_eigenvalue(product) if np.isfinite(product).all() else np.inf
    for factor in (1 + 1e-9, 1 + 1e-4, 1.02, 1.2):
        bound = factor * (guess + off) + TINY
        if bound < coarse and exceeds_square(product, off, bound):
            return float(np.nextafter(np.sqrt(bound), np.inf))
    return float(np.sqrt(coarse) * (1 + 4 * UNIT))


def _largest_eigenvalue(S: np.ndarray) -> float:
    """That of a positive semidefinite S, as computed; for a large one from below, by the power iteration."""
    if len(S) <= _SMALL:
        return float(np.linalg.eigvalsh((S + S.T) / 2)[-1])
    v = np.random.default_rng(0).standard_normal(len(S))
    for _ in range(_POWERS):
        v = S @ (v / np.linalg.norm(v))
    return float(np.linalg.norm(v))


def exceeds_square(product: np.ndarray, error: float, bound: float) -> bool:
    """Whether `bound` I − P is proved positive definite for all P within `error` of a product."""
    S = -(product + product.T) / 2
    S[np.diag_indices(len(S))] += bound
    rounding = 4 * UNIT * float(np.abs(S).sum(1).max(initial=0.0) + bound)
    return is_positive_definite(S, error + rounding)
