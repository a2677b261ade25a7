"""Certificates of 100,000 random loops x = relu(A x + b) of up to 6 states, against the truth.

The truth is that I − A is a P-matrix: all principal minors are positive. It is judged apart from the rules,
by determinants in floating point, and in fractions where these are too close to zero to tell. A quarter of
the systems is scaled onto the edge of a rule, a few units in the last place inside or outside of it.

    python benchmarks/certificates.py [--systems 100000] [--processes 2]
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction

import numpy as np

MOST = 6  # states
CHUNK = 500
ULP = 2.0**-52


def draw(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """The name of a family, and a matrix of it."""
    n = int(rng.integers(1, MOST + 1))
    A = rng.standard_normal((n, n)) * rng.uniform(0.2, 1.3) / np.sqrt(max(1, n / 2))
    family = str(rng.choice(["gauss", "negative diagonal", "sparse", "badly scaled", "quarters", "edge"],
                            p=[0.2, 0.15, 0.15, 0.15, 0.1, 0.25]))  # fmt: skip
    match family:
        case "negative diagonal":
            A -= np.diag(rng.uniform(0, 4, n))
        case "sparse":
            A *= (rng.random((n, n)) < 0.4) * 1.8
        case "badly scaled":
            units = 10.0 ** rng.uniform(-2, 2, n)
            A = units[:, None] * A / units
        case "quarters":
            A = rng.integers(-6, 7, (n, n)) / 4.0
        case "edge":
            A = edge(A, int(rng.integers(5))) * (1 + int(rng.integers(-3, 4)) * ULP)
    return family, A


def edge(A: np.ndarray, which: int) -> np.ndarray:
    """A times what puts it onto the edge of a rule, up to rounding."""
    n = len(A)
    if which == 0:
        size = np.abs(A).sum(1).max()
    elif which == 1:
        size = np.abs(np.linalg.eigvals(np.abs(A))).max()
    elif which == 2:
        size = np.linalg.eigvals(np.abs(A) - np.diag(np.abs(np.diag(A)) - np.diag(A))).real.max()
    elif which == 3:
        size = np.linalg.eigvalsh((A + A.T) / 2)[-1]
    else:  # a real eigenvalue of A at 1: I − A is singular
        roots = np.linalg.eigvals(A)
        size = max((root.real for root in roots if abs(root.imag) < 1e-12), default=float(n))
    return A / size if size > 1e-6 else A


def is_well_posed(A: np.ndarray) -> bool:
    """Whether all principal minors of I − A are positive."""
    n = len(A)
    K = np.eye(n) - A
    for size in range(1, n + 1):
        chosen = np.array(list(itertools.combinations(range(n), size)))
        minors = K[chosen[:, :, None], chosen[:, None, :]]
        values = np.linalg.det(minors)
        doubt = 1e-12 * np.prod(np.abs(minors).sum(2) + 1, axis=1)  # far above the rounding of n³ operations
        if (values < -doubt).any():
            return False
        if any(determinant(exactly(A, rows)) <= 0 for rows in chosen[values <= doubt]):
            return False
    return True


def exactly(A: np.ndarray, rows: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(int(i == j)) - Fraction(float(A[i, j])) for j in rows] for i in rows]


def determinant(M: list[list[Fraction]]) -> Fraction:
    """By elimination with exchanges of rows."""
    M, value = [row[:] for row in M], Fraction(1)
    for k in range(len(M)):
        pivot = next((i for i in range(k, len(M)) if M[i][k]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != k:
            M[k], M[pivot], value = M[pivot], M[k], -value
        value *= M[k][k]
        for i in range(k + 1, len(M)):
            factor = M[i][k] / M[k][k]
            M[i] = [a - factor * b for a, b in zip(M[i], M[k])]
    return value


def judged(seed: int) -> list[tuple[str, str, bool, bool]]:
    """Family, the rule that proves it (or none), whether all but the exact rule prove it, and the truth."""
    from implicit_dsl.model import Block, ImplicitModel, Loop, Tensor, Term
    from implicit_dsl.operators import OPERATORS
    from implicit_dsl.operators.base import Operator
    from implicit_dsl.runtime.certificates import Rule, certify_system
    from implicit_dsl.runtime.system import System

    rng, found = np.random.default_rng(seed), []
    for _ in range(CHUNK):
        family, A = draw(rng)
        n = len(A)
        matrix = Operator("matrix", (n,), (n,), (("transposed", False),), (("weight", "A"),))
        model = ImplicitModel(
            "Random",
            None,
            (),
            (Block("u", (n,)),),
            (Block("x", (n,), OPERATORS["relu"].operator({}, (n,))),),  # type: ignore[attr-defined]
            (Block("y", (n,)),),
            (Term("x", "x", (matrix,)), Term("x", "u", ()), Term("y", "x", ())),
            (Tensor("A", (n, n)),),
            (),
            (Loop(("x",), ("x",)),),
        )
        proof = certify_system(System(model, {"A": A})).loops[0].proof
        rule = "" if proof is None else proof.rule.value
        found.append((family, rule, rule not in ("", Rule.MINORS.value), is_well_posed(A)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    from implicit_dsl.runtime.certificates import Rule

    start = time.perf_counter()
    with ProcessPoolExecutor(options.processes) as pool:
        found = [one for part in pool.map(judged, range(options.systems // CHUNK)) for one in part]
    true = sum(truth for *_, truth in found)
    false = sum(bool(rule) and not truth for _, rule, _, truth in found)
    missed = sum(not rule and truth for _, rule, _, truth in found)
    print(f"{len(found):,} systems, {true:,} well posed ({true / len(found):.1%})")
    print(f"false certificates: {false}    well posed and not certified: {missed}\n")

    families = sorted({family for family, *_ in found})
    print(f"{'share of all, by the first rule':<34}{'all':>8}" + "".join(f"{name:>19}" for name in families))
    for rule in [*(rule.value for rule in Rule), ""]:
        row = Counter(family for family, first, *_ in found if first == rule)
        print(f"{rule or 'none':<34}{sum(row.values()) / len(found):>8.3f}" + _shares(row, found, families))
    sums = Counter(family for family, *_, truth in found if truth)
    print(f"{'well posed':<34}{true / len(found):>8.3f}" + _shares(sums, found, families))
    print(f"\n{time.perf_counter() - start:.0f} s in {options.processes} processes")
    assert false == 0, "a certificate is false"


def _shares(row: Counter[str], found: list[tuple[str, str, bool, bool]], families: list[str]) -> str:
    totals = Counter(family for family, *_ in found)
    return "".join(f"{row[name] / max(1, totals[name]):>19.3f}" for name in families)


if __name__ == "__main__":
    main()
