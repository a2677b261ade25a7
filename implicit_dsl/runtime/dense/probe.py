"""Whether oneDNN multiplies faster than the BLAS of PyTorch here: measured once, when first asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.rows import pack, packed_product

# Large enough that arithmetic dominates, small enough for some ten milliseconds in all.
ROWS, SIZE, ROUNDS = 128, 512, 5
# It must be clearly faster, since packing and a fresh result for each product come on top.
MARGIN = 0.8


@cache
def packed_faster() -> bool:
    """Whether `mkldnn._linear_pointwise` is there (it is private), right, and faster than `addmm`."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(ROWS, SIZE, generator=generator)
        weight, c, out = (
            torch.randn(SIZE, SIZE, generator=generator),
            torch.ones(ROWS, SIZE),
            torch.empty(ROWS, SIZE),
        )
        plain = torch.addmm(c, x, weight.T)
        try:
            packed = pack(weight, ROWS)
            found = packed_product(x, c, packed)
        except (RuntimeError, TypeError, AttributeError):  # another version, other arguments
            return False
        if not torch.allclose(found, plain, rtol=1e-4, atol=1e-3):
            return False
        by_packed = fastest(lambda: packed_product(x, c, packed))
        by_blas = fastest(lambda: torch.addmm(c, x, weight.T, out=out))
    return by_packed < MARGIN * by_blas


def fastest(run: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of a few calls."""
    run()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
