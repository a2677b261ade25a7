"""What a diagram of a network says on its boxes and lines, in any format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from implicit_dsl.graph import Edge, Node, Role, SignalGraph
from implicit_dsl.operators import OPERATORS, activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.pictures.lettering import clean, shorten
from implicit_dsl.shapes import Shape, show

LONGEST_NAME = 32
LONGEST_CHAIN = 44


@dataclass(frozen=True, slots=True)
class Ties:
    """Parameters used more than once, by what to call them, each with a number of its own."""

    numbers: dict[str, int]

    @staticmethod
    def of(graph: SignalGraph) -> Ties:
        """The ties of a graph, numbered as they come."""
        uses = Counter(holder for edge in graph.edges for holder in holders(edge))
        shared = [holder for holder, times in uses.items() if times > 1]
        return Ties({holder: number for number, holder in enumerate(shared)})

    def number(self, edge: Edge) -> int | None:
        """The number of the first tie on an edge, or None."""
        return next((self.numbers[h] for h in holders(edge) if h in self.numbers), None)


def holders(edge: Edge) -> tuple[str, ...]:
    """What holds the parameters of an edge: `c1_conv` for `c1_conv.weight` and `c1_conv.bias`."""
    return tuple(dict.fromkeys(id.rpartition(".")[0] or id for id in edge.parameters))


def operator_name(operator: Operator) -> str:
    """`Conv 5`, `AvgPool 2`, `× 0.5`: short enough for a line."""
    match operator.kind:
        case "scale":
            factor = operator["factor"]
            return "−" if factor == -1 else f"× {factor:g}"
        case "select":
            return "slice"
        case "reshape":
            return "flatten" if len(operator.target) == 1 else "reshape"
        case "matrix":
            return "matrix, transposed" if operator["transposed"] else "matrix"
        case "structured":
            return f"{operator['set'][0]}{', transposed' if operator['transposed'] else ''}"
        case "offset" | "constant":
            return "+"
    rule = OPERATORS.get(operator.kind)
    name = rule.names[0] if rule is not None and rule.names else operator.kind
    if operator.get("tied", False):
        name = "Conv transposed," if operator.kind == "conv_transpose" else "ConvTranspose transposed,"
    settings = dict(operator.settings)
    kernel, stride = settings.get("kernel"), settings.get("stride")
    if isinstance(kernel, tuple):
        name += f" {_sizes(kernel)}"
        natural = kernel if "pool" in operator.kind else (1,) * len(kernel)
        if isinstance(stride, tuple) and stride != natural:
            name += f", stride {_sizes(stride)}"
    return name


def _sizes(sizes: tuple[object, ...]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else "×".join(map(str, sizes))


def chain(edge: Edge) -> str:
    """The operators of an edge in the order in which they apply; empty for the value itself."""
    named = [operator_name(operator) for operator in edge.chain if operator.kind != "slot"]
    return shorten(clean(" · ".join(named)), LONGEST_CHAIN)


def held(edge: Edge) -> str:
    """The parameters of an edge in short."""
    return shorten(clean(", ".join(holders(edge))), LONGEST_NAME)


def name(node: Node) -> str:
    return shorten(clean(node.name), LONGEST_NAME)


def detail(graph: SignalGraph, node: Node) -> str:
    """The shape, the activation and the offset of a block: `[6, 28, 28]  tanh  + b`."""
    slots = arguments(node)
    same = all(slot == node.shape for slot in slots)
    said = [show(node.shape) if same else f"{', '.join(map(show, slots))} → {show(node.shape)}"]
    if node.activation is not None and node.activation.kind != "identity":
        said.append(operator_name(node.activation))
    offsets = [edge for edge in graph.edges if edge.source is None and edge.target == node.name]
    said += [f"+ {held(edge)}".rstrip() if held(edge) else _constant(edge) for edge in offsets]
    return shorten(clean("  ".join(said)), LONGEST_CHAIN + 10)


def arguments(node: Node) -> tuple[Shape, ...]:
    """The shapes of what the activation of a node takes."""
    if node.activation is None:
        return (node.shape,)
    return activation_rule(node.activation).slots(node.activation)


def _constant(edge: Edge) -> str:
    values = [operator["value"] for operator in edge.chain if operator.kind == "constant"]
    return f"+ {values[0]:g}" if values else "+ 1"


def kind(node: Node) -> str:
    """How a block is drawn: as `input`, `state`, `lifted` (a state that the compiler named) or `output`."""
    if node.role is Role.STATE and not node.declared:
        return "lifted"
    return node.role.value
