"""Networks as signal graphs, built by hand: what the pictures and their tests draw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from implicit_dsl.graph import Edge, Node, Parameter, Role, SignalGraph
from implicit_dsl.model import Block, ImplicitModel, Tensor, Term
from implicit_dsl.operators import CONSTRUCTORS, OPERATORS
from implicit_dsl.operators.base import Operator
from implicit_dsl.shapes import Shape
from implicit_dsl.source import Source

SPAN = Source("model M\nend\n").span(0, 7)


def op(name: str, source: Shape, held: str = "", **given: Any) -> Operator:
    """An operator of the language on a shape; `held` names the module that holds its parameters."""
    rule = CONSTRUCTORS[name]
    settings = {formal.name: given.get(formal.name, formal.default) for formal in rule.formals}
    if isinstance(settings.get("width"), int):
        settings["width"] = (None, settings["width"])
    made = rule.operator(settings, source)
    ids = tuple((spec.role, f"{held}.{spec.role}") for spec in rule.parameters(made)) if held else ()
    return Operator(made.kind, made.source, made.target, made.settings, ids)


def phi(kind: str, shape: Shape) -> Operator:
    """An elementwise activation."""
    return OPERATORS[kind].operator({}, shape)


def node(name: str, role: str, shape: Shape, activation: str | Operator = "", declared: bool = True) -> Node:
    made = phi(activation, shape) if isinstance(activation, str) and activation else activation or None
    assert not isinstance(made, str)
    return Node(name, Role(role), shape, made, declared, SPAN)


def edge(source: str | None, target: str, *chain: Operator) -> Edge:
    return Edge(source, target, chain, SPAN)


def graph(name: str, nodes: Iterable[Node], edges: Iterable[Edge]) -> SignalGraph:
    """A graph with the parameters that its edges use."""
    edges = tuple(edges)
    shapes: dict[str, tuple[tuple[int, ...], bool]] = {}
    for each in edges:
        for used in each.chain:
            specs = {spec.role: spec for spec in OPERATORS[used.kind].parameters(used)}
            for role, id in used.parameters:
                shapes.setdefault(id, (specs[role].shape, specs[role].trainable))
    parameters = tuple(Parameter(id, shape, trained, None, SPAN) for id, (shape, trained) in shapes.items())
    return SignalGraph(name, None, (), tuple(nodes), edges, (), parameters, SPAN)


def lenet() -> SignalGraph:
    """LeNet-5 with six states."""
    flat = Operator("reshape", (120, 1, 1), (120,))
    return graph(
        "LeNet5",
        [
            node("u", "input", (1, 32, 32)),
            node("c1", "state", (6, 28, 28), "tanh"),
            node("s2", "state", (6, 14, 14)),
            node("c3", "state", (16, 10, 10), "tanh"),
            node("s4", "state", (16, 5, 5)),
            node("c5", "state", (120,), "tanh"),
            node("f6", "state", (84,), "tanh"),
            node("y", "output", (10,)),
        ],
        [
            edge("u", "c1", op("Conv", (1, 32, 32), "c1_conv", width=6, kernel=5)),
            edge("c1", "s2", op("AvgPool", (6, 28, 28), kernel=2)),
            edge("s2", "c3", op("Conv", (6, 14, 14), "c3_conv", width=16, kernel=5)),
            edge("c3", "s4", op("AvgPool", (16, 10, 10), kernel=2)),
            edge("s4", "c5", op("Conv", (16, 5, 5), "c5_conv", width=120, kernel=5), flat),
            edge("c5", "f6", op("Dense", (120,), "f6_dense", width=84)),
            edge("f6", "y", op("Dense", (84,), "y_dense", width=10)),
        ],
    )


def resnet(blocks: int, tied: bool = False) -> SignalGraph:
    """A residual network with two states in each block; `tied`: one set of weights for all."""
    shape = (16, 32, 32)
    nodes = [node("u", "input", (3, 32, 32)), node("h[0]", "state", shape, "relu")]
    edges = [edge("u", "h[0]", op("Conv", (3, 32, 32), "stem", width=16, kernel=3, pad=1))]
    for i in range(1, blocks + 1):
        cell = "cell" if tied else f"block{i}"
        first = op("Conv", shape, f"{cell}.conv1", width=16, kernel=3, pad=1, bias=False)
        second = op("Conv", shape, f"{cell}.conv2", width=16, kernel=3, pad=1, bias=False)
        nodes += [
            node(f"a[{i}]", "state", shape, "relu", declared=False),
            node(f"h[{i}]", "state", shape, "relu"),
        ]
        edges += [edge(f"h[{i - 1}]", f"a[{i}]", first), edge(f"a[{i}]", f"h[{i}]", second)]
        edges.append(edge(f"h[{i - 1}]", f"h[{i}]"))
    nodes += [node("pooled", "state", (16,), declared=False), node("y", "output", (10,))]
    edges.append(edge(f"h[{blocks}]", "pooled", op("GlobalAvgPool", shape)))
    edges.append(edge("pooled", "y", op("Dense", (16,), "head", width=10)))
    return graph("TiedResNet" if tied else "ResNet", nodes, edges)


def inception() -> SignalGraph:
    """Two blocks of four branches that meet in a concatenation, and a skip over both."""
    nodes, edges, shape, before = [node("u", "input", (64, 28, 28))], [], (64, 28, 28), "u"
    for b in ("one", "two"):
        pooled = op("MaxPool", shape, kernel=3, stride=1, pad=1)
        nodes += [
            node(f"{b}.reduce3", "state", (32, 28, 28), "relu"),
            node(f"{b}.reduce5", "state", (8, 28, 28), "relu"),
            node(f"{b}.pool", "state", shape, pooled),
            node(f"{b}.mixed", "state", shape, "relu"),
        ]
        edges += [
            edge(before, f"{b}.reduce3", op("Conv", shape, f"{b}.r3", width=32, kernel=1)),
            edge(before, f"{b}.reduce5", op("Conv", shape, f"{b}.r5", width=8, kernel=1)),
            edge(before, f"{b}.pool"),
        ]
        branches = (
            (before, shape, 1, "c1"),
            (f"{b}.reduce3", (32, 28, 28), 3, "c3"),
            (f"{b}.reduce5", (8, 28, 28), 5, "c5"),
            (f"{b}.pool", shape, 1, "cp"),
        )
        for i, (source, size, kernel, name) in enumerate(branches):
            conv = op("Conv", size, f"{b}.{name}", width=16, kernel=kernel, pad=kernel // 2)
            into = Operator("place", (16, 28, 28), shape, (("axis", 0), ("start", 16 * i)))
            edges.append(edge(source, f"{b}.mixed", conv, into))
        before = f"{b}.mixed"
    nodes += [node("pooled", "state", (64,), declared=False), node("y", "output", (10,))]
    edges.append(edge("u", before))
    edges.append(edge(before, "pooled", op("GlobalAvgPool", shape)))
    edges.append(edge("pooled", "y", op("Dense", (64,), "head", width=10)))
    return graph("Inception", nodes, edges)


def loops() -> SignalGraph:
    """A state that reads itself, and two that read each other."""
    dense = [op("Dense", (8,), name, width=8) for name in ("W", "U", "V", "R")]
    return graph(
        "Loops",
        [
            node("u", "input", (8,)),
            node("h", "state", (8,), "tanh"),
            node("g", "state", (8,), "sigmoid"),
            node("y", "output", (8,)),
        ],
        [
            edge("u", "h", dense[0]),
            edge("h", "h", dense[1]),
            edge("h", "g", dense[2]),
            edge("g", "h", dense[3]),
            edge("h", "g"),
            edge(None, "g", Operator("constant", (), (8,), (("value", 1.0),))),
            edge("g", "y"),
        ],
    )


def model(graph: SignalGraph) -> ImplicitModel:
    """The implicit model of a graph without nested activations, states in the order of the graph."""

    def blocks(role: Role) -> tuple[Block, ...]:
        return tuple(Block(n.name, n.shape, n.activation) for n in graph.nodes if n.role is role)

    terms = tuple(Term(each.target, each.source, each.chain) for each in graph.edges)
    tensors = tuple(Tensor(p.id, p.shape, p.trainable) for p in graph.parameters)
    inputs, states, outputs = blocks(Role.INPUT), blocks(Role.STATE), blocks(Role.OUTPUT)
    return ImplicitModel(graph.name, None, (), inputs, states, outputs, terms, tensors, ())
