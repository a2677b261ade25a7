"""The network while it is being built: wires, in the order in which they come to be.

A wire is a value of the network. Its sources were made before it, except that the equation
of a state may be found later (`drive`); so one walk in order of creation visits sources first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from implicit_dsl.clock import Clock
from implicit_dsl.errors import Label
from implicit_dsl.integrators import Method
from implicit_dsl.opened import Opened
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.sets import MatrixSet
from implicit_dsl.shapes import Dim, Shape
from implicit_dsl.source import Span


@dataclass(eq=False, slots=True)
class Wire:
    """`kind` is input, state, linear, activation, sum, constant, cat, recurrence, steps or last.

    The last three stand for what a `recurrent` computes: for all of it, for one of its values at all
    steps, and at the last one. `name` is set when the source names this very value; `hint` is the
    equation that it came up in, from which a lifted state takes its name.
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
    tokens: Dim = 0  # of an input of tokens: how many there are
    start: tuple[float, ...] = ()  # of a state: where its solver starts, one number or one for each entry
    number: int = 0  # in order of creation
    uses: int = 0
    home: Network | None = None  # what it belongs to
    step: Step | None = None  # of a recurrence, and of what it gives
    given: Wire | None = None  # of steps and last: the value of one step
    limit: Wire | None = None  # of a sequence: how many steps it has, in each sample
    padded: Wire | None = None  # of a sequence with a limit: that of all steps


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
    opens: Opened | None = None


@dataclass(eq=False, slots=True)
class Network:
    """Everything that exists of one model, or of one step of a recurrence, while it is being resolved.

    A step reads values of the network around it: `captured` are the inputs that stand for these.
    """

    wires: list[Wire] = field(default_factory=list)
    outputs: list[tuple[str, Wire, Span]] = field(default_factory=list)
    outer: Network | None = None
    captured: dict[Wire, Wire] = field(default_factory=dict)
    numbers: dict[Wire, Wire] = field(default_factory=dict)  # tokens that are read as numbers
    timed: bool = False  # whether it is of the right-hand side of an `ode`

    def add(self, wire: Wire) -> Wire:
        wire.number, wire.home = len(self.wires), self
        self.wires.append(wire)
        return wire

    def here(self, wire: Wire) -> Wire:
        """A value of this network, or the input that stands for one of a network around it."""
        if wire.home is self:
            return wire
        assert self.outer is not None, "values of a step are read in that step alone"
        source = self.outer.here(wire)
        if source not in self.captured:
            made = Wire("input", source.shape, source.span, path=source.path, tokens=source.tokens)
            made.name = source.name or source.hint or source.kind
            self.captured[source] = self.add(made)
        return self.captured[source]


@dataclass(eq=False, slots=True)
class Carried:
    """What a step reads of the one before: `before` is its input, `now` the value that the next one reads.

    `start` are numbers, or a value of the network around it.
    """

    before: Wire
    now: Wire | None
    start: tuple[float, ...] | Wire
    span: Span


@dataclass(eq=False, slots=True)
class Step:
    """One step of a `recurrent`, a network of its own. `read` are its inputs, and the sequences of them.

    That of an `ode` has a `clock`, and no sequences.
    """

    network: Network
    span: Span
    read: list[tuple[Wire, Wire]] = field(default_factory=list)
    carried: dict[tuple[object, int], Carried] = field(default_factory=dict)  # by definition and lag
    last: dict[Wire, Wire] = field(default_factory=dict)  # of sequences that it gives, their last entries
    clock: Clock | None = None
    method: Method | None = None  # of an `ode`, if it is adaptive
    truncated: int = 0  # after how many steps gradients end; 0: they do not
