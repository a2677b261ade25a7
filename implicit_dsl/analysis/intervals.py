"""One state in interval arithmetic: what it reads between bounds, and φ of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.matrices import Made
from implicit_dsl.analysis.network import NoBound, Node
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.rounding import growth, upwards
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Box: TypeAlias = "tuple[np.ndarray, np.ndarray]"


def pre_activation(node: Node, values: Mapping[str, Box], without: Mapping[str, Made] | None = None) -> Box:
    """Bounds of z [batch, slots], rounded outwards; `without`: blocks that stand for those of the node."""
    batch = len(next(iter(values.values()))[0])
    centre = np.broadcast_to(node.offset, (batch, node.slots))
    radius, size = np.zeros_like(centre), np.abs(centre)
    for source, block in {**node.reads, **(without or {})}.items():
        lower, upper = values[source]
        middle = (lower + upper) / 2
        half = np.nextafter(np.maximum(upper - middle, middle - lower), np.inf)
        centre = centre + block.apply(middle)
        moved = block.magnitude(np.concatenate((half, np.abs(middle))))
        radius, size = radius + moved[:batch], size + moved[batch:]
    radius = upwards(radius, node.terms) + growth(node.terms) * upwards(size + radius, node.terms)
    return np.asarray(centre - radius), np.asarray(centre + radius)


def image(node: Node, slots: Box) -> Box:
    """Bounds of φ(z) [batch, size]."""
    if node.block.activation is None:
        return slots
    rule, shape = activation_rule(node.block.activation), sizes(node.block.slots)
    lower, upper = (bound.reshape(-1, *shape) for bound in slots)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise NoBound(f"what `{node.name}` is made of has no bounds within floating point")
    low, high = rule.image(node.block.activation, lower, upper)
    made = low.reshape(len(low), -1), high.reshape(len(high), -1)
    if not (np.isfinite(made[0]).all() and np.isfinite(made[1]).all()):
        raise NoBound(
            f"`{node.block.phi}` of `{node.name}` has no bounds on the values it may get: "
            "they reach a place where it is infinite, or not defined"
        )
    return made


def around(box: Box, middle: np.ndarray) -> np.ndarray:
    """How far a box reaches from a point in it."""
    return np.asarray(np.nextafter(np.maximum(box[1] - middle, middle - box[0]), np.inf))
