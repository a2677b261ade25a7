"""What is said of loops for which nothing can be proved."""

from __future__ import annotations

from collections.abc import Sequence

from implicit_dsl.certify.gains import Way
from implicit_dsl.demands import Demand
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.graph import Edge, Node, SignalGraph
from implicit_dsl.opened import Opened
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import Operator
from implicit_dsl.schedule import Component

_FIXES = (
    "to enforce that, add           @wellposed norm(A, Inf) <= 0.95\n"
    "weaker, needs an eigenvalue    @wellposed spectral(abs(A)) <= 0.95\n"
    "to train without a guarantee   @wellposed unchecked"
)


def no_guarantee(graph: SignalGraph, loop: Component, way: Way | None, why: str) -> Diagnostic:
    """Nothing shows that a loop has an equilibrium (E0401)."""
    first = _first(graph, loop)
    opened = _opened_edge(graph, loop)
    if opened is not None:
        return _opened(graph, loop, *opened)
    edge = way.edge if way is not None else _inner_edge(graph, loop, first)
    if way is not None:
        unbounded = _blame(way)
        why = f"`{way.edge.target}` depends on `{way.source}` through {unbounded}"
    notes = (
        *((why,) if why else ()),
        "with ‖A‖∞ < 1 the equation has exactly one solution, and x ← φ(A x + B u) converges to it",
    )
    return Diagnostic(
        "E0401",
        f"nothing shows that {_named(graph, loop)} has an equilibrium",
        edge.span,
        _loop_text(graph, loop),
        notes=notes,
        help=_FIXES,
        path=first.path,
    )


def _opened(graph: SignalGraph, loop: Component, edge: Edge, opens: Opened) -> Diagnostic:
    """A loop that an `open` closed, of which nothing is asked."""
    states = [name for name in loop.states if graph.by_name[name].declared] or list(loop.states)
    listed = ", ".join(f"`{name}`" for name in states[:4]) + (", …" if len(states) > 4 else "")
    both = "each other" if len(states) > 1 else f"`{states[0]}` itself"
    return Diagnostic(
        "E0401",
        f"nothing shows that {_named(graph, loop)} has an equilibrium",
        edge.span,
        f"`{opens.text}` closes the loop",
        notes=(
            f"with this block {listed} depend{'s' if len(states) == 1 else ''} on {both}",
            "it starts from zero, where the loop is none, and training changes that",
        ),
        help="to enforce that with the weights that there are, add   @wellposed spectral(abs(A)) <= 0.95\n"
        "stronger, bounds every row of the loop                @wellposed norm(A, Inf) <= 0.95\n"
        "to train without a guarantee                          @wellposed unchecked",
        path=_first(graph, loop).path,
    )


def _opened_edge(graph: SignalGraph, loop: Component) -> tuple[Edge, Opened] | None:
    """A block of a loop that an `open` made, the first that goes back if there is one."""
    opened = {one.id: one.opens for one in graph.parameters if one.opens is not None}
    place = {name: number for number, name in enumerate(loop.states)}
    inside = [edge for edge in graph.edges if edge.source in place and edge.target in place]
    found = [
        (edge, made) for edge in inside for id in edge.parameters if (made := opened.get(id)) is not None
    ]
    back = [
        (edge, made) for edge, made in found if made.source in place and place[made.source] >= place[made.to]
    ]
    return next(iter((*back, *found)), None)


def unbounded_activation(
    graph: SignalGraph, loop: Component, name: str, demands: Sequence[Demand]
) -> Diagnostic:
    """An activation in a loop has no Lipschitz constant (E0402)."""
    node = graph.by_name[name]
    assert node.activation is not None
    shown = _shown(node.activation)
    labels = tuple(
        Label(demand.span, "asks for a certificate") for demand in demands[:1] if demand.span is not None
    )
    return Diagnostic(
        "E0402",
        f"{shown} has no Lipschitz constant that helps, so {_named(graph, loop)} cannot be certified",
        node.span,
        "steep, or unbounded",
        labels=labels,
        help=f"move {shown} out of the loop, or write `@wellposed unchecked`:\n"
        "the residual is then checked at every call",
        path=node.path,
    )


