"""Which of the ways to solve a dense equilibrium is taken, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import torch

# A kernel built by the system compiler knows these.
NATIVE_DTYPES = (torch.float32, torch.float64)
# One row: Picard alone, then Newton, by the observed rate. More rows: Picard, then Anderson row by row.
SINGLE_ROW = 1
# Picard steps before acceleration: most models at initialisation are done by then. In PyTorch an
# accelerated step of a matrix up to CHEAP_SIZE costs ten plain ones, which are tried for longer; from
# LARGE_SIZE on, no more than two.
PICARD_STEPS = 10
CHEAP_SIZE, CHEAP_PICARD_STEPS = 128, 24
LARGE_SIZE, LARGE_PICARD_STEPS = 512, 4
# Steps that Anderson acceleration remembers at most; for more there is the general solver.
MOST_MEMORY = 5
# oneDNN pays only for products of some size (and only where the probe finds it faster).
PACKED_ROWS = 64
PACKED_SIZE = 256
# ‖A‖ costs two passes over A, a step costs as many as there are rows: from here on it is cheap to
# know whether f(x) is as good as the x that was checked.
NORM_ROWS = 16


class Method(Enum):
    """How rows are iterated."""

    NATIVE = "native kernel"
    SINGLE = "one row in PyTorch"
    ROWS = "rows in PyTorch"
    COUNTED = "steps counted beforehand"


@dataclass(frozen=True, slots=True)
class Route:
    """The way that is taken for one solve, and why."""

    method: Method
    accelerated: bool
    packed: bool
    reason: str

    def __str__(self) -> str:
        words = [self.method.value]
        if self.accelerated:
            words.append(
                "Picard, Anderson where that is slow"
                if self.method is not Method.SINGLE
                else "Picard, Newton"
            )
        else:
            words.append("Picard")
        if self.packed:
            words.append("oneDNN")
        return f"{', '.join(words)} ({self.reason})"


@lru_cache(256)  # it is asked at every solve
def dispatch(
    n: int,
    batch: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    activation: str = "relu",
    rate: float | None = None,
    native_available: bool = False,
    packed_faster: bool = False,
) -> Route:
    """The route for x = φ(A x + c) with A (n, n) and c (batch, n).

    `rate` is a proved contraction factor, `packed_faster` what the probe of oneDNN says.
    """
    where = torch.device(device).type
    if where != "cpu" and rate is not None and rate < 1:
        return Route(
            Method.COUNTED, False, False, f"rate {rate:g} is proved: nothing is read from the {where}"
        )
    if native_available and where == "cpu" and dtype in NATIVE_DTYPES:
        return Route(Method.NATIVE, True, False, f"{dtype} on the CPU, {activation} is fused")
    if batch <= SINGLE_ROW and where == "cpu":
        return Route(Method.SINGLE, True, False, "one row: calls cost more than arithmetic")
    packed = (
        packed_faster
        and where == "cpu"
        and dtype == torch.float32
        and batch >= PACKED_ROWS
        and n >= PACKED_SIZE
    )
    return Route(Method.ROWS, True, packed, f"{batch} rows, n = {n}")


def picard_steps(n: int) -> int:
    """After how many plain steps rows of n unknowns are accelerated, in PyTorch."""
    if n <= CHEAP_SIZE:
        return CHEAP_PICARD_STEPS
    return PICARD_STEPS if n < LARGE_SIZE else LARGE_PICARD_STEPS
