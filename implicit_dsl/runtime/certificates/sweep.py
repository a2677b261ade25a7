"""How far one sweep of a loop can move its states: the majorant of the sweep.

Let σ bound |x − x'| on the iterated states of a loop. The pre-activation of a state moves by at
most Σ |chain| σ over its terms, and the state by the majorant of its activation. In the order of the
sweep this gives M(σ) ≥ |f(x) − f(x')|. M is monotone and M(tσ) = t M(σ) for t ≥ 0. If M(v) ≤ κ v for
some v > 0, then |x − x'| ≤ d v implies |f(x) − f(x')| ≤ κ d v: f contracts with κ in
‖z‖_v = max |zᵢ| ÷ vᵢ, and for κ < 1 there is exactly one equilibrium (Banach).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Block, ImplicitModel, Loop, Term
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.boxes import Boxes, needs_boxes
from implicit_dsl.runtime.certificates.magnitudes import Magnitudes
from implicit_dsl.runtime.certificates.rounding import upwards
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Vector: TypeAlias = "dict[str, np.ndarray]"


class Sweep:
    """The majorant of one sweep of a loop, computed with upward rounding."""

    def __init__(self, model: ImplicitModel, loop: Loop, magnitudes: Magnitudes, boxes: Boxes) -> None:
        self.model, self.loop, self.magnitudes, self.boxes = model, loop, magnitudes, boxes
        self._opened: Vector = {}
        inside = set(loop.states)
        self.terms: dict[str, tuple[Term, ...]] = {
            name: tuple(term for term in model.terms_of[name] if term.source in inside)
            for name in loop.states
        }

    def blocks(self, names: tuple[str, ...]) -> tuple[Block, ...]:
        return tuple(self.model.blocks[name] for name in names)

    def ones(self) -> Vector:
        """σ = 1 on the iterated states."""
        return {block.name: np.ones(sizes(block.shape)) for block in self.blocks(self.loop.iterated)}

    def __call__(self, change: Mapping[str, np.ndarray]) -> Vector:
        """No less than M(σ), for σ on the iterated states."""
        return self._swept(dict(change), exact=False)

    def pattern(self, change: Mapping[str, np.ndarray]) -> Vector:
        """Where M(σ) is not zero (1) and where it is certainly zero (0), for σ of zeros and ones."""
        return self._swept(dict(change), exact=True)

    def _swept(self, known: Vector, exact: bool) -> Vector:
        moved: Vector = {}
        for name in self.loop.states:
            made = self.state(name, known, exact)
            (moved if name in self.loop.iterated else known)[name] = made
        return moved

    def state(self, name: str, known: Mapping[str, np.ndarray], exact: bool = False) -> np.ndarray:
        """How far one state can move, for the changes of those it reads (missing ones: none)."""
        block = self.model.blocks[name]
        if exact:
            return self.activated(block, self._reached(block, known), exact)
        total = np.zeros(sizes(block.slots))
        terms = [term for term in self.terms[name] if term.source in known]
        for term in terms:
            assert term.source is not None
            total = total + self.magnitudes.upper(term.chain, known[term.source])
        total = upwards(total, len(terms)) if terms else total
        if needs_boxes(block):  # what cannot move, as a mask, does not: not even by a rounding
            total = np.where(self._open(block), total, 0.0)
        return self.activated(block, total, exact)

    def activated(self, block: Block, change: np.ndarray, exact: bool = False) -> np.ndarray:
        """The majorant of the activation of a block on changes of its slots."""
        if block.activation is None:
            return change
        rule = activation_rule(block.activation)
        with np.errstate(over="ignore", invalid="ignore"):
            if block.name in self.boxes.slots and not exact:
                lower, upper = self.boxes.slots[block.name]
                made = rule.majorant_on(block.activation, change[None], lower[None], upper[None])[0]
            else:
                made = rule.majorant(block.activation, change[None])[0]
        if exact:  # nan and infinity are not zero
            return np.asarray(~(made == 0)).astype(float)
        return upwards(made, 0 if rule.elementwise else 2 * count(block.slots))

    def unbounded(self) -> tuple[Block, ...]:
        """The states of the loop whose activation has no finite majorant here."""
        return tuple(
            block
            for block in self.blocks(self.loop.states)
            if not np.isfinite(self.activated(block, self._open(block))).all()
        )

    def _open(self, block: Block) -> np.ndarray:
        """The slots of a block that depend on the loop at all."""
        if block.name not in self._opened:
            states = self.blocks(self.loop.states)
            everywhere = {state.name: np.ones(sizes(state.shape)) for state in states}
            self._opened[block.name] = self._reached(block, everywhere)
        return self._opened[block.name]

    def _reached(self, block: Block, known: Mapping[str, np.ndarray]) -> np.ndarray:
        """The slots of a block that changes reach: 1 there, and 0 elsewhere."""
        total = np.zeros(sizes(block.slots))
        for term in self.terms[block.name]:
            assert term.source is not None
            if term.source in known:
                total = total + self.magnitudes.pattern(term.chain, known[term.source])
        return (total > 0).astype(float)
