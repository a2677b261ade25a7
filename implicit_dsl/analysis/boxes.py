"""Boxes that hold the states for all inputs of a region: interval arithmetic, also around loops.

Feed-forward parts are interval bound propagation (Gowal et al. 2018). A loop x = φ(A x + …) has a box X with
f(X) ⊆ X, where f are the bounds of one sweep: then X holds an equilibrium (Brouwer), and as a certificate
says that there is one only, that one. X is found by growing from the equilibrium in the middle of the region.
Where nothing is proved, but all activations are bounded, their ranges are such a box of all equilibria there
are. From any of these, X ∩ f(X) is a box as well, and so on.

A state may read its own entries: xᵢ = φ(aᵢᵢ xᵢ + sᵢ). Solved for xᵢ this is monotone in sᵢ if aᵢᵢ φ' < 1, so
that a negative aᵢᵢ tightens the box, where it widens it as a part of |A| (the Metzler split of Jafarpour et
al. 2021, 2022, and the same box).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.balls import within_ball
from implicit_dsl.analysis.intervals import Box, image, pre_activation
from implicit_dsl.analysis.matrices import Made
from implicit_dsl.analysis.network import Network, NoBound, Node
from implicit_dsl.analysis.regions import Region
from implicit_dsl.analysis.scalar import solved
from implicit_dsl.model import Loop
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.result import Proof, Rule
from implicit_dsl.runtime.certificates.rounding import growth
from implicit_dsl.runtime.reference import NoEquilibrium

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_SETTLING, _STEADY = 2_000, 1e-13  # steps to the equilibrium in the middle, and the change at which they end
_NEAR, _FAR = 1e-9, 1e12  # a change that is good enough behind the last of them, and one that is hopeless
_ROUNDS, _PLAIN = 400, 4  # of growing: each of some plain steps and a longer one
_TIGHTENING, _GAIN = 2_000, 1e-8  # steps of X ∩ f(X), each of which takes that much of the width at least


@dataclass(frozen=True)
class Boxes:
    """For each state its values and its slots, [batch, size] each; the inputs are among the values."""

    values: Mapping[str, Box]
    slots: Mapping[str, Box]

    def with_slots(self, name: str, box: Box) -> Boxes:
        """The same with tighter slots of a state."""
        return replace(self, slots={**self.slots, name: box})


def boxes_of(network: Network, region: Region, solve_own: bool = True) -> Boxes:
    """Boxes of all states, and of what outputs would be. Raises NoBound for a loop that nothing bounds.

    With `solve_own`, what a state reads of its own entries is solved for.
    """
    walk = _Walk(network, region, solve_own)
    for loop, nodes in network.parts():
        if loop is None:
            walk.step(nodes[0])
        else:
            walk.enter(loop, nodes)
    return Boxes(walk.values, walk.slots)


def output_boxes(network: Network, boxes: Boxes) -> dict[str, Box]:
    """C X + D U + d."""
    return {node.name: pre_activation(node, boxes.values) for node in network.outputs}


class _Walk:
    def __init__(self, network: Network, region: Region, solve_own: bool) -> None:
        self._network, self._solve_own = network, solve_own
        self.values: dict[str, Box] = {
            name: (region.lower[name], region.upper[name]) for name in region.lower
        }
        self.slots: dict[str, Box] = {}
        self._middle: dict[str, np.ndarray] = dict(region.centre)
        self._own = {node.name: own for node in network.states if solve_own and (own := _own(node))}

    def step(self, node: Node) -> Box:
        """A state from what it reads."""
        own = self._own.get(node.name)
        if own is None:
            self.slots[node.name] = box = pre_activation(node, self.values)
            made = image(node, box)
        else:
            diagonal, others = own
            box = pre_activation(node, self.values, {node.name: others})
            made = solved(node, diagonal, box)
            self.slots[node.name] = _with_own(diagonal, made, box)
        self.values[node.name] = made
        return made

    def enter(self, loop: Loop, nodes: Sequence[Node]) -> None:
        """A loop, from the boxes of what it reads from outside."""
        start = self._started(loop, nodes)
        for name in loop.iterated:
            self.values[name] = start[name]
        for _ in range(_TIGHTENING):
            before = {name: self.values[name] for name in loop.iterated}
            after = self._swept(loop, nodes)
            cut = {name: _intersection(before[name], after[name]) for name in loop.iterated}
            self.values.update(cut)
            if max(_gained(before[name], cut[name]) for name in loop.iterated) < _GAIN:
                break
        self._swept(loop, nodes)
        self.values.update({name: _intersection(cut[name], self.values[name]) for name in loop.iterated})

    def _swept(self, loop: Loop, nodes: Sequence[Node]) -> dict[str, Box]:
        """f(X) for the iterated states, whose X is left as it is; the others are computed on the way."""
        made = {}
        for node in nodes:
            before = self.values.get(node.name)
            found = self.step(node)
            if node.name in loop.iterated:
                made[node.name] = found
                assert before is not None
                self.values[node.name] = before
        return made

    def _started(self, loop: Loop, nodes: Sequence[Node]) -> dict[str, Box]:
        """A box that holds the equilibrium, or all of them."""
        ranges = self._ranges(loop)
        proof = self._network.certificate[loop.name].proof
        self._settle(loop, nodes)
        if proof is not None:
            grown = self._grown(loop, nodes, proof)
            if grown is None and proof.rule in (Rule.MONOTONE, Rule.DIAGONAL):
                grown = within_ball(loop, nodes, proof, self.values, self._middle)
            if grown is not None:
                return grown
        if ranges is not None:
            return ranges
        named = ", ".join(f"`{name}`" for name in loop.states)
        if proof is None:
            raise NoBound(
                f"nothing bounds the loop {named}: it is not proved to have one equilibrium, and its values "
                "are not limited by its activations. `model.certify()` says why; with a bound such as "
                "`@wellposed norm(A, Inf) <= 0.95` and `model.project_()` it is"
            )
        raise NoBound(
            f"the loop {named} is proved to have one equilibrium ({proof.rule.value}), but no box around it "
            "closes for inputs that differ as much: interval bounds grow in each round. Take a smaller ε, or "
            "bound its rows, `@wellposed norm(A, Inf) <= 0.95`"
        )

    def _ranges(self, loop: Loop) -> dict[str, Box] | None:
        batch, made = len(next(iter(self.values.values()))[0]), {}
        for name in loop.iterated:
            node = self._network.node[name]
            activation = node.block.activation
            ends = None if activation is None else activation_rule(activation).range(activation)
            if ends is None:
                return None
            made[name] = np.full((batch, node.size), ends[0]), np.full((batch, node.size), ends[1])
        return made

    def _settle(self, loop: Loop, nodes: Sequence[Node]) -> None:
        """About the equilibrium in the middle of the region: by Picard steps, or else by Newton's method."""
        values = {name: (low + high) / 2 for name, (low, high) in self.values.items()}
        values |= {name: x for name, x in self._middle.items() if name in values}
        batch = len(next(iter(values.values())))
        for name in loop.iterated:
            values[name] = np.zeros((batch, self._network.node[name].size))
        with np.errstate(all="ignore"):
            for _ in range(_SETTLING):
                made, change = {}, 0.0
                for node in nodes:
                    x = node.activated(node.pre_activation(values))
                    if node.name in loop.iterated:
                        made[node.name] = x
                        moved = np.abs(x - values[node.name]).max(initial=0.0)
                        change = float(np.maximum(change, moved))  # which keeps NaN
                    else:
                        values[node.name] = x
                values.update(made)
                largest = float(np.maximum.reduce([np.abs(x).max(initial=0.0) for x in made.values()]))
                if change <= _STEADY * (1 + largest) or not change < _FAR:
                    break
        if not change <= _NEAR * (1 + largest):
            values |= self._solved(loop)
        self._middle |= {name: values[name] for name in loop.states}

    def _solved(self, loop: Loop) -> dict[str, np.ndarray]:
        """The states of a loop in the middle, from the sparse matrices; zeros if there are none."""
        system = self._network.system
        U = np.concatenate([self._middle[block.name] for block in system.inputs], 1).T
        try:
            with np.errstate(all="ignore"):
                X, _ = system.solve_columns(U)
        except (NoEquilibrium, np.linalg.LinAlgError):
            return {name: np.zeros((U.shape[1], self._network.node[name].size)) for name in loop.states}
        parts = system.partition("states")
        return {name: np.ascontiguousarray(X[parts[name]].T) for name in loop.states}

    def _grown(self, loop: Loop, nodes: Sequence[Node], proof: Proof) -> dict[str, Box] | None:
        """X with f(X) ⊆ X for all samples, from their middles; None if none is found.

        Where f contracts with a rate κ in the norm of v, κ ÷ (1 − κ) times the last growth is room enough.
        Otherwise the rate is that of the last steps, and the room becomes more from round to round.
        """
        at = {name: (self._middle[name], self._middle[name]) for name in loop.iterated}
        norm = _norm(loop, proof, at)
        done, last = np.zeros(len(next(iter(at.values()))[0]), bool), None
        with np.errstate(all="ignore"):
            for number in range(_ROUNDS):
                for _ in range(_PLAIN):
                    following = self._image_of(at, loop, nodes)
                    if following is None:
                        return None
                    wider = {name: _hull(at[name], following[name]) for name in at}
                    change, before = _growth(at, wider), last
                    at, last = wider, change
                longer = {
                    name: _kept(done, at[name], _further(at[name], room))
                    for name, room in _room(at, change, before, norm, number).items()
                }
                tried = self._image_of(longer, loop, nodes)
                if tried is None:
                    return None
                done = np.logical_and.reduce([_holds(longer[name], tried[name]) for name in at])
                if done.all():
                    return longer
                at = {name: _kept(done, longer[name], at[name]) for name in at}
        return None

    def _image_of(self, at: Mapping[str, Box], loop: Loop, nodes: Sequence[Node]) -> dict[str, Box] | None:
        self.values.update(at)
        try:
            return self._swept(loop, nodes)
        except NoBound:
            return None


