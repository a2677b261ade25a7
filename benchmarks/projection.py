"""Projection of rows onto ℓ1 balls, and the Perron root of |A| with proved bounds.

    OMP_NUM_THREADS=1 python benchmarks/projection.py [--sizes 1000 2000 4000] [--rounds 7]

Rows: 3 N(0, 1)/√n, far outside of ‖A‖∞ ≤ 0.95, and the same after one small step from the boundary;
against sorting in PyTorch (Duchi et al. 2008), and against that row by row in a Python loop. The error is
the largest against float64. Perron root: power iteration between Collatz–Wielandt bounds, rounded
outwards, against `scipy.sparse.linalg.eigs` (ARPACK), which bounds nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import numpy as np
import torch
from interleave import interleave, report
from scipy.sparse.linalg import LinearOperator, eigs
from torch import Tensor

from implicit_dsl.runtime.certificates.contraction import perron
from implicit_dsl.runtime.constraints.balls import onto_balls
from implicit_dsl.runtime.native.library import SWITCH

KAPPA = 0.95


def by_sorting(a: Tensor, radius: float = KAPPA) -> Tensor:
    """All rows at once."""
    falling = a.abs().sort(1, descending=True)[0]
    counts = torch.arange(1, a.shape[1] + 1, dtype=a.dtype)
    bounds = (falling.cumsum(1) - radius) / counts
    last = (falling > bounds).sum(1, keepdim=True) - 1
    theta = bounds.gather(1, last).clamp_min(0.0)
    return a.sign() * (a.abs() - theta).clamp_min(0.0)


def row_by_row(a: Tensor) -> Tensor:
    return torch.cat([by_sorting(row[None]) for row in a])


def ours(a: Tensor, kernel: bool) -> Tensor:
    os.environ[SWITCH] = "1" if kernel else "0"
    return onto_balls(a, torch.full((len(a),), KAPPA, dtype=a.dtype))


def rows(n: int, rounds: int) -> None:
    far = 3 * torch.randn(n, n) / n**0.5
    near = by_sorting(far.double()).float() + 1e-4 * torch.randn(n, n)
    for title, a in (("far outside", far), ("after a step", near)):
        methods: dict[str, Callable[[], Tensor]] = {
            "row by row": lambda a=a: row_by_row(a),
            "sorting": lambda a=a: by_sorting(a),
            "PyTorch": lambda a=a: ours(a, kernel=False),
            "native": lambda a=a: ours(a, kernel=True),
            "copy": lambda a=a: a.clone(),
        }
        exact = by_sorting(a.double())
        errors = {name: float((run() - exact).abs().max()) for name, run in methods.items() if name != "copy"}
        print(f"n = {n}, {title}; errors " + ", ".join(f"{name} {e:.0e}" for name, e in errors.items()))
        report("    over row by row", interleave(methods, rounds), "row by row")


def roots(n: int, rounds: int) -> None:
    A = np.abs(np.random.default_rng(0).standard_normal((n, n)))
    A *= 0.9 / A.sum(1).max()
    found = perron(lambda v: A @ v, n)
    operator = LinearOperator((n, n), matvec=lambda v: A @ v, dtype=A.dtype)
    timed: dict[str, Callable[[], object]] = {
        "perron": lambda: perron(lambda v: A @ v, n),
        "ARPACK": lambda: eigs(operator, k=1, which="LM", tol=1e-6, return_eigenvectors=False),
    }
    print(f"n = {n}: Perron root in [{found.lower:.12f}, {found.upper:.12f}]")
    report("    over ARPACK", interleave(timed, rounds), "ARPACK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for n in options.sizes:
        rows(n, options.rounds)
    for n in options.sizes:
        roots(n, options.rounds)


if __name__ == "__main__":
    main()
