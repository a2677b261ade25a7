"""Sparse matrices known up to rounding: all M with |M − mid| ≤ rad."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import Layout, Tie
from implicit_dsl.runtime.certificates.magnitudes import Weights
from implicit_dsl.runtime.certificates.rounding import SLACK, TINY, UNIT, growth

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

MOST_PRODUCTS = 20_000_000  # multiplications of one product of sparse matrices: about a second


@dataclass(frozen=True)
class Interval:
    """Matrices around `mid` [rows, columns]; `rad` has entries where mid is not exact."""

    mid: sparse.csr_array
    rad: sparse.csr_array

    @staticmethod
    def zeros(rows: int, columns: int) -> Interval:
        return Interval(sparse.csr_array((rows, columns)), sparse.csr_array((rows, columns)))

    @staticmethod
    def of(layout: Layout, weights: Weights) -> Interval:
        """A block of A. Entries of one parameter alone are exact, sums and products with factors rounded."""
        shape, parts = layout.shape, list(valued(layout, weights))
        if not parts:
            return Interval.zeros(*shape)
        rows, cols, values = (np.concatenate([part[k] for part in parts]) for k in range(3))
        inexact = np.concatenate([np.full(len(part[0]), not part[3]) for part in parts])
        mid = sparse.csr_array((values, (rows, cols)), shape=shape)
        size = sparse.csr_array((np.abs(values), (rows, cols)), shape=shape)
        if mid.nnz < len(values):  # parallel terms, or entries of one kernel, met in one entry
            meeting = sparse.csr_array((np.ones(len(values)), (rows, cols)), shape=shape)
            rad = growth(len(parts) * int(meeting.data.max())) * size
        else:
            at = (rows[inexact], cols[inexact])
            rad = sparse.csr_array((SLACK * UNIT * np.abs(values[inexact]), at), shape=shape)
        return Interval(mid, rad)

    def __add__(self, other: Interval) -> Interval:
        if not (other.mid.nnz or other.rad.nnz):
            return self
        if not (self.mid.nnz or self.rad.nnz):
            return other
        mid = self.mid + other.mid
        return Interval(mid, _outwards(self.rad + other.rad + 2 * UNIT * abs(mid), 4))

    def products(self, other: Interval) -> int:
        """How many multiplications M₁ M₂ takes."""
        return int(np.diff(other.mid.indptr)[self.mid.indices].sum())

    def __matmul__(self, other: Interval) -> Interval:
        """|M₁M₂ − mid₁ mid₂| ≤ γ |mid₁||mid₂| + rad₁ (|mid₂| + rad₂) + |mid₁| rad₂.

        SciPy leaves out entries that cancel to zero: these have a radius and no middle.
        """
        inner = self.mid.shape[1]
        mid, size = self.mid @ other.mid, abs(self.mid) @ abs(other.mid)
        rad = growth(inner) * size + abs(self.mid) @ other.rad
        if self.rad.nnz:
            rad = rad + self.rad @ (abs(other.mid) + other.rad)
        return Interval(mid, _outwards(rad, inner))

    def scaled(self, factors: np.ndarray) -> Interval:
        """diag(K) M, for factors K ≥ 0."""
        if (factors == 1).all():
            return self
        rows = sparse.diags_array(factors)
        rounding = np.where(np.frexp(factors)[0] == 0.5, 0.0, UNIT)
        rad = rows @ self.rad + sparse.diags_array(rounding * factors) @ abs(self.mid)
        return Interval((rows @ self.mid).tocsr(), _outwards(rad.tocsr(), 4))

    @cached_property
    def magnitude(self) -> sparse.csr_array:
        """No less than |M|."""
        return _outwards(abs(self.mid) + self.rad, 2)

    @property
    def exact(self) -> bool:
        return not self.rad.nnz

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        return self.mid.toarray(), self.rad.toarray()


def _outwards(rad: sparse.csr_array, terms: int) -> sparse.csr_array:
    """No less than the exact radii, for computed ones that were sums of `terms`."""
    made = rad.tocsr()
    made.data = made.data * (1 + growth(terms)) + TINY
    return made


def valued(layout: Layout, weights: Weights) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, bool]]:
    """Rows, columns and values of each tie, and whether the values are exact."""
    for summand in layout.summands():
        factors = [float(operator["factor"]) for operator in summand.chain if operator.kind == "scale"]
        rounded = sum(not _is_power(factor) for factor in factors)
        for tie in layout.ties(weights, summand):
            values = np.empty(len(tie.rows))
            tie.write(weights, values)
            yield tie.rows, tie.cols, values, _is_exact(tie, values, weights, rounded, summand.mixing is None)


def _is_exact(tie: Tie, values: np.ndarray, weights: Weights, rounded: int, plain: bool) -> bool:
    """A parameter times powers of two, or one constant factor. A mean of nine values, a root, a product of
    two other factors, and what leaves the range of float64 are rounded.

    `rounded` counts the factors of its chain that are no powers of two; `plain`: there are only factors.
    """
    factor = tie.coefficients
    if not isinstance(factor, float) or not np.isfinite(values).all():
        return False
    if tie.parameter is None or tie.slots is None:
        return (
            _is_normal(factor) and (rounded == 0 or (plain and rounded == 1)) and (plain or _is_power(factor))
        )
    if rounded or not _is_power(factor):
        return False
    return abs(factor) == 1 or bool(
        (values / factor == np.asarray(weights[tie.parameter]).reshape(-1)[tie.slots]).all()
    )


def _is_power(factor: float) -> bool:
    """Whether a number is a power of two or its opposite."""
    return abs(math.frexp(factor)[0]) == 0.5 and _is_normal(factor)


def _is_normal(factor: float) -> bool:
    """Whether a factor has all its digits: it did not underflow."""
    return factor == 0 or 2.0**-1022 <= abs(factor) < math.inf