def _own(node: Node) -> tuple[np.ndarray, Made] | None:
    """With what a state reads its own entries, and the rest of that block; None if that is nothing."""
    block, activation = node.reads.get(node.name), node.block.activation
    if not isinstance(block, Made) or (
        activation is not None and not activation_rule(activation).elementwise
    ):
        return None
    diagonal = block.own()
    slope = (1.0, 1.0) if activation is None else activation_rule(activation).slope(activation)
    if not diagonal.any() or slope is None or slope[0] < 0:
        return None
    steepest = float(diagonal.max(initial=0.0)) * slope[1]
    return (diagonal, block.without_diagonal()) if steepest < 1 - 1e-9 else None


def _with_own(diagonal: np.ndarray, x: Box, rest: Box) -> Box:
    """Bounds of a x + s for the solution x of x = φ(a x + s), which grows with s."""
    products = [np.where(diagonal > 0, diagonal * end, diagonal * end) for end in x]
    slack = [growth(4) * (np.abs(p) + np.abs(s)) for p, s in zip(products, rest)]
    return products[0] + rest[0] - slack[0], products[1] + rest[1] + slack[1]


def _hull(one: Box, other: Box) -> Box:
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


def _intersection(one: Box, other: Box) -> Box:
    """What two boxes of one value have in common; rounding may leave the two ends in the wrong order."""
    lower, upper = np.maximum(one[0], other[0]), np.minimum(one[1], other[1])
    return np.minimum(lower, upper), np.maximum(lower, upper)


