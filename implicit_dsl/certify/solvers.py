"""Whether the solver that the source asks for can solve a loop."""

from __future__ import annotations

from implicit_dsl.demands import SolverDemand, applying
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.graph import Node, SignalGraph
from implicit_dsl.operators import OPERATORS, activation_rule
from implicit_dsl.schedule import Component
from implicit_dsl.shapes import count, known, show

SPLITTING = ("forward_backward", "peaceman_rachford")
MOST_INVERTED = 4096  # unknowns, as in the runtime: peaceman_rachford holds the inverse of an n × n matrix


def unsolvable(graph: SignalGraph, loop: Component) -> Diagnostic | None:
    """Why the demanded solver does not apply (E0406). Splitting needs x = φ(W x + c), φ elementwise and
    increasing with slopes of at most 1 (Winston and Kolter 2020, theorem 1)."""
    demand = applying(graph.demands.solvers, loop)
    if demand is None or demand.name not in SPLITTING:
        return None
    first = graph.by_name[loop.iterated[0]]
    active = [graph.by_name[name] for name in loop.states if graph.by_name[name].activation is not None]
    if len(loop.iterated) > 1 or len(active) > 1:
        several = f"here are {max(len(active), len(loop.iterated))}"
        return _diagnostic(
            graph, demand, f"it solves one equation x ~ φ(W*x + …), and {several}", active or [first]
        )
    if active and active[0] is not first:
        why = f"it solves x ~ φ(W*x + …), and the equation of `{first.name}` is linear behind an activation"
        return _diagnostic(graph, demand, why, [first])
    for node in active:
        assert node.activation is not None
        slope = activation_rule(node.activation).slope(node.activation)
        if slope is None or not 0 <= slope[0] <= slope[1] <= 1:
            shown = (OPERATORS[node.activation.kind].names or (node.activation.kind,))[0]
            why = f"it needs φ entry by entry with slopes from 0 to 1, and {shown} is not so"
            return _diagnostic(graph, demand, why, [node])
    if demand.name == "peaceman_rachford" and known(first.shape) and count(first.shape) > MOST_INVERTED:
        size = count(first.shape)
        why = f"it inverts a matrix of {size:,} × {size:,}, as `{first.name}` is {show(first.shape)}"
        return _diagnostic(graph, demand, why, [first], "use forward_backward, which inverts nothing")
    return None


def _diagnostic(
    graph: SignalGraph,
    demand: SolverDemand,
    why: str,
    nodes: list[Node],
    help: str = "use auto, picard, anderson or broyden",
) -> Diagnostic:
    return Diagnostic(
        "E0406",
        f"`{demand.name}` cannot solve this loop",
        demand.span or graph.span,
        labels=tuple(Label(node.span, "in the loop") for node in nodes[:2]),
        notes=(why,),
        help=help,
        path=nodes[0].path,
    )
