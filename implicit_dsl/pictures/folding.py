"""A network with recurrences as one drawing: each step once, with lines from the step before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from implicit_dsl.graph import Edge, Node, Role, SignalGraph
from implicit_dsl.operators.base import Operator
from implicit_dsl.recurrence import Recurrence
from implicit_dsl.shapes import Shape


def folded(graph: SignalGraph) -> SignalGraph:
    """The graph with the blocks of its steps among the others.

    What a step reads of the one before is a line labelled `prev`. A sequence and the block of the step that
    it is made of are drawn as one, if they have one name. The result is for drawing: these labels are no
    operators.
    """
    if not graph.recurrences:
        return graph
    made = _Folded(graph)
    made.run()
    return replace(graph, nodes=tuple(made.nodes), edges=tuple(made.edges), recurrences=())


@dataclass(slots=True)
class _Folded:
    """The drawing so far; `drawn` says which block stands for one of the graph."""

    graph: SignalGraph
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    drawn: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        of = {name: one for one in self.graph.recurrences for name, *_ in one.gives}
        done: set[str] = set()
        for node in self.graph.nodes:
            one = of.get(node.name)
            if one is None:
                self.nodes.append(node)
            elif one.name not in done:
                done.add(one.name)
                self._step(one)
        for edge in self.graph.edges:
            source = None if edge.source is None else self.drawn.get(edge.source, edge.source)
            self.edges.append(replace(edge, source=source))

    def _step(self, one: Recurrence[SignalGraph]) -> None:
        step = folded(one.step)
        names = dict(self._names(one, step))
        shapes = {node.name: node.shape for node in step.nodes}
        outer = {node.name: node.shape for node in self.graph.nodes}
        self.nodes += (replace(node, name=names[node.name]) for node in step.nodes if node.role is Role.STATE)
        sources: dict[str, tuple[str, tuple[Operator, ...]]] = {}
        for name, block in one.sequences:
            sources[name] = self.drawn.get(block, block), (_label("step", outer[block], shapes[name]),)
        for name, block in one.same:
            sources[name] = self.drawn.get(block, block), ()
        for carry in one.carried:
            now, lag = one.earlier(carry.before)
            sources[carry.before] = names[now], (_label("prev", shapes[now], shapes[now], lag),)
        for edge in step.edges:
            if edge.target not in names:
                continue
            source, chain = None, edge.chain
            if edge.source in names:
                source = names[edge.source]
            elif edge.source is not None:
                source, before = sources[edge.source]
                chain = (*before, *chain)
            self.edges.append(replace(edge, source=source, target=names[edge.target], chain=chain))
        for carry in one.carried:
            now, lag = one.earlier(carry.before)
            if isinstance(carry.start, str) and lag == 1:
                start, shape = self.drawn.get(carry.start, carry.start), shapes[now]
                span = one.step.by_name[now].span if now in one.step.by_name else one.step.span
                self.edges.append(Edge(start, names[now], (_label("start", shape, shape),), span))
        self._give(one, names, outer)

    def _names(self, one: Recurrence[SignalGraph], step: SignalGraph) -> Iterator[tuple[str, str]]:
        """How the blocks of a step are called: as the sequence that they make, or as in the step."""
        merged = {state for name, state, whole in one.gives if whole and state == name}
        taken = {node.name for node in (*self.graph.nodes, *self.nodes)}
        for node in step.nodes:
            if node.role is not Role.STATE:
                continue
            name = node.name
            while name in taken and node.name not in merged:
                name += "'"
            taken.add(name)
            yield node.name, name

    def _give(self, one: Recurrence[SignalGraph], names: dict[str, str], outer: dict[str, Shape]) -> None:
        for name, state, whole in one.gives:
            now, _ = one.earlier(state)
            if now not in names:  # one of its sequences, or a value around it
                given = dict((*one.sequences, *one.same))[now]
                source = self.drawn.get(given, given)
            elif whole and now == name:
                self.drawn[name] = names[now]
                continue
            else:
                source = names[now]
            node = next(node for node in self.graph.nodes if node.name == name)
            self.nodes.append(node)
            label = _label("all steps" if whole else "last", outer[name], outer[name])
            self.edges.append(Edge(source, name, (label,), node.span))


def _label(text: str, source: Shape, target: Shape, count: int = 1) -> Operator:
    return Operator(text if count == 1 else f"{text} {count}", source, target)
