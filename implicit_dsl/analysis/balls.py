"""Balls around the equilibria of monotone loops, where no box closes: proofs that rest on 2-norms.

Let z = A x + q for the states x = φ(z) of a loop, its linear ones folded, with slopes in [0, 1]: then
z − x ∈ ∂f(x) for a convex f that is a sum over entries. For ⟨(I − A) x, x⟩ ≥ m ‖x‖² in the norm of λ,
equilibria for q and q₀ have ‖x − x₀‖ ≤ ‖q − q₀‖ ÷ m, as ⟨(A − I) Δx + Δq, Δx⟩ ≥ 0 (Winston and Kolter 2020,
theorem 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.intervals import Box, around, image, pre_activation
from implicit_dsl.analysis.network import Node
from implicit_dsl.model import Loop
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.result import Proof
from implicit_dsl.runtime.certificates.rounding import growth, upwards

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


def within_ball(
    loop: Loop,
    nodes: Sequence[Node],
    proof: Proof,
    values: Mapping[str, Box],
    middle: Mapping[str, np.ndarray],
) -> dict[str, Box] | None:
    """Boxes [batch, size] of the iterated states of a loop, for what it reads between `values`.

    `middle` has a point of these, and about the equilibrium x̂ there. x₀ = φ(A x̂ + q̂) is exactly that for
    q₀ = q̂ + A (x̂ − x₀). None where slopes are others, or where the proof is about other states.
    """
    curved = [node for node in nodes if not node.is_linear]
    linear = [node for node in nodes if node.is_linear]
    weights = {name: entries.reshape(-1) for name, entries in proof.vector}
    if not proof.monotonicity or not all(map(_has_unit_slopes, curved)):
        return None
    if any(node.name in loop.iterated for node in linear):
        return None
    if weights and any(len(weights.get(node.name, ())) != node.size for node in curved):
        return None
    names = {node.name for node in nodes}
    outside = {name for node in nodes for name in node.reads if name not in names}
    at = {name: (middle[name], middle[name]) for name in (*outside, *(node.name for node in curved))}
    for node in linear:
        if any(source not in at for source in node.reads):
            return None
        at[node.name] = pre_activation(node, at)
    slots = {node.name: pre_activation(node, at) for node in curved}
    ends = {node.name: image(node, slots[node.name]) for node in curved}
    start = {name: (low + high) / 2 for name, (low, high) in ends.items()}
    moved = {name: around(values[name], middle[name]) for name in outside}
    for name, (low, high) in ends.items():
        moved[name] = high - low + np.abs(start[name] - middle[name])
    for node in linear:
        low, high = at[node.name]
        moved[node.name] = _moved(node, moved, high - low)
    squares = []
    for node in curved:
        low, high = slots[node.name]
        change = _scale(node, weights) * _moved(node, moved, high - low)
        squares.append(upwards((change**2).sum(-1), node.size))
    reach = np.sqrt(upwards(np.add.reduce(squares), len(curved))) / proof.monotonicity * (1 + growth(4))
    made = {}
    for node in curved:
        low, high = ends[node.name]
        radius = reach[:, None] / _scale(node, weights) * (1 + growth(4)) + (high - low)
        made[node.name] = start[node.name] - radius, start[node.name] + radius
    return {name: made[name] for name in loop.iterated}


def _has_unit_slopes(node: Node) -> bool:
    assert node.block.activation is not None
    rule = activation_rule(node.block.activation)
    slope = rule.slope(node.block.activation) if rule.elementwise else None
    return slope is not None and slope[0] >= 0 and slope[1] <= 1


def _moved(node: Node, moved: Mapping[str, np.ndarray], rounded: np.ndarray) -> np.ndarray:
    """How far the slots of a state move for what it reads, and what rounding leaves open of them."""
    made = np.add.reduce([block.magnitude(moved[source]) for source, block in node.reads.items()])
    return np.asarray(upwards(made + rounded, node.terms))


def _scale(node: Node, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.sqrt(weights[node.name]) if weights else np.ones(node.size)
