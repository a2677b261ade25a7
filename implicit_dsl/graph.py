"""The network as a graph: what `resolve` makes of a program.

A node is a block of numbers (an input, a state with its activation, an output), an edge a
chain of linear operators from one block into the pre-activation of another. Parameters are
named by their ids, so that a tie is a shared id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from implicit_dsl.demands import NO_DEMANDS, Demands
from implicit_dsl.errors import Label
from implicit_dsl.opened import Opened
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.initialisers import Initialiser, fixed_entries
from implicit_dsl.recurrence import Recurrence
from implicit_dsl.sets import MatrixSet
from implicit_dsl.shapes import Shape
from implicit_dsl.source import Span

if TYPE_CHECKING:
    import networkx as nx


LONGEST_LINE = 400  # characters of the source that are kept for each block; a line may be a whole program


class Role(Enum):
    INPUT = "input"
    STATE = "state"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Node:
    """A block. A state has z = Σ edges and x = φ(z); `activation` None means x = z.

    `declared` states were named by the user, the others are nested activations and
    shared values that were lifted. `path` tells through which instances a block came. `start`
    is where a solver starts: one number, one for each entry, or () for zero.
    """

    name: str
    role: Role
    shape: Shape
    activation: Operator | None
    declared: bool
    span: Span
    path: tuple[Label, ...] = ()
    tokens: bool = False  # whether it is an input of tokens, which its last axis counts
    start: tuple[float, ...] = ()

    @property
    def slots(self) -> Shape:
        """The shape of the pre-activation, which max-pooling reduces to `shape`."""
        return self.shape if self.activation is None else self.activation.source


@dataclass(frozen=True, slots=True)
class Edge:
    """A chain of operators, the first applied first; `source` None is the constant 1.

    At most one operator of a chain is mixing; the others permute, pick and scale.
    """

    source: str | None
    target: str
    chain: tuple[Operator, ...]
    span: Span

    @property
    def parameters(self) -> tuple[str, ...]:
        """The ids of the parameters on this edge."""
        return tuple(id for operator in self.chain for _, id in operator.parameters)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of the model. Its id is its key in the state_dict.

    One that is `within` a set is a value of this shape, made of a trained tensor with that key.
    """

    id: str
    shape: tuple[int, ...]
    trainable: bool
    initialiser: Initialiser | None  # None: the layer that holds it knows
    span: Span
    within: MatrixSet | None = None
    opens: Opened | None = None  # the block that an `open` made it for

    @property
    def trained(self) -> tuple[int, ...]:
        """The shape of the tensor that the module holds."""
        return self.shape if self.within is None else self.within.free

    @property
    def norms(self) -> tuple[float, float] | None:
        """Bounds of Σ|…| of each row and of each column, if its entries are fixed.

        Modules hold them to within 2⁻⁹ in bfloat16, which has the fewest digits.
        """
        listed = fixed_entries(self.initialiser)
        if not listed:
            return None
        rows, columns = self.shape[0] if self.shape else 1, prod(self.shape[1:])
        entries = [abs(entry) * (1 + 2**-8) for entry in listed]
        if len(entries) == 1:
            return entries[0] * columns, entries[0] * prod(self.shape) / prod(self.shape[1:2])
        by_row = [sum(entries[row * columns : (row + 1) * columns]) for row in range(rows)]
        if len(self.shape) < 2:
            return max(by_row), sum(by_row)
        behind = prod(self.shape[2:])
        by_column = [0.0] * self.shape[1]
        for number, entry in enumerate(entries):
            by_column[number // behind % self.shape[1]] += entry
        return max(by_row), max(by_column)


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that holds parameters: `name` is its attribute, `operator` its first use."""

    name: str
    operator: Operator
    span: Span


@dataclass(frozen=True)
class SignalGraph:
    """Nodes in the order of the source, edges grouped by target, parameters in order of use.

    Nodes that a recurrence gives have no edges.
    """

    name: str
    doc: str | None
    arguments: tuple[tuple[str, str], ...]  # compile-time parameters and their values, as text
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]
    span: Span
    demands: Demands = NO_DEMANDS
    recurrences: tuple[Recurrence[SignalGraph], ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def fixed_norms(self) -> dict[str, tuple[float, float]]:
        """The bounds of the rows and the columns of fixed parameters, by id."""
        return {one.id: norms for one in self.parameters if (norms := one.norms) is not None}

    @cached_property
    def network(self) -> nx.MultiDiGraph[Any]:
        """The same as a frozen networkx graph, with each Node and Edge under the key `data`.

        The constant 1 is no node: offsets stand in `offsets` of the graph's attributes.
        """
        import networkx as nx

        graph: nx.MultiDiGraph[Any] = nx.MultiDiGraph(
            name=self.name, offsets=tuple(edge for edge in self.edges if edge.source is None)
        )
        for node in self.nodes:
            graph.add_node(node.name, data=node)
        for edge in self.edges:
            if edge.source is not None:
                graph.add_edge(edge.source, edge.target, data=edge)
        frozen: nx.MultiDiGraph[Any] = nx.freeze(graph)
        return frozen
