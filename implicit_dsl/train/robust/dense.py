"""Interval bounds around a loop of one small state, as one dense equilibrium of twice its size.

(x̲, x̄) = φ([A⁺ A⁻; A⁻ A⁺] (x̲, x̄) + (c̲, c̄)),   A⁺ = max(A, 0), A⁻ = min(A, 0)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast, get_args

import torch

from implicit_dsl.model import Block
from implicit_dsl.runtime import Auto, ConvergenceError, DenseEquilibrium
from implicit_dsl.runtime.dense.activation import Name
from implicit_dsl.shapes import count, sizes
from implicit_dsl.train.robust.equations import Interval, Weighted

_LARGEST = 256  # numbers of a state


def is_dense(block: Block) -> bool:
    """Whether a loop of this state alone is solved by its matrix."""
    return block.phi in get_args(Name) and count(block.shape) <= _LARGEST


def solved_densely(weighted: Weighted, block: Block, given: Interval, tolerance: float | None) -> Interval:
    """Bounds of a state that reads itself; `given` is the centre and radius of the rest of z.

    Raises ValueError where they do not settle.
    """
    A = weighted.rows(block.name, block.name)
    above, below = (A + A.abs()) / 2, (A - A.abs()) / 2  # both have the slope ½ at zero
    both = torch.cat([torch.cat([above, below], 1), torch.cat([below, above], 1)])
    centre, radius = (part.flatten(1) for part in given)
    phi = cast(Name, block.phi)
    slope = block.activation["slope"] if block.activation is not None and phi == "leaky_relu" else 0.01
    layer = DenseEquilibrium(phi, f"bounds of {block.name}", slope=slope, solver=Auto(tolerance=tolerance))
    with settling(block.name):
        found = layer(both, torch.cat([centre - radius, centre + radius], 1))
    lower, upper = (part.reshape(-1, *sizes(block.shape)) for part in found.chunk(2, 1))
    return lower, upper


@contextmanager
def settling(name: str) -> Iterator[None]:
    """Tell what to do where the bounds around the loop of a state do not settle: ValueError."""
    try:
        yield
    except ConvergenceError as wrong:
        raise ValueError(
            f"interval bounds around the loop of `{name}` do not settle: that needs a Perron root of "
            "M|A| below 1. Bound it, by `@wellposed norm(A, Inf) <= 0.95` or `@wellposed spectral(abs(A)) <= "
            f"0.95`, and call `model.project_()` after each step of the optimiser ({wrong})"
        ) from wrong


__all__ = ["is_dense", "settling", "solved_densely"]
