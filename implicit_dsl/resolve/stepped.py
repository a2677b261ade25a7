"""`@solver euler(steps = K)`: a loop that is cut after K steps, whose lengths are learned.

Where a recurrent network evolves in equilibrium, the cut is part of the model (Kag, Zhang and Saligrama
2019): x⁰ = 0, xⁱ = xⁱ⁻¹ + ηᵢ (F(xⁱ⁻¹) − xⁱ⁻¹) for the equation x ~ F(x). Nothing is left to be solved, and
the steps are states like others, so that matrices and gradients are exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from implicit_dsl.demands import BackwardDemand, Demand, Demands, SolverDemand
from implicit_dsl.errors import Diagnostic
from implicit_dsl.graph import Edge, Node, Parameter, Role, SignalGraph
from implicit_dsl.names import identifier
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.operators.offsets import constants
from implicit_dsl.resolve.annotations.loops import loops_of
from implicit_dsl.resolve.context import Context

EULER = "euler"


def stepped(context: Context, graph: SignalGraph) -> SignalGraph:
    """The graph, and those of its steps, without the loops that are cut. Annotations in vain are reported."""
    asked = [demand for demand in graph.demands.solvers if demand.name == EULER]
    if not asked:
        return graph
    made = _Stepped(context, asked)
    found = made.without_loops(graph, set())
    rest = replace(graph.demands, solvers=tuple(one for one in graph.demands.solvers if one.name != EULER))
    _in_vain(context, rest, made.cut, made.left)
    return _with(found, (*found.parameters, *made.parameters), rest)


def _with(graph: SignalGraph, parameters: tuple[Parameter, ...], demands: Demands) -> SignalGraph:
    recurrences = tuple(replace(one, step=_with(one.step, parameters, demands)) for one in graph.recurrences)
    return replace(graph, parameters=parameters, demands=demands, recurrences=recurrences)


def _in_vain(context: Context, demands: Demands, cut: set[str], left: set[str]) -> None:
    """Report what is asked of loops that are no more."""
    asked: tuple[Demand | BackwardDemand, ...] = (*demands.wellposed, *demands.backwards)
    for demand in asked:
        about = set(demand.states) or cut | left
        if demand.span is not None and about & cut and not about & left:
            shown = " ".join(demand.span.text.split())
            context.report(
                Diagnostic(
                    "W0401",
                    f"`{shown}` has no effect, as `euler` cuts its loop",
                    demand.span,
                    notes=("the steps are taken as they are, and nothing has to converge",),
                    help="remove it",
                )
            )


@dataclass(slots=True)
class _Stepped:
    """The states of loops that are cut, and of those that are left, and the new parameters."""

    context: Context
    asked: list[SolverDemand]
    cut: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    parameters: list[Parameter] = field(default_factory=list)

    def without_loops(self, graph: SignalGraph, wanted: set[str]) -> SignalGraph:
        """`wanted` are states of a step that are read around it, or by the next."""
        loops: dict[int, list[str]] = {}
        for name, number in loops_of(graph.nodes, graph.edges).items():
            loops.setdefault(number, []).append(name)
        for states in loops.values():
            demand = self._demand(set(states))
            if demand is None:
                self.left.update(states)
            else:
                self.cut.update(states)
                graph = self._taken(graph, states, demand, wanted)
        inner = [(one, self.without_loops(one.step, set(one.results))) for one in graph.recurrences]
        return replace(graph, recurrences=tuple(replace(one, step=step) for one, step in inner))

    def _demand(self, states: set[str]) -> SolverDemand | None:
        named = [one for one in self.asked if set(one.states) & states]
        general = [one for one in self.asked if not one.states]
        return next(iter((*named, *general)), None)

    def _taken(
        self, graph: SignalGraph, states: list[str], demand: SolverDemand, wanted: set[str]
    ) -> SignalGraph:
        """The graph with the steps of one loop in place of it."""
        nodes = {node.name: node for node in graph.nodes}
        unknowns = _unknowns(graph, states, demand)
        settings = dict(demand.settings)
        steps = int(settings["steps"])
        lengths = self._lengths(nodes[unknowns[0]], steps, float(settings.get("step", 1 / steps)))
        copies = _Copies(graph, nodes, states, unknowns)
        for number, length in enumerate(lengths, 1):
            copies.step(number, length, last=number == steps)
        read = _of_use(graph, states, unknowns, wanted)
        place = max(number for number, node in enumerate(graph.nodes) if node.name in states)
        before, behind = graph.nodes[: place + 1], graph.nodes[place + 1 :]
        kept = [
            replace(node, activation=None, start=()) if node.name in unknowns else node
            for node in before
            if node.name not in states or node.name in read
        ]
        edges = [edge for edge in graph.edges if edge.target not in states or edge.target in read]
        edges = [edge for edge in edges if edge.target not in unknowns]
        return replace(graph, nodes=(*kept, *copies.nodes, *behind), edges=(*edges, *copies.edges))

    def _lengths(self, node: Node, steps: int, start: float) -> list[str]:
        """The ids of the lengths of the steps, which are learned."""
        base, found = identifier(node.name), []
        for number in range(1, steps + 1):
            id = self.context.invent(f"{base}_step{number}", node.span)
            self.parameters.append(Parameter(id, (), True, Initialiser("constant", (start,)), node.span))
            found.append(id)
        return found


@dataclass(slots=True)
class _Copies:
    """The states of one loop, once for each step. `now` names what each unknown is."""

    graph: SignalGraph
    originals: dict[str, Node]
    states: list[str]
    unknowns: tuple[str, ...]
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    now: dict[str, str] = field(default_factory=dict)

    def step(self, number: int, length: str, last: bool) -> None:
        """One step from what the unknowns are to what they become."""
        if number == 1:
            for name in self.unknowns:
                self._start(name)
        nested = [name for name in self.states if name not in self.unknowns]
        names = {name: self._name(f"{name}.step{number}") for name in nested}
        right = {name: self._name(f"{name}.right{number}") for name in self.unknowns}
        read = {**names, **self.now}
        for name, copy in {**names, **right}.items():
            self.nodes.append(replace(self.originals[name], name=copy, declared=False, start=()))
            own = [edge for edge in self.graph.edges if edge.target == name]
            own = [edge for edge in own if edge.source not in self.unknowns or edge.source in self.now]
            for edge in own:
                source = None if edge.source is None else read.get(edge.source, edge.source)
                self.edges.append(replace(edge, source=source, target=copy))
            if not own:  # all that it reads is zero
                node = self.originals[name]
                self.edges += (Edge(None, copy, chain, node.span) for chain in constants((0.0,), node.slots))
        for name in self.unknowns:
            self._move(name, right[name], number, length, last)

    def _start(self, name: str) -> None:
        """What an unknown is before the first step; one of zeros is left out."""
        node = self.originals[name]
        if any(node.start):
            self.now[name] = copy = self._linear(node, f"{name}.step0")
            self.edges += (Edge(None, copy, chain, node.span) for chain in constants(node.start, node.shape))

    def _move(self, name: str, right: str, number: int, length: str, last: bool) -> None:
        """x + η (F − x), where F is the value of the `right` side."""
        node, before = self.originals[name], self.now.get(name)
        target = name if last else self._linear(node, f"{name}.step{number}")
        factor = OPERATORS["diagonal"].operator({"first": 0, "axes": 0}, node.shape)
        factor = replace(factor, parameters=(("weight", length),))
        if before is not None:
            if node.activation is not None:
                rate = self._linear(node, f"{name}.rate{number}")
                self.edges.append(Edge(right, rate, (), node.span))
                right = rate
            minus = OPERATORS["scale"].operator({"factor": -1.0}, node.shape)
            self.edges.append(Edge(before, right, (minus,), node.span))
            self.edges.append(Edge(before, target, (), node.span))
        self.edges.append(Edge(right, target, (factor,), node.span))
        self.now[name] = target

    def _linear(self, like: Node, wished: str) -> str:
        name = self._name(wished)
        self.nodes.append(replace(like, name=name, activation=None, declared=False, start=()))
        return name

    def _name(self, wished: str) -> str:
        taken = {*self.originals, *(node.name for node in self.nodes)}
        while wished in taken:
            wished += "'"
        return wished


def _unknowns(graph: SignalGraph, states: list[str], demand: SolverDemand) -> tuple[str, ...]:
    """What the steps move: the state that the annotation names, if that is enough, or all with equations."""
    declared = tuple(node.name for node in graph.nodes if node.name in states and node.declared)
    named = tuple(name for name in declared if name in demand.states)
    return named if named and _cuts(graph, states, named) else declared


def _cuts(graph: SignalGraph, states: Iterable[str], chosen: Iterable[str]) -> bool:
    """Whether every circle of a loop goes through what was chosen."""
    rest = {*states} - {*chosen}
    nodes = tuple(node for node in graph.nodes if node.name in rest and node.role is Role.STATE)
    edges = tuple(edge for edge in graph.edges if edge.source in rest and edge.target in rest)
    return not loops_of(nodes, edges)


def _of_use(
    graph: SignalGraph, states: Iterable[str], unknowns: tuple[str, ...], wanted: set[str]
) -> set[str]:
    """The states of a loop that are read when its unknowns are known."""
    inside = set(states)
    read = {edge.source for edge in graph.edges if edge.target not in inside and edge.source is not None}
    read |= wanted | {name for one in graph.recurrences for name in one.reads}
    found = inside & read | {*unknowns}
    waiting = [name for name in found if name not in unknowns]
    for name in waiting:
        for edge in graph.edges:
            if edge.target == name and edge.source in inside and edge.source not in found:
                found.add(edge.source)
                waiting.append(edge.source)
    return found
