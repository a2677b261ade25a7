"""From the certified graph to the implicit model: edges become the blocks of A, B, C and D."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from implicit_dsl.certify import Certified
from implicit_dsl.graph import LONGEST_LINE, Edge, Node, Parameter, Role, SignalGraph
from implicit_dsl.model import Block, Holder, ImplicitModel, Loop, Tensor, Term
from implicit_dsl.recurrence import Recurrence
from implicit_dsl.source import Span


def assemble(certified: Certified) -> ImplicitModel:
    """x = φ(A x + B u + b), y = C x + D u + d, with states in the order in which they are solved."""
    graph = certified.graph
    nodes = {role: [node for node in graph.nodes if node.role is role] for role in Role}
    by_name = {node.name: node for node in nodes[Role.STATE]}
    states = [by_name[name] for group in certified.groups for name in group.states]
    rank = {node.name: number for number, node in enumerate((*states, *nodes[Role.OUTPUT]))}
    ordered = sorted(graph.edges, key=lambda edge: rank[edge.target])  # stable: source order within a target
    return ImplicitModel(
        graph.name,
        graph.doc,
        graph.arguments,
        tuple(map(_block, nodes[Role.INPUT])),
        tuple(map(_block, states)),
        tuple(map(_block, nodes[Role.OUTPUT])),
        tuple(map(_term, ordered)),
        tuple(map(_tensor, graph.parameters)),
        tuple(Holder(layer.name, layer.operator, *_place(layer.span)) for layer in graph.layers),
        tuple(Loop(g.states, g.iterated, g.guarantee, g.rate) for g in certified.groups if g.iterated),
        graph.demands,
        certified.constraints,
        tuple(
            Recurrence(**{**_fields(one), "step": assemble(step)})
            for one, step in zip(graph.recurrences, certified.steps)
        ),
    )


def _fields(recurrence: Recurrence[SignalGraph]) -> dict[str, Any]:
    return {field.name: getattr(recurrence, field.name) for field in fields(recurrence)}


def _block(node: Node) -> Block:
    line, file = _place(node.span)
    text = node.span.source.line_text(line, most=LONGEST_LINE).strip()
    return Block(
        node.name, node.shape, node.activation, node.declared, line, text, file, node.tokens, node.start
    )


def _place(span: Span) -> tuple[int, str]:
    """The line, and the file if it is an imported one."""
    return span.line, span.source.title


def _tensor(parameter: Parameter) -> Tensor:
    within = parameter.within
    shape = parameter.shape if within is None or within.linear is None else within.free
    place = _place(parameter.span)
    return Tensor(
        parameter.id, shape, parameter.trainable, parameter.initialiser, *place, within, parameter.opens
    )


def _term(edge: Edge) -> Term:
    return Term(edge.target, edge.source, edge.chain)
