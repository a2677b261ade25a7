"""Bounds of the values that states can take, for activations that are steep only far out.

A product has no Lipschitz constant, but where its factors are bounded, as gates are, it has one.
States start unbounded; each sweep of a loop then leaves them in a box: X₁ ⊇ f(Rⁿ), X₂ ⊇ f(X₁), …
with X₂ ⊆ X₁. So f maps X₂ into itself and every equilibrium lies in X₂: a contraction on X₂ has exactly
one, and iterates are in X₂ after two sweeps, wherever they start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import Layout, partition
from implicit_dsl.model import Block, ImplicitModel, Term
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.magnitudes import Magnitudes, Weights
from implicit_dsl.runtime.certificates.rounding import TINY, growth, upwards
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Box: TypeAlias = "tuple[np.ndarray, np.ndarray]"
SWEEPS = 2  # of each loop; what is bounded at all is bounded after as many sweeps as it takes to reach it


@dataclass(frozen=True)
class Boxes:
    """Bounds of the pre-activations of some states, in the shape of their slots; `sweeps` until they hold."""

    slots: dict[str, Box] = field(default_factory=dict)
    sweeps: int = 0


NO_BOXES = Boxes()


def needs_boxes(block: Block) -> bool:
    """Whether the majorant of a state is of use only where its slots are bounded."""
    return block.activation is not None and not activation_rule(block.activation).has_useful_majorant


def boxes(model: ImplicitModel, weights: Weights, magnitudes: Magnitudes) -> Boxes:
    """The boxes of all states of a model, for all inputs."""
    walk = _Walk(model, weights, magnitudes)
    member = {name: loop for loop in model.loops for name in loop.states}
    done: set[str] = set()
    for block in model.states:
        if block.name in done:
            continue
        loop = member.get(block.name)
        names = (block.name,) if loop is None else loop.states
        done.update(names)
        for _ in range(1 if loop is None else SWEEPS):
            made = {}
            for name in names:
                bounds = walk.swept(model.blocks[name])
                if loop is not None and name in loop.iterated:
                    made[name] = bounds  # read by the next sweep only
                else:
                    walk.values[name] = bounds
            walk.values.update(made)
    return Boxes(walk.slots, SWEEPS)


class _Walk:
    def __init__(self, model: ImplicitModel, weights: Weights, magnitudes: Magnitudes) -> None:
        self._model, self._magnitudes = model, magnitudes
        self.values = {block.name: _everything(block.shape) for block in (*model.inputs, *model.states)}
        for block in model.inputs:
            if block.tokens:  # unit vectors
                self.values[block.name] = np.zeros(sizes(block.shape)), np.ones(sizes(block.shape))
        self.slots: dict[str, Box] = {}
        made = Layout.of(model, "b").triplets(weights)
        parts, total = partition(model, "slots"), made.row_partition.total
        self._offset = np.bincount(made.rows, made.values, total)
        self._offset_size = np.bincount(made.rows, np.abs(made.values), total)
        self._parts = parts

    def swept(self, block: Block) -> Box:
        """Bounds of a state, from those of what it reads; keeps those of its slots."""
        box = self._pre_activation(block)
        if block.name in self.slots:
            before = self.slots[block.name]
            box = np.maximum(box[0], before[0]), np.minimum(box[1], before[1])
        self.slots[block.name] = box
        return _image(block, box)

    def _pre_activation(self, block: Block) -> Box:
        here, shape = self._parts[block.name], sizes(block.slots)
        terms = [term for term in self._model.terms_of[block.name] if term.source is not None]
        centre = self._offset[here].reshape(shape)
        size = self._offset_size[here].reshape(shape)
        radius = upwards(size, 0) * growth(len(terms))
        for term in terms:
            middle, spread = self._through(term)
            centre = centre + middle
            radius = upwards(radius + spread + growth(len(terms)) * np.abs(middle), len(terms))
        radius = upwards(radius + growth(len(terms)) * (np.abs(centre) + size), 0)
        return centre - radius, centre + radius

    def _through(self, term: Term) -> Box:
        """Centre and radius of a chain on the box of its source."""
        assert term.source is not None
        lower, upper = self.values[term.source]
        open_ = ~(np.isfinite(lower) & np.isfinite(upper))
        lower, upper = np.where(open_, 0.0, lower), np.where(open_, 0.0, upper)
        middle = (lower + upper) / 2
        half = np.nextafter(np.maximum(upper - middle, middle - lower), np.inf)
        image, error = self._magnitudes.value(term.chain, middle)
        radius = self._magnitudes.upper(term.chain, half + 2 * error * np.abs(middle) + TINY)
        reached = self._magnitudes.pattern(term.chain, open_.astype(float)) > 0
        return np.where(reached, 0.0, image), np.where(reached, np.inf, radius)


def _everything(shape: tuple[object, ...]) -> Box:
    whole = np.full(sizes(shape), np.inf)  # type: ignore[arg-type]
    return -whole, whole


def _image(block: Block, box: Box) -> Box:
    """Bounds of φ(z) for z in a box: its range, and φ(centre) ± the majorant of the radius."""
    lower, upper = box
    if block.activation is None:
        return box
    rule = activation_rule(block.activation)
    low, high = rule.range(block.activation) or (-np.inf, np.inf)
    shape = sizes(block.shape)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        return np.full(shape, low), np.full(shape, high)
    middle = (lower + upper) / 2
    # the error of the value is that of slightly other slots
    half = np.maximum(upper - middle, middle - lower) + 2 * growth(2 * count(block.slots)) * np.abs(middle)
    half = np.nextafter(half, np.inf)
    moved = rule.majorant_on(block.activation, half[None], lower[None], upper[None])[0]
    value = rule.reference(block.activation, middle[None])[0]
    terms = 2 * count(block.slots)
    radius = upwards(moved + 1e-12 * np.abs(value), terms) + 1e-12 * np.abs(value)
    bottom, top = np.maximum(value - radius, low), np.minimum(value + radius, high)
    return np.where(np.isnan(bottom), low, bottom), np.where(np.isnan(top), high, top)
