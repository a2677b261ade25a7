"""The network while it is being built: wires, in the order in which they come to be.

A wire is a value of the network. Its sources were made before it, except that the equation
of a state may be found later (`drive`); so one walk in order of creation visits sources first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from implicit_dsl.errors import Label
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.sets import MatrixSet
from implicit_dsl.shapes import Shape
from implicit_dsl.source import Span


@dataclass(eq=False, slots=True)
class Wire:
    """`kind` is input, state, linear, activation, sum, constant or cat.

    `name` is set when the source names this very value; `hint` is the equation that it
    came up in, from which a lifted state takes its name.
    """

    kind: str
    shape: Shape
    span: Span
    sources: tuple[Wire, ...] = ()
    operator: Operator | None = None
    name: str = ""
    hint: str = ""
    path: tuple[Label, ...] = ()
    declared: bool = False
    drive: Wire | None = None  # of a state: the value of its equation
    tokens: int = 0  # of an input of tokens: how many there are
    start: tuple[float, ...] = ()  # of a state: where its solver starts, one number or one for each entry
    number: int = 0  # in order of creation
    uses: int = 0


@dataclass(eq=False, slots=True)
class Tensor:
    """A parameter of the model: `id` is its key in the state_dict.

    One that is `within` a set is a value of this shape, made of a trained tensor with that key.
    """

    id: str
    shape: tuple[int, ...]
    trainable: bool
    initialiser: Initialiser | None
    span: Span
    within: MatrixSet | None = None


@dataclass(slots=True)
class Network:
    """Everything that exists of one model while it is being resolved."""

    wires: list[Wire] = field(default_factory=list)
    outputs: list[tuple[str, Wire, Span]] = field(default_factory=list)

    def add(self, wire: Wire) -> Wire:
        wire.number = len(self.wires)
        self.wires.append(wire)
        return wire
