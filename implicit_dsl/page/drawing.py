"""The blocks of a model as a drawing, with a number on each line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from implicit_dsl.graph import Edge, Node, Role, SignalGraph
from implicit_dsl.model import Block
from implicit_dsl.operators.base import Operator
from implicit_dsl.page.figures import number
from implicit_dsl.page.subject import Subject
from implicit_dsl.pictures import diagram_svg

MOST_BLOCKS = 60


def drawn(subject: Subject, strengths: Mapping[tuple[str, str], float]) -> str:
    """The model as SVG text, a line for each (source, target), labelled with its strength.

    Sources are inputs and states, targets states and outputs. An output that has the name of another block is
    drawn with a prime.
    """
    model, like = subject.model, subject.graph
    taken = set(model.blocks)
    outputs = {block.name: block.name + "'" * (block.name in taken) for block in model.outputs}
    nodes = [
        *(_node(block, block.name, Role.INPUT, like) for block in model.inputs),
        *(_node(block, block.name, Role.STATE, like) for block in model.states),
        *(_node(block, outputs[block.name], Role.OUTPUT, like) for block in model.outputs),
    ]
    edges = [
        Edge(source, target, (Operator(number(strength, 3), (), ()),), like.span)
        for (source, target), strength in strengths.items()
    ]
    graph = replace(like, nodes=tuple(nodes), edges=tuple(edges), recurrences=(), layers=(), doc=None)
    return diagram_svg(graph)


def _node(block: Block, name: str, role: Role, like: SignalGraph) -> Node:
    return Node(name, role, block.shape, block.activation, block.declared, like.span, tokens=block.tokens)
