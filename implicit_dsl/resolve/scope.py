"""Where names live: files, instances of models and blocks, and the scopes of loops and functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from implicit_dsl.errors import Label
from implicit_dsl.resolve.values import Definition, Instance
from implicit_dsl.resolve.wires import Network, Step, Wire
from implicit_dsl.source import Source, Span
from implicit_dsl.syntax import Annotation, Expression, Ode, Open, Program, Recurrent

Key = tuple[Any, ...]


@dataclass(eq=False, slots=True)
class Environment:
    """Bindings of one scope, and the scope around it.

    `tag` tells repetitions of the same text apart (loop iterations, calls of functions), so
    that a layer written once in a loop is a new layer in each iteration. `body` is where
    names are looked up; `owner` is the instance that new layers belong to, which for a
    function is that of its caller.
    """

    body: Body | None
    module: Module
    parent: Environment | None = None
    bindings: dict[str, Any] = field(default_factory=dict)
    tag: tuple[Any, ...] = ()
    local: bool = False  # the body of a `for`: plain names belong to one iteration
    owner: Body | None = None
    shapes: dict[str, DeclaredShape] = field(default_factory=dict)  # of names that are local

    def inner(self, bindings: dict[str, Any], *tag: Any, local: bool = False) -> Environment:
        """A scope within this one."""
        return Environment(self.body, self.module, self, bindings, (*self.tag, *tag), local, self.owner)


@dataclass(eq=False, slots=True)
class DeclaredShape:
    """The shape written in a declaration: sizes still unevaluated, in their environment.

    `start` is where a solver starts, if a state says so.
    """

    sizes: tuple[Expression, ...]
    environment: Environment
    span: Span
    kind: str  # state or output
    start: Expression | None = None


@dataclass(eq=False, slots=True)
class Body:
    """One application of a model or block: its own names, states and outputs."""

    instance: Instance
    state_path: str  # what the names of its states begin with
    frames: tuple[Label, ...]  # how it came to be, outermost last
    depth: int
    network: Network  # that its values belong to
    definitions: dict[Key, Definition] = field(default_factory=dict)
    families: dict[str, dict[Key, None]] = field(default_factory=dict)  # members in order
    shapes: dict[Key, DeclaredShape] = field(default_factory=dict)
    inputs: list[Definition] = field(default_factory=list)  # in their order, families written out
    announced: dict[str, Span] = field(default_factory=dict)  # their names
    awaited: frozenset[str] = frozenset()  # names that are not known yet, while inputs are announced
    outputs: dict[Key, Span] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)  # warnings that were switched off
    broken: set[str] = field(default_factory=set)  # names with a declaration that was refused
    sole: str = ""  # of a block: its output, if it has one
    outer: Body | None = None  # of a step: the body that the `recurrent` stands in
    recurrence: Recurrence | None = None  # of a step: what it is a step of
    ode: Integration | None = None  # of the right-hand side of an `ode`: what it is of

    def holding(self, name: str) -> Body:
        """The body, this one or one around it, that has a name; this one if none has."""
        body: Body | None = self
        while body is not None:
            if (name,) in body.definitions or name in body.families or (name,) in body.shapes:
                return body
            if name in body.broken:
                return body
            body = body.outer
        return self

    def label(self, name: str) -> str:
        """The full name of a state of this body. The one output of a block is called like the block."""
        if self.state_path and name == self.sole:
            return self.state_path
        return f"{self.state_path}.{name}" if self.state_path else name


@dataclass(eq=False, slots=True)
class Recurrence:
    """A `recurrent` that was read: its step, which is evaluated when a value of it is first needed."""

    statement: Recurrent
    body: Body  # of the step
    environment: Environment  # that the statement stands in
    step: Step
    definitions: list[Definition] = field(default_factory=list)  # of the step, in the order of the text
    wire: Wire | None = None  # what stands for all of it, once that is known
    limit: Wire | None = None  # how many steps it has in each sample, if these differ


@dataclass(eq=False, slots=True)
class Integration:
    """An `ode` that was read: its right-hand side is evaluated for each stage of a step, when it is needed.

    `body` is one with the names of the right-hand side, whose `rates` are the derivatives. `until` is
    the last time, which may be infinite.
    """

    statement: Ode
    body: Body
    environment: Environment  # that the statement stands in
    marks: tuple[float, ...]
    chosen: bool  # whether the source lists the times
    step: Step | None = None
    rates: dict[Key, Definition] = field(default_factory=dict)
    states: dict[Key, Wire] = field(default_factory=dict)  # behind a step, once they are known
    wire: Wire | None = None  # what stands for all of it


@dataclass(frozen=True, slots=True)
class Noted:
    """An annotation about loops, to be read when everything is defined."""

    annotation: Annotation
    body: Body
    environment: Environment


@dataclass(frozen=True, slots=True)
class NotedOpen:
    """An `open`, to be read when everything is defined."""

    statement: Open
    body: Body
    environment: Environment


@dataclass(eq=False, slots=True)
class Module:
    """One file: its program and the names defined at its top."""

    source: Source
    program: Program
    names: dict[str, Any] = field(default_factory=dict)  # templates, imports; constants are Definitions
    lost: frozenset[str] = frozenset()  # words of lines that could not be read: silent afterwards
    claims: list[Annotation] = field(default_factory=list)  # what is said of its functions
    incomplete: bool = False  # an import failed, which could have given any name
