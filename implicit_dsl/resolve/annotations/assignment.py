"""Which states each annotation is about, and whether several of them agree."""

from __future__ import annotations

from dataclasses import replace

from implicit_dsl.demands import BackwardDemand, Demand, Demands, SolverDemand
from implicit_dsl.errors import Diagnostic
from implicit_dsl.graph import Edge, Node, Role
from implicit_dsl.resolve.annotations.conflicts import check_conflicts
from implicit_dsl.resolve.annotations.forms import not_a_state
from implicit_dsl.resolve.annotations.loops import loops_of
from implicit_dsl.resolve.annotations.request import Assigned, Request
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.wires import Network, Wire


def demands(
    context: Context, requests: list[Request], nodes: tuple[Node, ...], edges: tuple[Edge, ...]
) -> Demands:
    """The demands of a model: those that name a state first, then those of blocks, then those for all.

    Contradictions and annotations without effect are reported.
    """
    if not requests:
        return Demands()
    loops = loops_of(nodes, edges)
    found = _merged(_assign(context, requests, nodes, loops, edges))
    for one in found:
        if not one.loops:
            _no_effect(context, one)
    check_conflicts(context, found)
    ordered = sorted(found, key=lambda one: one.rank)
    made = [one.demand for one in ordered]
    return Demands(
        tuple(demand for demand in made if isinstance(demand, Demand)),
        tuple(demand for demand in made if isinstance(demand, SolverDemand)),
        tuple(demand for demand in made if isinstance(demand, BackwardDemand)),
    )


def _assign(
    context: Context,
    requests: list[Request],
    nodes: tuple[Node, ...],
    loops: dict[str, int],
    edges: tuple[Edge, ...],
) -> list[Assigned]:
    """The requests with their states and loops; those about nothing that is left are dropped."""
    states = {node.name for node in nodes if node.role is Role.STATE}
    holding = _Holding(context, states)
    inner = _parameters(edges, loops)
    used = {id for edge in edges for id in edge.parameters}
    found: list[Assigned] = []
    for request in requests:
        body = request.noted.body
        rank = (0, 0)
        if request.target is not None:
            names = _target(context, request, states, holding)
        elif body.state_path:
            names, rank = holding.of_body(body.state_path), (1, -body.depth)
        else:
            names, rank = (), (1, 0)
        if not names and (request.target is not None or body.state_path):
            continue
        chosen = frozenset(loops[name] for name in names or loops if name in loops)
        demand = replace(request.demand, states=names)
        if isinstance(demand, Demand):
            ids = _ids(demand, chosen, inner)
            if not ids <= used:
                if ids & used:
                    _left_out(context, request, min(ids - used))
                continue  # that a parameter has no effect is reported elsewhere
            if demand.matrix is not None:
                chosen = frozenset(loop for loop in chosen if inner[loop] & ids)
        else:
            ids = frozenset()
        found.append(Assigned(request, demand, rank, chosen, ids))
    return found


def _left_out(context: Context, request: Request, id: str) -> None:
    """Report a bound on parameters of which only some are part of the model."""
    message = f"`{id}` has no effect on the model and is left out, so `{request.shown}` cannot be kept"
    context.report(Diagnostic("E0404", message, request.span, help=f"leave `{id}` out of the bound"))


def _target(context: Context, request: Request, states: set[str], holding: _Holding) -> tuple[str, ...]:
    """The state that a request names; none if no output depends on it, which is reported elsewhere."""
    wire, place = request.target, request.place
    assert wire is not None and place is not None
    if wire.name in states:
        return (wire.name,)
    if wire.kind in ("state", "activation"):
        return holding.of(wire)[:1]
    context.report(not_a_state(place, "a value that is linear in others").diagnostic)
    return ()


def _parameters(edges: tuple[Edge, ...], loops: dict[str, int]) -> dict[int, frozenset[str]]:
    """The parameters that each loop has inside it."""
    found: dict[int, set[str]] = {loop: set() for loop in loops.values()}
    for edge in edges:
        loop = loops.get(edge.target)
        if loop is not None and edge.source is not None and loops.get(edge.source) == loop:
            found[loop].update(edge.parameters)
    return {loop: frozenset(ids) for loop, ids in found.items()}


def _ids(demand: Demand, loops: frozenset[int], inner: dict[int, frozenset[str]]) -> frozenset[str]:
    """The parameters that a demand constrains."""
    if demand.criterion in ("prove", "unchecked"):
        return frozenset()
    if demand.matrix is None:
        return frozenset(id for loop in loops for id in inner[loop])
    return frozenset(id for term in demand.matrix for id, _ in term.tensors)


def _merged(found: list[Assigned]) -> list[Assigned]:
    """One annotation of a block that is applied several times says the same of the states of each."""
    merged: dict[object, Assigned] = {}
    for one in found:
        key = (one.request.span, replace(one.demand, states=()), bool(one.demand.states))
        other = merged.get(key)
        if other is not None:
            names = tuple(dict.fromkeys((*other.demand.states, *one.demand.states)))
            one = replace(
                other,
                demand=replace(one.demand, states=names),
                loops=one.loops | other.loops,
                ids=one.ids | other.ids,
            )
        merged[key] = one
    return list(merged.values())


def _no_effect(context: Context, one: Assigned) -> None:
    """Say that an annotation of the model itself concerns no loop; blocks may say more than is needed."""
    body = one.request.noted.body
    if body.state_path or "unused_annotation" in body.allowed:
        return
    context.report(
        Diagnostic(
            "W0401",
            f"`{one.request.shown}` has no effect on any loop",
            one.request.span,
            notes=("what depends on nothing later is computed, and needs no equilibrium",),
            help="remove it, or silence this with `@allow unused_annotation`",
        )
    )


class _Holding:
    """Which states hold a value: the value itself, or what it became a part of."""

    def __init__(self, context: Context, states: set[str]) -> None:
        self._states = states
        self._wires = _with_steps(context.network)
        self._readers: dict[Wire, list[Wire]] = {}
        for wire in self._wires:
            for source in wire.sources if wire.drive is None else (wire.drive,):
                self._readers.setdefault(source, []).append(wire)

    def of(self, *wires: Wire) -> tuple[str, ...]:
        """The nearest states that values are, or are read by, in the order of the network."""
        seen: set[Wire] = set()
        waiting = list(wires)
        while waiting:
            wire = waiting.pop()
            if wire not in seen:
                seen.add(wire)
                if wire.name not in self._states:
                    waiting.extend(self._readers.get(wire, ()))
        return tuple(wire.name for wire in self._wires if wire in seen and wire.name in self._states)

    def of_body(self, path: str) -> tuple[str, ...]:
        """The states of an instance of a block, and of the blocks within it."""
        inside = [wire for wire in self._wires if _inside(wire.hint, path)]
        named = [wire for wire in self._wires if _inside(wire.name, path)]
        return self.of(*dict.fromkeys((*named, *inside)))


def _with_steps(network: Network) -> list[Wire]:
    """The wires of a network, and those of the steps of its recurrences."""
    steps = {wire.step: None for wire in network.wires if wire.step is not None}
    return [*network.wires, *(wire for step in steps for wire in _with_steps(step.network))]


def _inside(name: str, path: str) -> bool:
    """Whether a name is of an instance: that of its one output, or of a part."""
    return name == path or name.startswith(f"{path}.")
