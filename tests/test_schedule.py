"""The schedule: components in solvable order, and states that cut every circle of a loop."""

from __future__ import annotations

from typing import Any

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_dsl.graph import Edge, Node, Role, SignalGraph
from implicit_dsl.schedule import Component, schedule
from implicit_dsl.source import Source, Span

HERE = Span(Source("", "test"), 0, 0)


def graph_of(count: int, pairs: set[tuple[int, int]]) -> SignalGraph:
    """A graph with states 0 … count − 1 that read one another as the pairs (reader, read) say."""
    nodes = tuple(Node(f"s{i}", Role.STATE, (2,), None, i % 2 == 0, HERE) for i in range(count))
    edges = tuple(Edge(f"s{read}", f"s{reader}", (), HERE) for reader, read in sorted(pairs))
    return SignalGraph("G", None, (), nodes, edges, (), (), HERE)


@st.composite
def graphs(draw: Any) -> SignalGraph:
    count = draw(st.integers(1, 9))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    return graph_of(count, draw(st.sets(pair, max_size=24)))


@given(graphs())
@settings(max_examples=300, deadline=None)
def test_components_are_the_strong_ones_behind_what_they_read(graph: SignalGraph) -> None:
    components = schedule(graph)

    place = {name: number for number, one in enumerate(components) for name in one.states}
    network = nx.DiGraph([(e.source, e.target) for e in graph.edges])
    network.add_nodes_from(node.name for node in graph.nodes)
    strong = {frozenset(found) for found in nx.strongly_connected_components(network)}
    assert strong == {frozenset(one.states) for one in components}
    assert all(place[e.source] <= place[e.target] for e in graph.edges if e.source is not None)


@given(graphs())
@settings(max_examples=300, deadline=None)
def test_the_iterated_states_cut_every_circle_and_none_is_idle(graph: SignalGraph) -> None:
    for one in schedule(graph):
        inner = nx.DiGraph()
        inner.add_nodes_from(one.states)
        inner.add_edges_from(
            (e.source, e.target) for e in graph.edges if {e.source, e.target} <= set(one.states)
        )
        if nx.is_directed_acyclic_graph(inner):
            assert one.iterated == ()
            continue
        assert one.states[-len(one.iterated) :] == one.iterated
        rest = inner.subgraph([name for name in one.states if name not in one.iterated])
        assert nx.is_directed_acyclic_graph(rest)
        for name in one.iterated:  # each is needed: without it a circle is left
            kept = [other for other in one.states if other not in one.iterated or other == name]
            assert not nx.is_directed_acyclic_graph(inner.subgraph(kept))
        order = {name: number for number, name in enumerate(one.states)}
        assert all(order[s] < order[t] for s, t in rest.edges)


def test_a_loop_among_feed_forward_states_is_solved_between_them() -> None:
    graph = graph_of(5, {(1, 0), (2, 1), (1, 2), (3, 2), (4, 3), (4, 4)})

    found = [one.states for one in schedule(graph)]

    assert [("s0",), ("s1", "s2"), ("s3",), ("s4",)] == found
    assert schedule(graph)[1] == Component(("s1", "s2"), ("s2",))
