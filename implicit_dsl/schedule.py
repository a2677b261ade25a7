"""The order in which states can be computed: strongly connected components, each behind what it reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from implicit_dsl.graph import Node, Role, SignalGraph

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True)
class Component:
    """States that are computed together: one, or a loop with the `iterated` states that cut it.

    In a loop the states that are not iterated come first, each behind those that it reads.
    """

    states: tuple[str, ...]
    iterated: tuple[str, ...] = ()


def schedule(graph: SignalGraph) -> tuple[Component, ...]:
    """The components in solvable order; among those ready, the first in the source goes first.

    graphlib, not networkx, where there is no loop: most programs should not wait for its import.
    """
    rank = {node.name: number for number, node in enumerate(graph.nodes) if node.role is Role.STATE}
    inner = [
        (e.source, e.target)
        for e in graph.edges
        if e.source is not None and e.source in rank and e.target in rank
    ]
    for recurrence in graph.recurrences:
        inner += [
            (read, block) for read in recurrence.reads if read in rank for block, *_ in recurrence.gives
        ]
    if all(rank[source] < rank[target] for source, target in inner):
        return tuple(Component((name,)) for name in rank)  # as written: the usual case
    order = _sorted({(name,): rank[name] for name in rank}, [((s,), (t,)) for s, t in inner])
    if order is not None:
        return tuple(Component(states) for states in order)
    return _components(graph, rank, inner)


def _sorted(
    groups: Mapping[tuple[str, ...], int], edges: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]
) -> list[tuple[str, ...]] | None:
    """Groups, each behind those it reads and otherwise by rank; None if there is a circle."""
    sorter: TopologicalSorter[tuple[str, ...]] = TopologicalSorter(dict.fromkeys(groups, ()))
    for source, target in edges:
        sorter.add(target, source)
    try:
        sorter.prepare()
    except CycleError:
        return None
    order: list[tuple[str, ...]] = []
    ready = [(groups[group], group) for group in sorter.get_ready()]
    heapq.heapify(ready)
    while ready:
        _, group = heapq.heappop(ready)
        order.append(group)
        sorter.done(group)
        for later in sorter.get_ready():
            heapq.heappush(ready, (groups[later], later))
    return order


def _components(
    graph: SignalGraph, rank: Mapping[str, int], inner: list[tuple[str, str]]
) -> tuple[Component, ...]:
    """Components of a graph with loops (Tarjan, by networkx)."""
    import networkx as nx

    network: nx.DiGraph[str] = nx.DiGraph()
    network.add_nodes_from(rank)
    network.add_edges_from(inner)
    member: dict[str, tuple[str, ...]] = {}
    for found in nx.strongly_connected_components(network):
        group = tuple(sorted(found, key=rank.__getitem__))
        member.update(dict.fromkeys(group, group))
    crossing = [(member[s], member[t]) for s, t in inner if member[s] is not member[t]]
    order = _sorted({group: rank[group[0]] for group in member.values()}, crossing)
    assert order is not None, "the components of a graph have no circle"
    return tuple(_cut(graph, network, group, rank) for group in order)


def _cut(
    graph: SignalGraph, network: nx.DiGraph[str], group: tuple[str, ...], rank: Mapping[str, int]
) -> Component:
    """A component with a small set of states that cuts all its circles.

    Such a set of least size is hard to find (Karp 1972); the greedy one takes states that read
    themselves, then declared ones, and drops those that turn out not to be needed.
    """
    import networkx as nx

    if len(group) == 1 and not network.has_edge(group[0], group[0]):
        return Component(group)
    inside: nx.DiGraph[str] = nx.DiGraph(network.subgraph(group))
    chosen: list[str] = []
    while True:
        circular = _circular(inside)
        if not circular:
            break
        best = min(circular, key=lambda name: _preference(graph.by_name[name], inside, rank))
        chosen.append(best)
        inside.remove_node(best)
    whole: nx.DiGraph[str] = nx.DiGraph(network.subgraph(group))
    for name in reversed(chosen[:]):
        rest = [other for other in chosen if other != name]
        if rest and not _circular(whole.subgraph([n for n in group if n not in rest])):
            chosen = rest
    iterated = tuple(sorted(chosen, key=lambda name: _place(graph.by_name[name], rank)))
    return Component((*_inner_order(whole, group, chosen, rank), *iterated), iterated)


def _preference(
    node: Node, inside: nx.DiGraph[str], rank: Mapping[str, int]
) -> tuple[bool, bool, tuple[str, int, int]]:
    return (not inside.has_edge(node.name, node.name), not node.declared, _place(node, rank))


def _place(node: Node, rank: Mapping[str, int]) -> tuple[str, int, int]:
    """Where the equation of a state stands: states of a loop may be found in another order."""
    return (node.span.source.title, node.span.start, rank[node.name])


def _circular(network: nx.DiGraph[str]) -> set[str]:
    """The nodes that lie on a circle."""
    import networkx as nx

    found: set[str] = set()
    for component in nx.strongly_connected_components(network):
        one = next(iter(component))
        if len(component) > 1 or network.has_edge(one, one):
            found |= component
    return found


def _inner_order(
    whole: nx.DiGraph[str], group: tuple[str, ...], chosen: list[str], rank: Mapping[str, int]
) -> tuple[str, ...]:
    """The states that are not iterated, each behind those that it reads."""
    others: dict[tuple[str, ...], int] = {(name,): rank[name] for name in group if name not in chosen}
    order = _sorted(others, [((s,), (t,)) for s, t in whole.edges if (s,) in others and (t,) in others])
    assert order is not None, "the iterated states cut all circles"
    return tuple(name for one in order for name in one)