def _holds(box: Box, inner: Box) -> np.ndarray:
    return np.asarray(((box[0] <= inner[0]) & (inner[1] <= box[1])).all(1))


def _kept(done: np.ndarray, one: Box, other: Box) -> Box:
    """The first for the samples that are done, the second for others."""
    return np.where(done[:, None], one[0], other[0]), np.where(done[:, None], one[1], other[1])


def _growth(before: Mapping[str, Box], after: Mapping[str, Box]) -> dict[str, np.ndarray]:
    """How far each entry has grown, [batch, size]."""
    return {
        name: np.maximum(before[name][0] - after[name][0], after[name][1] - before[name][1])
        for name in before
    }


def _norm(loop: Loop, proof: Proof, at: Mapping[str, Box]) -> tuple[float, dict[str, np.ndarray]] | None:
    """κ and v of a proof that says that a sweep contracts so; None for others."""
    if proof.method != "picard" or proof.rate is None or not proof.rate < 1:
        return None
    given = {name: v.reshape(-1) for name, v in proof.vector}
    v = {name: given.get(name, np.ones(box[0].shape[1])) for name, box in at.items()}
    return (proof.rate, v) if all((entries > 0).all() for entries in v.values()) else None


def _room(
    at: Mapping[str, Box],
    change: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray] | None,
    norm: tuple[float, dict[str, np.ndarray]] | None,
    number: int,
) -> dict[str, np.ndarray]:
    """How much further each entry may go, [batch, size]."""
    least = {name: 1e-13 * (1 + np.maximum(*map(np.abs, box))) for name, box in at.items()}
    if norm is not None:
        rate, v = norm
        size = np.maximum.reduce([((change[name] + least[name]) / v[name]).max(1) for name in at])
        return {name: 1.01 * rate / (1 - rate) * size[:, None] * v[name] + least[name] for name in at}
    if before is None:
        return least
    most, were = (np.maximum.reduce([x.max(1) for x in some.values()]) for some in (change, before))
    rate = np.clip(most / np.maximum(were, 1e-300), 0.0, 0.9999)[:, None]
    more = 1.05 + 0.1 * number
    return {
        name: more * rate / (1 - rate) * change[name] + min(2.0**number, 1e6) * least[name] for name in at
    }


def _further(box: Box, room: np.ndarray) -> Box:
    return box[0] - room, box[1] + room


def _gained(before: Box, after: Box) -> float:
    """The largest share of the widths of a sample that is gone."""
    width = (before[1] - before[0]).sum(1)
    return float((1 - (after[1] - after[0]).sum(1) / np.maximum(width, 1e-300)).max(initial=0.0))
