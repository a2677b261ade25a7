"""A network in layers: which blocks stand side by side, and in which order, so that few lines cross.

The method is Sugiyama's: layers by longest path, stand-ins where a line passes a layer,
sweeps of barycentres for the order. Between two layers of blocks lies one for the labels of
lines, in which each line has a stand-in of the size of its label. So no label can lie on a
block or on another label, and parallel lines come apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.graph import Edge, SignalGraph

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = lazy_module("networkx")

SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Line:
    """An edge as drawn: the numbers of its stand-ins between the cells of its two ends, from top to bottom.

    A `backward` edge closes a cycle: it is drawn against its direction.
    """

    edge: Edge
    cells: tuple[int, ...]
    backward: bool


@dataclass(frozen=True, slots=True)
class Layers:
    """Cells in layers from top to bottom, each in order from left to right.

    Cell i < number of nodes is node i of the graph, the others are stand-ins.
    `loops` are the edges from a block to itself.
    """

    layers: tuple[tuple[int, ...], ...]
    lines: tuple[Line, ...]
    loops: tuple[Edge, ...]
    layer_of: dict[int, int]


def layered(graph: SignalGraph) -> Layers:
    """Layers, stand-ins and order for a graph, cycles and parallel edges included."""
    numbers = {node.name: i for i, node in enumerate(graph.nodes)}
    edges = [edge for edge in graph.edges if edge.source is not None]
    pairs = [(numbers[edge.source or ""], numbers[edge.target]) for edge in edges]
    at_once = [pair for edge, pair in zip(edges, pairs) if pair[0] != pair[1] and not delayed(edge)]
    backward = _backward(len(numbers), at_once)
    late = [pair for edge, pair in zip(edges, pairs) if pair[0] != pair[1] and delayed(edge)]
    backward |= _turned(at_once, backward, late) if late else set()
    level = _levels(len(numbers), [(b, a) if (a, b) in backward else (a, b) for a, b in pairs if a != b])
    layer_of = {node: 2 * at for node, at in level.items()}
    lines, loops = [], []
    for edge, (source, target) in zip(edges, pairs):
        if source == target:
            loops.append(edge)
            continue
        turned = (source, target) in backward
        first, last = (target, source) if turned else (source, target)
        between = range(layer_of[first] + 1, layer_of[last])
        stand_ins = range(len(layer_of), len(layer_of) + len(between))
        layer_of.update(zip(stand_ins, between))
        lines.append(Line(edge, (first, *stand_ins, last), turned))
    layers: list[list[int]] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for cell, layer in layer_of.items():
        layers[layer].append(cell)
    return Layers(_ordered(layers, lines), tuple(lines), tuple(loops), layer_of)


def delayed(edge: Edge) -> bool:
    """Whether an edge of a folded graph comes from the step before."""
    return bool(edge.chain) and edge.chain[0].kind.split()[0] == "prev"


def _turned(
    at_once: list[tuple[int, int]], backward: set[tuple[int, int]], late: list[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Which pairs from the step before are drawn against their direction: all that can be."""
    drawn: nx.DiGraph[int] = nx.DiGraph([(b, a) if (a, b) in backward else (a, b) for a, b in at_once])
    drawn.add_nodes_from(node for pair in late for node in pair)
    found = set()
    for source, target in late:
        if (source, target) in at_once:
            continue  # beside a line that has its direction
        if nx.has_path(drawn, source, target):
            drawn.add_edge(source, target)
        else:
            drawn.add_edge(target, source)
            found.add((source, target))
    return found


def looped(graph: SignalGraph) -> frozenset[str]:
    """The blocks that read themselves at one step, directly or through others."""
    at_once = [edge for edge in graph.edges if not delayed(edge)]
    pairs = [(edge.source, edge.target) for edge in at_once if edge.source is not None]
    circles = nx.strongly_connected_components(nx.DiGraph(pairs))
    found = {name for circle in circles if len(circle) > 1 for name in circle}
    return frozenset(found | {source for source, target in pairs if source == target})


def _backward(count: int, pairs: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """The pairs that close a cycle when the graph is searched in depth, in the order of the source."""
    after: dict[int, list[int]] = {node: [] for node in range(count)}
    entered = set()
    for source, target in pairs:
        after[source].append(target)
        entered.add(target)
    closing, done, open_ = set(), set(), set()
    for root in sorted(after, key=lambda node: (node in entered, node)):
        stack = [(root, iter(after[root]))] if root not in done else []
        open_.update([root] if stack else [])
        while stack:
            node, rest = stack[-1]
            target = next(rest, -1)
            if target < 0:
                stack.pop()
                open_.discard(node)
                done.add(node)
            elif target in open_:
                closing.add((node, target))
            elif target not in done:
                open_.add(target)
                stack.append((target, iter(after[target])))
    return closing


def _levels(count: int, pairs: list[tuple[int, int]]) -> dict[int, int]:
    """The longest path to each node; what nothing leads to stands just above where it is read."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(pairs)
    level = {node: at for at, nodes in enumerate(nx.topological_generations(graph)) for node in sorted(nodes)}
    for node in range(count):
        if not graph.in_degree(node) and graph.out_degree(node):
            level[node] = min(level[after] for after in graph.successors(node)) - 1
    return {node: level[node] for node in range(count)}


def _ordered(layers: list[list[int]], lines: list[Line]) -> tuple[tuple[int, ...], ...]:
    """The order with the fewest crossings that sweeping down and up has seen."""
    above: dict[int, list[int]] = {cell: [] for layer in layers for cell in layer}
    below: dict[int, list[int]] = {cell: [] for cell in above}
    for line in lines:
        for upper, lower in pairwise(line.cells):
            above[lower].append(upper)
            below[upper].append(lower)
    best, fewest = [list(layer) for layer in layers], crossings(layers, below)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        for at in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            _by_barycentre(layers[at], layers[at - 1 if down else at + 1], above if down else below)
        count = crossings(layers, below)
        if count < fewest:
            best, fewest = [list(layer) for layer in layers], count
    return tuple(map(tuple, best))


def _by_barycentre(layer: list[int], fixed: list[int], neighbours: dict[int, list[int]]) -> None:
    """Sort a layer by the mean position of the neighbours in the fixed one; a cell without any stays."""
    position = {cell: i for i, cell in enumerate(fixed)}
    means = {
        cell: sum(position[n] for n in neighbours[cell]) / len(neighbours[cell])
        if neighbours[cell]
        else float(i)
        for i, cell in enumerate(layer)
    }
    layer.sort(key=means.__getitem__)


def crossings(layers: list[list[int]], below: dict[int, list[int]]) -> int:
    """How many pairs of lines cross between neighbouring layers."""
    total = 0
    for upper, lower in pairwise(layers):
        position = {cell: i for i, cell in enumerate(lower)}
        ends = [end for cell in upper for end in sorted(position[b] for b in below[cell])]
        counts = [0] * (len(lower) + 1)  # a Fenwick tree: how many ends so far stand at or left of a place
        for seen, end in enumerate(ends):
            at = end + 1
            left = 0
            while at:
                left += counts[at]
                at -= at & -at
            total += seen - left
            at = end + 1
            while at <= len(lower):
                counts[at] += 1
                at += at & -at
    return total
