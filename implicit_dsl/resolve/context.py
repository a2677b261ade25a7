"""What the parts of resolution share while one model is resolved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from implicit_dsl.errors import Diagnostic, Findings, Label
from implicit_dsl.names import TAKEN_ATTRIBUTES, identifier
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import Operator
from implicit_dsl.resolve.problem import Exhausted, problem
from implicit_dsl.resolve.scope import Environment, Noted, NotedOpen
from implicit_dsl.resolve.values import Definition, Function, Layer
from implicit_dsl.resolve.wires import Network, Tensor, Wire
from implicit_dsl.shapes import Shape
from implicit_dsl.source import Span
from implicit_dsl.syntax import Comprehension, Expression

if TYPE_CHECKING:
    from implicit_dsl.resolve.annotations.sparsity import Asked

MOST_STEPS = 800_000  # what a small program may unroll to; see Budget
STEPS_PER_CHARACTER = 10  # and for each character of its text
MOST_FOUND = 500  # findings; whoever reads them has seen the first twenty
MOST_FRAMES = 5  # of the path to an instance, in a message
DEEPEST_BLOCKS = 32  # blocks within blocks

# What things cost, in expressions evaluated.
STATEMENT = 8
REFUSED = 24
WIRE = 4
CALL = 16
BLOCK = 64


@dataclass(eq=False, slots=True)
class Budget:
    """How much work is left, for all models of a program together: time is bounded by its text."""

    left: int = MOST_STEPS

    def exhausted(self, span: Span) -> Exhausted:
        """The program unrolls to more than it may."""
        return Exhausted(
            Diagnostic(
                "E0107",
                "this program unrolls to more steps than the limit",
                span,
                "the limit is reached here",
                notes=(
                    f"it may take {MOST_STEPS:,}, and {STEPS_PER_CHARACTER} more for each character of text",
                ),
                help="loops and blocks are unrolled at compile time: use fewer iterations",
            )
        )


@dataclass(eq=False, slots=True)
class Context:
    """The network so far, the findings so far, and the definition under evaluation.

    `evaluate`, `scopes`, `force` and `introduce` are set once, where the parts are put together.
    """

    findings: Findings
    budget: Budget
    network: Network = field(default_factory=Network)
    layers: list[Layer] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    active: list[Definition] = field(default_factory=list)
    frames: tuple[Label, ...] = ()
    noted: list[Noted] = field(default_factory=list)  # annotations about loops, which wait for the values
    opens: list[NotedOpen] = field(default_factory=list)  # zeros that are opened, which wait as well
    functions: list[tuple[Wire, Function]] = field(default_factory=list)  # that are activations
    measured: list[Asked] = field(default_factory=list)  # bounds of `@sparse`, terms of `@penalty`
    announced: list[Diagnostic] = field(default_factory=list)  # findings that wait for the graph
    settled: set[int] = field(default_factory=set)  # annotations about some `recurrent` or `ode`, by id
    poisoned: bool = False  # something is wrong that was reported, perhaps by the parser: there is no graph
    evaluate: Callable[[Expression, Environment], Any] = None  # type: ignore[assignment]
    scopes: Callable[[Comprehension, Environment], Iterator[Environment]] = None  # type: ignore[assignment]
    force: Callable[[Definition], Any] = None  # type: ignore[assignment]
    introduce: Callable[..., Wire | None] = None  # type: ignore[assignment]
    _attributes: dict[str, tuple[str, Span]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _labels: dict[str, int] = field(default_factory=dict)

    # ------------------------------------------------------------------ limits and findings

    def step(self, span: Span, count: int = 1) -> None:
        """Count work that a program unrolls to. Raises Exhausted beyond the limit."""
        self.budget.left -= count
        if self.budget.left < 0:
            raise self.budget.exhausted(span)

    def report(self, diagnostic: Diagnostic) -> None:
        """Note a finding, with the instance that it came up in."""
        if self.frames and not diagnostic.path:
            path = self.frames
            if len(path) > MOST_FRAMES:
                path = (*path[: MOST_FRAMES - 1], path[-1])
            diagnostic = replace(diagnostic, path=path)
        self.findings.add(diagnostic)
        if len(self.findings.found) > MOST_FOUND:
            raise Exhausted

    # ------------------------------------------------------------------ names

    def target(self) -> str:
        """The name of the equation under evaluation, such as `h[1]`."""
        return self.active[-1].label if self.active else ""

    def full_target(self) -> str:
        """The same with the instance that it stands in, such as `stage[1].basic.h`."""
        if not self.active:
            return ""
        definition = self.active[-1]
        return definition.label if definition.body is None else definition.body.label(definition.label)

    def unique(self, label: str) -> str:
        """A label for an application of a block: `h.cell`, then `h.cell2`, …"""
        self._labels[label] = self._labels.get(label, 0) + 1
        count = self._labels[label]
        return label if count == 1 else f"{label}{count}"

    def claim(self, name: str, span: Span) -> str:
        """The attribute for a name that the user gave. Raises Problem if it is taken by another."""
        plain = identifier(name)
        if plain in TAKEN_ATTRIBUTES or plain.startswith("_"):
            renamed = f"p{plain}" if plain.startswith("_") else f"{plain}_"
            why = (
                "names with `_` before them belong to" if plain.startswith("_") else f"`{plain}` is taken by"
            )
            self.report(
                Diagnostic(
                    "W0105",
                    f"`{name}` is called `{renamed}` in the generated module",
                    span,
                    f"{why} `nn.Module`",
                    help="choose another name, and the two will agree",
                )
            )
            plain = renamed
        if plain in self._attributes:
            other, place = self._attributes[plain]
            raise problem(
                "E0106",
                f"`{name}` and `{other}` are both called `{plain}` in Python",
                span,
                labels=(Label(place, f"`{other}` is here"),),
                help="rename one of them",
            )
        self._attributes[plain] = (name, span)
        return plain

    def written(self, attribute: str) -> str:
        """The name of the source that an attribute is called after: `W[2]` for `W_2`."""
        return self._attributes[attribute][0]

    def invent(self, name: str, span: Span) -> str:
        """An attribute for what has no name of its own: `y_dense`, `y_dense2`, …"""
        base = identifier(name)
        base = f"p{base}" if base.startswith("_") else base
        plain = base
        while plain in self._attributes or plain in TAKEN_ATTRIBUTES:
            self._counts[base] = self._counts.get(base, 1) + 1
            plain = f"{base}{self._counts[base]}"
        self._attributes[plain] = (name, span)
        return plain

    # ------------------------------------------------------------------ wires

    def wire(
        self,
        kind: str,
        shape: Shape,
        span: Span,
        sources: tuple[Wire, ...] = (),
        operator: Operator | None = None,
    ) -> Wire:
        """A new value of the network, in the equation under evaluation."""
        self.step(span, WIRE)
        sources = tuple(self.network.here(source) for source in sources)
        takes_tokens = kind == "recurrence" if operator is None else OPERATORS[operator.kind].takes_tokens
        if not takes_tokens:
            for source in sources:
                refuse_tokens(source, span)
        return self.network.add(
            Wire(kind, shape, span, sources, operator, hint=self.full_target(), path=self.frames)
        )


def refuse_tokens(wire: Wire, span: Span) -> None:
    """Raises Problem for an input of tokens, which are no numbers to compute with."""
    if wire.tokens:
        raise problem(
            "E0207",
            f"`{wire.name}` holds tokens, which have to be embedded first",
            span,
            labels=(Label(wire.span, f"in Tokens({wire.tokens})"),) if wire.span != span else (),
            help=f"write `Embedding({wire.tokens}, width)({wire.name})`",
        )
