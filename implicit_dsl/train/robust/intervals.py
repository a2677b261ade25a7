"""Interval bounds of all states over boxes of inputs, differentiable in the weights.

Without loops they are those of Gowal et al. (2018). Around a loop

    x̲ = φ(A⁺ x̲ + A⁻ x̄ + B⁺ u̲ + B⁻ ū + b),   x̄ = φ(A⁺ x̄ + A⁻ x̲ + B⁺ ū + B⁻ u̲ + b)

is one equation of twice the size (Jafarpour et al. 2022), a contraction where the Perron root of M|A| is
below 1, as [A⁺ |A⁻|; |A⁻| A⁺] has that of |A|. Gradients are those of the implicit function theorem.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from implicit_dsl.model import Loop
from implicit_dsl.runtime import Auto, Equilibrium
from implicit_dsl.shapes import sizes
from implicit_dsl.train.robust.dense import is_dense, settling, solved_densely
from implicit_dsl.train.robust.equations import Interval, Weighted, activated


def bounds_of_states(
    weighted: Weighted, inputs: dict[str, Interval], tolerance: float | None
) -> dict[str, Interval]:
    """Bounds of the inputs and states by name, [batch, *shape] each.

    Raises ValueError where the bounds around a loop do not settle.
    """
    equations = weighted.equations
    values = dict(inputs)
    batch = len(next(iter(inputs.values()))[0])
    done: set[str] = set()
    for block in equations.model.states:
        if block.name in done:
            continue
        loop = equations.loop_of.get(block.name)
        if loop is None:
            values[block.name] = activated(
                block, weighted.read(block, values, weighted.offsets(block, batch))
            )
        else:
            values.update(_around(weighted, loop, values, batch, tolerance))
            done.update(loop.states)
    return values


def _around(
    weighted: Weighted, loop: Loop, values: dict[str, Interval], batch: int, tolerance: float | None
) -> dict[str, Interval]:
    """Bounds of the states of a loop, from those of what it reads."""
    equations = weighted.equations
    blocks = {name: equations.model.blocks[name] for name in loop.states}
    given = {
        name: weighted.read(block, values, weighted.offsets(block, batch)) for name, block in blocks.items()
    }
    (name, *others) = loop.states
    if not others and is_dense(blocks[name]):
        return {name: solved_densely(weighted, blocks[name], given[name], tolerance)}
    inner = {
        (name, source): chains
        for name in loop.states
        for source, chains in equations.chains(name).items()
        if source in blocks
    }
    summed = {
        key: entries
        for key, chains in inner.items()
        if (entries := weighted.entries(*key, chains)) is not None
    }
    ids = list(
        dict.fromkeys(
            id for chains in inner.values() for chain in chains for op in chain for _, id in op.parameters
        )
    )

    def swept(own: Weighted, ends: tuple[Tensor, ...], outer: dict[str, Interval]) -> dict[str, Interval]:
        known = {name: (ends[2 * at], ends[2 * at + 1]) for at, name in enumerate(loop.iterated)}
        found: dict[str, Interval] = {}
        for name, block in blocks.items():
            found[name] = activated(block, own.read(block, known, outer[name]))
            if name not in loop.iterated:
                known[name] = found[name]
        return found

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        ends, rest = tensors[: 2 * len(loop.iterated)], tensors[2 * len(loop.iterated) :]
        outer = {name: (rest[2 * at], rest[2 * at + 1]) for at, name in enumerate(blocks)}
        shared = rest[2 * len(blocks) :]
        of_sums = dict(zip(summed, shared[len(ids) :]))
        own = Weighted(equations, dict(zip(ids, shared)), weighted.like, of_sums)
        found = swept(own, ends, outer)
        return tuple(end for name in loop.iterated for end in found[name])

    start = tuple(
        weighted.like.new_zeros(batch, *sizes(blocks[name].shape)) for name in loop.iterated for _ in range(2)
    )
    batched = tuple(part for name in blocks for part in given[name])
    shared = (*(weighted.tensors[id] for id in ids), *summed.values())
    ends = _settled(step, start, batched, shared, loop, tolerance)
    found = swept(weighted, ends, given)
    for at, name in enumerate(loop.iterated):
        found[name] = ends[2 * at], ends[2 * at + 1]
    return found


def _settled(
    step: Callable[..., tuple[Tensor, ...]],
    start: tuple[Tensor, ...],
    batched: tuple[Tensor, ...],
    shared: tuple[Tensor, ...],
    loop: Loop,
    tolerance: float | None,
) -> tuple[Tensor, ...]:
    layer = Equilibrium(step, f"bounds of {loop.name}", solver=Auto(tolerance=tolerance))
    with settling(loop.name):
        found: tuple[Tensor, ...] = layer(start, batched, shared)
    return found


__all__ = ["bounds_of_states"]
