"""Implicit CROWN: linear bounds carried backwards through a network, around its loops.

Let each state lie between linear functions of its slots, x ≤ sᵘ z + tᵘ and x ≥ sˡ z + tˡ on its box, and
z = A x + B u + b. For any w, with k(w) = sᵘ w where w ≥ 0 and sˡ w where w < 0, and t(w) so,

    cᵀx ≤ k(w)ᵀ (B u + b) + t(w) + (c − w + Aᵀ k(w))ᵀ x.

The last term vanishes for w = c + Aᵀ k(w), which is an implicit model of its own, well posed where the
network is, as slopes are no larger; on strictly triangular A it is CROWN (Zhang et al. 2018), by
substitution. What is left of it where the iteration stops is bounded by the boxes of x, so that the bound
holds whether it converged or not. Slopes between two lines of a side are chosen by descent: with the states
x̃ that the lines in use give at the worst inputs, the derivative is wᵢ times the difference of the two lines
there (as in α-CROWN, Xu et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.boxes import Boxes
from implicit_dsl.analysis.network import Network, Node
from implicit_dsl.analysis.pulling import pulled_back
from implicit_dsl.analysis.regions import Region
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.relaxation import Line, Lines
from implicit_dsl.runtime.certificates.rounding import growth
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Rows: TypeAlias = "Mapping[str, np.ndarray]"  # of states or inputs: [batch or 1, k, size]
_STEPS, _CLOSE = 1_000, 1e-9  # around a loop, and what a step changes at its end, relatively
_RATES = (0.5, 0.02)  # of the first and last step of choosing slopes


@dataclass(frozen=True)
class Objectives:
    """Linear functions Σ states·x + Σ inputs·u + offset, k for each sample."""

    states: Rows
    inputs: Rows
    offset: np.ndarray  # [batch or 1, k]

    def negated(self) -> Objectives:
        states, inputs = ({name: -rows for name, rows in one.items()} for one in (self.states, self.inputs))
        return Objectives(states, inputs, -self.offset)


@dataclass(frozen=True)
class Relaxed:
    """Boxes, and on these the linear bounds of each state; None where it is its slots."""

    boxes: Boxes
    lines: Mapping[str, Lines | None]


def relaxed(network: Network, boxes: Boxes, before: Relaxed | None = None) -> Relaxed:
    """The linear bounds on boxes; those of slots that are as they were `before` are taken from there."""
    made: dict[str, Lines | None] = {}
    for node in network.states:
        if before is not None and before.boxes.slots[node.name] is boxes.slots[node.name]:
            made[node.name] = before.lines[node.name]
            continue
        activation, shape = node.block.activation, sizes(node.block.slots)
        if activation is None:
            made[node.name] = None
            continue
        lower, upper = (bound.reshape(-1, *shape) for bound in boxes.slots[node.name])
        made[node.name] = activation_rule(activation).lines(activation, lower, upper)
    return Relaxed(boxes, made)


def upper_bounds(
    network: Network,
    region: Region,
    bounded: Relaxed,
    objectives: Objectives,
    optimise: int = 0,
) -> np.ndarray:
    """Upper bounds [batch, k] of the objectives over the region; slopes are chosen in so many steps."""
    run = _Backward(network, region, bounded, objectives)
    best = run.bound()
    for step in range(optimise):
        rate = _RATES[0] * (_RATES[1] / _RATES[0]) ** (step / max(1, optimise - 1))
        if not run.improve(rate):
            break
        best = np.minimum(best, run.bound())
    return best


class _Backward:
    """One objective after another is a row; all rows of a sample share its boxes and lines."""

    def __init__(self, network: Network, region: Region, bounded: Relaxed, objectives: Objectives) -> None:
        self.network, self.region, self.objectives = network, region, objectives
        self.boxes, self.lines = bounded.boxes, bounded.lines
        self.batch, self.rows = region.batch, objectives.offset.shape[1]
        self.shares: dict[str, tuple[np.ndarray | float, np.ndarray | float]] = {
            node.name: (0.0, 0.0) for node in network.states
        }
        self.w: dict[str, np.ndarray] = {}
        self.k: dict[str, np.ndarray] = {}
        self.g: dict[str, np.ndarray] = {}

    def bound(self) -> np.ndarray:
        """The bounds with the slopes as they are."""
        network, pulled = self.network, self._started(self.objectives.states)
        self.g = self._started(self.objectives.inputs)
        total = np.broadcast_to(self.objectives.offset, (self.batch, self.rows)).copy()
        error = np.abs(total) * growth(4)
        for loop, nodes in reversed(list(network.parts())):
            names = {node.name for node in nodes} if loop is not None else set()
            if loop is None:
                self._through(nodes[0], pulled[nodes[0].name])
            else:
                left = self._around(nodes, pulled)
                for name, rest in left.items():
                    bound, size = self._over_box(rest, self.boxes.values[name])
                    total += bound
                    error += size
            for node in nodes:
                k, w = self.k[node.name], self.w[node.name]
                total += k @ node.offset + self._offsets(node.name, w)
                error += self._error(node, k, w)
                for source, block in node.reads.items():
                    if source in names:
                        continue
                    into = self.g if source in self.g else pulled
                    into[source] = into[source] + block.pull(k)
        return np.asarray(total + error + self.region.most(self.g))

    def _started(self, rows: Rows) -> dict[str, np.ndarray]:
        names = self.region.lower if rows is self.objectives.inputs else self.network.node
        made = {}
        for name in names:
            size = (
                self.region.lower[name].shape[1]
                if name in self.region.lower
                else self.network.node[name].size
            )
            given = rows.get(name)
            made[name] = np.broadcast_to(0.0 if given is None else given, (self.batch, self.rows, size))
        return made

    def _through(self, node: Node, w: np.ndarray) -> np.ndarray:
        """k for w, which are kept."""
        self.w[node.name] = w
        lines = self.lines[node.name]
        if lines is None:
            k = w
        elif lines.is_entrywise and node.slots == node.size:
            k = w * self._chosen(node.name, w, [[line.slope for line in pair] for pair in lines.pairs])
        else:
            k = pulled_back(lines, self._used(node.name, lines, w), node.slots)
        self.k[node.name] = k
        return k

    def _chosen(self, name: str, w: np.ndarray, pairs: list[list[np.ndarray]]) -> np.ndarray:
        """What lines above have where w ≥ 0, and those below elsewhere: [batch, 1 or rows, states] each."""
        down, up = (_mixed(pair, share) for pair, share in zip(pairs, self.shares[name]))
        return np.where(w >= 0, up, down)

    def _used(self, name: str, lines: Lines, w: np.ndarray) -> list[tuple[Line, np.ndarray]]:
        """The lines of a state with what w has of each: those above where w > 0, those below elsewhere."""
        below, above = self.shares[name]
        made = []
        for pair, share, part in (
            (lines.above, above, np.maximum(w, 0.0)),
            (lines.below, below, np.minimum(w, 0.0)),
        ):
            if len(pair) < 2 or isinstance(share, float):
                made.append((pair[0], part))
            else:
                made += [(pair[0], part * (1 - share)), (pair[1], part * share)]
        return made

    def _offsets(self, name: str, w: np.ndarray) -> np.ndarray:
        lines = self.lines[name]
        if lines is None:
            return np.zeros((self.batch, self.rows))
        pairs = [[line.offset[:, None] for line in pair] for pair in lines.pairs]
        return np.asarray((w * self._chosen(name, w, pairs)).sum(-1))

    def _around(self, nodes: tuple[Node, ...], pulled: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """w of a loop, and what is left: c − w + Aᵀ k(w)."""
        names = {node.name for node in nodes}
        back: dict[tuple[str, str], np.ndarray | float] = {}
        share, last = 1.0, np.inf

        def wanted(name: str) -> np.ndarray:
            made = pulled[name]
            for reader in nodes:
                if name in reader.reads:
                    made = made + back.get((reader.name, name), 0.0)
            return np.asarray(made)

        for node in nodes:
            self.w[node.name] = np.zeros_like(pulled[node.name])
        for _ in range(_STEPS):
            change = size = 0.0
            for node in reversed(nodes):
                w, before = wanted(node.name), self.w[node.name]
                if share < 1:
                    w = (1 - share) * before + share * w
                change = max(change, float(np.abs(w - before).max(initial=0.0)))
                size = max(size, float(np.abs(w).max(initial=0.0)))
                k = self._through(node, w)
                for source in node.reads:
                    if source in names:
                        back[node.name, source] = node.reads[source].pull(k)
            if change <= _CLOSE * size:
                break
            if change > 2 * last:  # it does not contract as it is
                share = max(share / 2, 1e-3)
            last = change
        return {node.name: wanted(node.name) - self.w[node.name] for node in nodes}

    def _over_box(
        self, rows: np.ndarray, box: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """max rows·x over a box, and what rounding loses of it."""
        low, high = box[0][:, None], box[1][:, None]
        size = (np.abs(rows) * np.maximum(np.abs(low), np.abs(high))).sum(-1)
        return np.where(rows > 0, rows * high, rows * low).sum(-1), growth(rows.shape[-1]) * size

    def _error(self, node: Node, k: np.ndarray, w: np.ndarray) -> np.ndarray:
        """What rounding can make of the part of a node, for values as large as its boxes allow."""
        sizes_of = {source: np.maximum(*map(np.abs, self.boxes.values[source])) for source in node.reads}
        z = np.broadcast_to(np.abs(node.offset), (self.batch, node.slots))
        for source, block in node.reads.items():
            z = z + block.magnitude(sizes_of[source])
        x = np.maximum(*map(np.abs, self.boxes.values[node.name]))
        lines = self.lines[node.name]
        if lines is not None:
            for one in (*lines.below, *lines.above):
                x = np.maximum(x, np.abs(one.offset))
        terms = node.terms + node.slots + node.size + sum(self.k[name].shape[-1] for name in self.k)
        made = np.einsum("brs,bs->br", np.abs(k), z) + np.einsum("brs,bs->br", np.abs(w), x)
        return np.asarray(2 * growth(terms) * made)

    def improve(self, rate: float) -> bool:
        """A step of the shares of the second lines. False if there are none to choose from."""
        some = [name for name, lines in self.lines.items() if lines is not None and _has_choice(lines)]
        if not some:
            return False
        reached = self._worst()
        for name in some:
            lines = self.lines[name]
            assert lines is not None
            read, w = reached[name], self.w[name]
            shares = []
            for share, pair, sign in zip(self.shares[name], (lines.below, lines.above), (-1, 1)):
                if len(pair) < 2:
                    shares.append(share)
                    continue
                first, second = (_at(one, read) for one in pair[:2])
                slope = np.where(np.sign(w) == sign, w * (second - first), 0.0)
                shares.append(np.clip(share - rate * np.sign(slope), 0.0, 1.0))
            self.shares[name] = (shares[0], shares[1])
        return True

    def _worst(self) -> dict[str, np.ndarray]:
        """The slots that the lines of each state read at the worst inputs, [batch, rows, places, states]."""
        values: dict[str, np.ndarray] = {}
        for name, g in self.g.items():
            low, high = (one[name][:, None] for one in (self.region.lower, self.region.upper))
            values[name] = np.where(g > 0, high, low)
        if self.region.radius is not None:
            norm = np.sqrt(np.add.reduce([(g * g).sum(-1) for g in self.g.values()]))[..., None]
            reach = self.region.radius[:, None, None] / np.maximum(norm, 1e-300)
            for name, g in self.g.items():
                u = self.region.centre[name][:, None] + reach * g
                values[name] = np.clip(u, self.region.lower[name][:, None], self.region.upper[name][:, None])
        reached: dict[str, np.ndarray] = {}

        def step(node: Node) -> np.ndarray:
            z = node.pre_activation(values)
            lines = self.lines[node.name]
            if lines is None:
                return z
            read = reached[node.name] = z[:, :, lines.index]
            pairs = [[_at(line, read) for line in pair] for pair in lines.pairs]
            return self._chosen(node.name, self.w[node.name], pairs)

        for loop, nodes in self.network.parts():
            if loop is not None:
                for node in nodes:
                    low, high = self.boxes.values[node.name]
                    values[node.name] = np.broadcast_to(
                        ((low + high) / 2)[:, None], (self.batch, self.rows, node.size)
                    )
            for _ in range(1 if loop is None else _STEPS):
                change = 0.0
                for node in nodes:
                    made = step(node)
                    if loop is not None:
                        change = max(change, float(np.abs(made - values[node.name]).max(initial=0.0)))
                    values[node.name] = made
                if change <= 1e-6 or not np.isfinite(change):
                    break
        return reached


def _mixed(pair: list[np.ndarray], share: np.ndarray | float) -> np.ndarray:
    """(1 − share) · first + share · second."""
    if len(pair) < 2 or isinstance(share, float):
        return pair[0]
    return np.asarray(pair[0] + share * (pair[1] - pair[0]))


def _at(line: Line, read: np.ndarray) -> np.ndarray:
    """The values [batch, rows, states] of a line for slots [batch, rows, places, states]."""
    return np.asarray(np.einsum("bps,brps->brs", line.slope, read) + line.offset[:, None])


def _has_choice(lines: Lines) -> bool:
    return len(lines.below) > 1 or len(lines.above) > 1
