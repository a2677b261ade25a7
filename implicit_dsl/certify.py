"""When and how each state can be computed: the graph, cut into groups, each with its guarantee."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import Enum
from graphlib import CycleError, TopologicalSorter

from implicit_dsl.errors import Diagnostic, Findings, Label
from implicit_dsl.graph import Role, SignalGraph


class Guarantee(Enum):
    """Why a group of states has exactly one solution."""

    ACYCLIC = "acyclic"  # one state that does not read itself: x = φ(…) is its definition


@dataclass(frozen=True, slots=True)
class Group:
    """States that are solved together, and why that works."""

    states: tuple[str, ...]
    guarantee: Guarantee


@dataclass(frozen=True, slots=True)
class Certified:
    """A graph whose groups, in this order, can each be solved from those before."""

    graph: SignalGraph
    groups: tuple[Group, ...]


def certify(graph: SignalGraph, findings: Findings) -> Certified | None:
    """The groups of a graph in solvable order; among those ready, the first in the source goes first.

    A loop is reported in `findings` (None is returned): this version solves by substitution only.
    """
    order = _substitution_order(graph)
    if order is None:
        for diagnostic in _loops(graph):
            findings.add(diagnostic)
        return None
    return Certified(graph, tuple(Group((name,), Guarantee.ACYCLIC) for name in order))


def _substitution_order(graph: SignalGraph) -> list[str] | None:
    """All states, each behind those it reads, or None if there is a loop.

    graphlib, not networkx: most programs have no loop, and should not wait for its import.
    """
    rank = {node.name: number for number, node in enumerate(graph.nodes) if node.role is Role.STATE}
    inner = [(rank[e.source], rank[e.target]) for e in graph.edges if e.source in rank and e.target in rank]
    if all(source < target for source, target in inner):
        return list(rank)  # as written: the usual case
    sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(rank, ()))
    for edge in graph.edges:
        if edge.source in rank and edge.target in rank:
            sorter.add(edge.target, edge.source)
    try:
        sorter.prepare()
    except CycleError:
        return None
    order: list[str] = []
    ready = [(rank[name], name) for name in sorter.get_ready()]
    heapq.heapify(ready)
    while ready:
        _, name = heapq.heappop(ready)
        order.append(name)
        sorter.done(name)
        for later in sorter.get_ready():
            heapq.heappush(ready, (rank[later], later))
    return order


def _loops(graph: SignalGraph) -> list[Diagnostic]:
    """One finding for each loop, with a way around it."""
    import networkx as nx

    network = graph.network
    found: list[Diagnostic] = []
    for component in nx.strongly_connected_components(network):
        alone = next(iter(component))
        if len(component) == 1 and not network.has_edge(alone, alone):
            continue
        inside = [node for node in graph.nodes if node.name in component]
        first = next((node for node in inside if node.declared), inside[0])
        edges = [e for e in graph.edges if e.source in component and e.target in component]
        through = next((e for e in edges if e.source == first.name), edges[0])
        others = [node.name for node in inside if node is not first]
        way = f" through {', '.join(f'`{name}`' for name in others[:4])}" if others else ""
        more = ", …" if len(others) > 4 else ""
        found.append(
            Diagnostic(
                "E0900",
                f"a loop is not supported in this version: `{first.name}` depends on itself{way}{more}",
                first.span,
                labels=(Label(through.span, "read again here"),),
                notes=(
                    "an equation with its own state on the right is an equilibrium, which needs a solver",
                ),
                help="unroll it with an index: `h[0] = u`, then `h[i] ~ …` of `h[i - 1]`",
                path=first.path,
            )
        )
    order = {node.name: number for number, node in enumerate(graph.nodes)}
    return sorted(found, key=lambda d: order.get(d.message.split("`")[1], 0))
