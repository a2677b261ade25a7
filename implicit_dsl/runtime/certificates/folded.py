"""The loop as one matrix, with its linear states folded.

x = φ(A x + …) over the states with an activation: a linear state ℓ = A_ℓ x is put in where it is read,
Ā_ij = A_ij + Σ_ℓ A_iℓ A_ℓj. The equilibria are the same, and entries of the products may cancel, which
can only lower the Perron root of |Ā| below that of the whole loop (theory: the fold is a product).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import Layout
from implicit_dsl.model import Block, ImplicitModel, Loop
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.interval import MOST_PRODUCTS, Interval
from implicit_dsl.runtime.certificates.magnitudes import Weights
from implicit_dsl.runtime.certificates.rounding import upwards
from implicit_dsl.runtime.certificates.sweep import Sweep
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

MOST_ENTRIES = 4_000_000  # of A within the loop, above which no matrix is made


@dataclass(frozen=True)
class Folded:
    """Ā from the kept states to their slots, both one below the other."""

    sweep: Sweep
    names: tuple[str, ...]
    A: Interval

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return self.sweep.blocks(self.names)

    @property
    def size(self) -> int:
        return int(self.A.mid.shape[1])

    def __call__(self, change: np.ndarray) -> np.ndarray:
        """No less than the changes of all kept states at once, for changes [states] before."""
        moved = upwards(self.A.magnitude @ change, self.size)
        made, start = [], 0
        for block in self.blocks:
            part = moved[start : start + count(block.slots)]
            start += count(block.slots)
            made.append(self.sweep.activated(block, part.reshape(sizes(block.slots))).reshape(-1))
        return np.concatenate(made)

    def by_state(self, vector: np.ndarray) -> tuple[tuple[str, np.ndarray], ...]:
        """A vector over the kept states, by name in the shapes of the states."""
        made, start = [], 0
        for block in self.blocks:
            part = vector[start : start + count(block.shape)]
            start += count(block.shape)
            made.append((block.name, part.reshape(sizes(block.shape)).copy()))
        return tuple(made)

    @cached_property
    def slopes(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Bounds of φ' for each state; None if an activation is not elementwise."""
        low, high = [], []
        for block in self.blocks:
            slope = _slope(block)
            if slope is None:
                return None
            low.append(np.full(count(block.shape), slope[0]))
            high.append(np.full(count(block.shape), slope[1]))
        return np.concatenate(low), np.concatenate(high)

    @cached_property
    def normalised(self) -> Interval | None:
        """K Ā, so that x = ψ(K Ā x + …) with slopes of ψ in [0, 1]; None if φ is no such activation.

        φ with slopes in [0, K] is ψ(K z) with ψ(z) = φ(z ÷ K).
        """
        if self.slopes is None or (self.slopes[0] < 0).any():
            return None
        return self.A.scaled(self.slopes[1])

    @cached_property
    def is_relu(self) -> bool:
        """Whether φ is its own proximal operator at every step size: relu, and no activation."""
        return all(block.activation is None or block.activation.kind == "relu" for block in self.blocks)


def _slope(block: Block) -> tuple[float, float] | None:
    if block.activation is None:
        return 1.0, 1.0
    rule = activation_rule(block.activation)
    return rule.slope(block.activation) if rule.elementwise else None


def fold(sweep: Sweep, weights: Weights) -> Folded | str:
    """The loop as a matrix, or why it is not made."""
    model, loop = sweep.model, sweep.loop
    inner = _inner(model, loop)
    entries = sum(layout.entry_count() for layout in inner.values())
    if entries > MOST_ENTRIES:
        return f"A has {entries:,} entries in this loop, above the limit of {MOST_ENTRIES:,}"
    made = {key: Interval.of(layout, weights) for key, layout in inner.items()}
    linear = linear_states(model, loop)
    kept = tuple(name for name in loop.states if name not in linear)
    through: dict[tuple[str, str], Interval] = {}
    for name in (*linear, *kept):
        for column in kept:
            block = made.get((name, column))
            for middle in linear:
                first, then = through.get((middle, column)), made.get((name, middle))
                if first is None or then is None:
                    continue
                if then.products(first) > MOST_PRODUCTS:
                    return f"folding `{middle}` takes more than {MOST_PRODUCTS:,} multiplications"
                product = then @ first
                block = product if block is None else block + product
            if block is not None:
                through[name, column] = block
    return Folded(sweep, kept, _assembled(model, kept, through))


def _inner(model: ImplicitModel, loop: Loop) -> dict[tuple[str, str], Layout]:
    """The blocks of A within a loop."""
    whole = Layout.of(model, "A")
    keys = [
        (name, term.source)
        for name in loop.states
        for term in model.terms_of[name]
        if term.source in loop.states
    ]
    return {(row, col): whole.block(row, col) for row, col in dict.fromkeys(keys) if col is not None}


def linear_states(model: ImplicitModel, loop: Loop) -> tuple[str, ...]:
    """The states of a loop that can be folded, each behind those that it reads.

    Those without activation and, if they are iterated, no cycle among themselves.
    """
    plain = [name for name in loop.states if _is_linear(model.blocks[name])]
    chosen = [name for name in plain if name not in loop.iterated]
    order = _order(model, chosen)
    if order is None:
        return ()
    for name in plain:
        if name in loop.iterated:
            longer = _order(model, [*order, name])
            order = order if longer is None else longer
    return tuple(order)


def _is_linear(block: Block) -> bool:
    return block.activation is None or block.activation.kind == "identity"


def _order(model: ImplicitModel, names: list[str]) -> list[str] | None:
    sorter = TopologicalSorter(
        {name: [term.source for term in model.terms_of[name] if term.source in names] for name in names}
    )
    try:
        return [name for name in sorter.static_order() if name is not None]
    except CycleError:
        return None


def _assembled(
    model: ImplicitModel, kept: tuple[str, ...], parts: Mapping[tuple[str, str], Interval]
) -> Interval:
    import scipy.sparse as sparse

    def empty(row: str, col: str) -> Interval:
        return Interval.zeros(count(model.blocks[row].slots), count(model.blocks[col].shape))

    grid = [[parts.get((row, col)) or empty(row, col) for col in kept] for row in kept]
    if len(kept) == 1:
        return grid[0][0]
    mid = sparse.block_array([[part.mid for part in row] for row in grid], format="csr")
    rad = sparse.block_array([[part.rad for part in row] for row in grid], format="csr")
    return Interval(mid.tocsr(), rad.tocsr())
