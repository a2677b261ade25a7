"""P-matrices: all principal minors of I − A are positive, in exact arithmetic.

Let φ have slopes in [0, 1] and F(x) = x − φ(A x + b). Then F(x) − F(y) = (I − DA)(x − y) for some diagonal
D between 0 and I. det(I − DA) is linear in each entry of D, so it is a mean of its values for entries
0 and 1, which are the principal minors of I − A. If these are positive, the I − DA are a compact set of
invertible matrices: |F(x) − F(y)| ≥ c |x − y| for some c > 0, and F is a homeomorphism of ℝⁿ: one solution
for each b. For relu the condition is necessary too, as a linear complementarity problem shows (Cottle, Pang
and Stone 1992). Deciding it takes 2ⁿ minors.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TypeAlias

from implicit_dsl.matrices import Layout
from implicit_dsl.runtime.certificates.folded import Folded, linear_states
from implicit_dsl.runtime.certificates.interval import valued
from implicit_dsl.runtime.certificates.magnitudes import Weights
from implicit_dsl.shapes import count

LARGEST = 15  # states: 2¹⁵ minors
LARGEST_UNFOLDED = 60  # states of the loop before its linear ones are folded
Exact: TypeAlias = list[list[Fraction]]


def is_p_matrix(M: Exact) -> bool:
    """Whether all principal minors of a matrix of fractions are positive."""
    scale = math.lcm(*(entry.denominator for row in M for entry in row)) if M else 1
    return _all_positive([[int(entry * scale) for entry in row] for row in M], 1)


def _all_positive(M: list[list[int]], pivot: int) -> bool:
    """The entries of M are minors, bordered by those of a set of rows whose minor is `pivot`.

    So the diagonal holds principal minors; those that have the first row too are found by a step of
    Bareiss's elimination, whose divisions leave no remainder, and the others in the rest of M.
    """
    if any(M[k][k] <= 0 for k in range(len(M))):
        return False
    if len(M) < 2:
        return True
    first, head = M[0][0], M[0][1:]
    if not _all_positive([row[1:] for row in M[1:]], pivot):
        return False
    schur = [[(first * b - row[0] * a) // pivot for a, b in zip(head, row[1:])] for row in M[1:]]
    return _all_positive(schur, first)


def exact_difference(folded: Folded, weights: Weights) -> Exact | None:
    """I − K Ā as fractions, or None if some entry is only known up to rounding."""
    assert folded.slopes is not None
    model, loop = folded.sweep.model, folded.sweep.loop
    linear = linear_states(model, loop)
    order = (*linear, *folded.names)
    first, total = {}, 0
    for name in order:
        first[name] = total
        total += count(model.blocks[name].shape)
    A = [[Fraction(0)] * total for _ in range(total)]
    whole = Layout.of(model, "A")
    for name in order:
        for source in dict.fromkeys(term.source for term in folded.sweep.terms[name]):
            assert source is not None
            for rows, cols, values, exact in valued(whole.block(name, source), weights):
                if not exact:
                    return None
                for row, col, value in zip(rows, cols, values):
                    A[first[name] + int(row)][first[source] + int(col)] += Fraction(float(value))
    return _reduced(A, sum(count(model.blocks[name].shape) for name in linear), folded.slopes[1].tolist())


def _reduced(A: Exact, linear: int, slopes: list[float]) -> Exact:
    """I − K Ā, once the first `linear` states, each of which reads only earlier ones of them, are folded."""
    for row in range(len(A)):
        for middle in range(linear):  # those of one block do not read one another
            factor = A[row][middle]
            if factor and middle != row:
                A[row][middle] = Fraction(0)
                A[row] = [entry + factor * through for entry, through in zip(A[row], A[middle])]
    kept = [row[linear:] for row in A[linear:]]
    return [
        [Fraction(int(i == j)) - Fraction(slopes[i]) * entry for j, entry in enumerate(row)]
        for i, row in enumerate(kept)
    ]
