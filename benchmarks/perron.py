"""The Perron root of |A| between proved bounds, against ARPACK, which gives an estimate and no bound.

    OMP_NUM_THREADS=1 python benchmarks/perron.py [--sizes 1000 2000 4000] [--rounds 9]

A in float32 or float64, as weights are; dense, and sparse: a path (its root is nearly double), a random
graph, a band with a localised vector, and block triangular. ARPACK is `scipy.sparse.linalg.eigs(|A|, k=1)` in
float64, as a proof would need it, with tol = 1e-6; |A| is made before. Ours are `perron_bounds` to the gaps
1e-4 and 1e-6.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse as sparse
import torch
from interleave import interleave, ratio
from scipy.sparse.linalg import ArpackNoConvergence, eigs

from implicit_dsl.runtime import perron_bounds


def cases(n: int) -> Iterator[tuple[str, object, object]]:
    """Name, A, and |A| for ARPACK."""
    rng = np.random.default_rng(0)
    W = torch.randn(n, n) / n
    yield "dense float32", W, W.double().abs().numpy()
    yield "dense float64", W.double(), W.double().abs().numpy()
    path = sparse.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1], format="csr")
    yield "path", path, path
    graph = sparse.random_array((n, n), density=10 / n, rng=rng, format="csr")
    yield "random graph", graph, graph
    band = sparse.diags_array(
        [rng.random(n - abs(k)) for k in range(-3, 4)], offsets=range(-3, 4), format="csr"
    )
    yield "band", band, band
    blocks = sparse.block_array([[graph, graph], [None, graph]], format="csr")
    yield "two blocks", blocks, blocks


def arpack(A: object) -> float:
    try:
        return float(abs(eigs(A, k=1, which="LM", tol=1e-6, return_eigenvectors=False)[0]))
    except ArpackNoConvergence:
        return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for n in options.sizes:
        for name, A, magnitude in cases(n):
            methods: dict[str, Callable[[], object]] = {
                "gap 1e-4": lambda A=A: perron_bounds(A, gap=1e-4),
                "gap 1e-6": lambda A=A: perron_bounds(A, gap=1e-6),
                "ARPACK": lambda A=magnitude: arpack(A),
            }
            found = interleave(methods, options.rounds)
            lower, upper, _ = perron_bounds(A, gap=1e-6)
            shown = []
            for gap in ("gap 1e-4", "gap 1e-6"):
                middle, low, high = ratio(found, "ARPACK", gap)
                shown.append(f"{np.median(found[gap]) * 1e3:.2f} ms, {middle:.1f}x [{low:.1f}, {high:.1f}]")
            print(
                f"n = {n}, {name:<14} ARPACK {np.median(found['ARPACK']) * 1e3:7.2f} ms  1e-4: {shown[0]:<28}"
                f" 1e-6: {shown[1]:<28} [{lower:.9f}, {upper:.9f}], ARPACK {arpack(magnitude):.9f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