def not_below_one(
    graph: SignalGraph,
    loop: Component,
    demand: Demand,
    name: str,
    gain: float | None,
    rate: float,
    fixed: str = "",
) -> Diagnostic:
    """A bound that does not make a contraction (E0403). `fixed` is a state that reads no parameter."""
    node = graph.by_name[name]
    note = f"the gain around the loop is {rate:.6g}"
    if gain is not None:
        shown = "the identity" if node.activation is None else _shown(node.activation)
        note = f"{demand.bound:g} times {gain:g} (the Lipschitz constant of {shown}) is a gain of {rate:.6g}"
    help = f"use a bound below {1.0 if gain is None else 1.0 / gain:.6g}"
    if fixed:
        help = f"use a smaller bound, or a smaller factor: `{fixed}` reads no parameter that could be bounded"
    return Diagnostic(
        "E0403",
        f"no bound below 1: `{demand.text}` does not make {_named(graph, loop)} a contraction",
        demand.span or node.span,
        labels=(Label(_inner_edge(graph, loop, node).span, "the loop"),),
        notes=(note,),
        help=help,
    )


def not_this_matrix(graph: SignalGraph, loop: Component, demand: Demand) -> Diagnostic:
    """A criterion for one matrix, on a loop that has another (E0404)."""
    return Diagnostic(
        "E0404",
        f"`{demand.text}` is not about the whole matrix of {_named(graph, loop)}",
        demand.span or graph.span,
        labels=(Label(_inner_edge(graph, loop, _first(graph, loop)).span, "the loop"),),
        notes=("it is for one state x ~ φ(M*x + …) with one `param` or layer M, and no factor before it",),
        help="write the equation with one matrix, or bound it with `norm(A, Inf) <= 0.95`",
    )


def not_by_channels(graph: SignalGraph, loop: Component | None, demand: Demand, way: Way) -> Diagnostic:
    """The Perron root of a parameter is not that of the loop (E0404)."""
    shown = _named(graph, loop) if loop is not None else f"the loop of `{way.edge.target}`"
    return Diagnostic(
        "E0404",
        f"`{demand.text}` does not bound {shown}",
        demand.span or graph.span,
        labels=(Label(way.edge.span, "on this way the channels do not stay what they are"),),
        notes=(
            "the Perron root of a parameter is that of A only where its rows and columns are the channels\n"
            "of the states: no slice, reshape or cat before or behind it, and no softmax over its rows",
        ),
        help="bound the rows: `@wellposed norm(A, Inf) <= 0.95`",
    )


def wrong_activation(
    graph: SignalGraph, loop: Component, name: str, demand: Demand, wanted: str
) -> Diagnostic:
    """A criterion that needs another kind of activation (E0405)."""
    node = graph.by_name[name]
    shown = "the identity" if node.activation is None else _shown(node.activation)
    return Diagnostic(
        "E0405",
        f"`{demand.text}` needs an activation that {wanted}, and {shown} is not one",
        demand.span or node.span,
        labels=(Label(node.span, "applied here"),),
        help="use relu, tanh or sigmoid, or bound the loop with `norm(A, Inf) <= 0.95`",
    )


def _first(graph: SignalGraph, loop: Component) -> Node:
    return graph.by_name[loop.iterated[0]]


def _inner_edge(graph: SignalGraph, loop: Component, node: Node) -> Edge:
    """Where a state of a loop is read again inside it."""
    inside = [edge for edge in graph.edges if edge.source in loop.states and edge.target in loop.states]
    return next((edge for edge in inside if edge.source == node.name), inside[0])


def _named(graph: SignalGraph, loop: Component) -> str:
    """`x`, or the loop {x, y}."""
    declared = [name for name in loop.states if graph.by_name[name].declared] or list(loop.iterated)
    if len(declared) == 1:
        return f"`{declared[0]}`"
    more = ", …" if len(declared) > 4 else ""
    return f"the loop {{{', '.join(declared[:4])}{more}}}"


def _loop_text(graph: SignalGraph, loop: Component) -> str:
    name = loop.iterated[0]
    return f"the loop: `{name}` depends on itself here"


def _blame(way: Way) -> str:
    if way.tensors:
        return " and ".join(f"`{tensor.id}`" for tensor in way.tensors) + ", which is unbounded"
    kinds = [_shown(operator) for operator in way.edge.chain]
    return ", ".join(kinds) + ", which has no bound" if kinds else "itself"


def _shown(operator: Operator) -> str:
    """What an operator is called in the language."""
    names = OPERATORS[operator.kind].names
    return names[0] if names else operator.kind
