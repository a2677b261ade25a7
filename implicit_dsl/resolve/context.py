"""What the parts of resolution share while one model is resolved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from implicit_dsl.errors import Diagnostic, Findings, Label
from implicit_dsl.names import TAKEN_ATTRIBUTES, identifier
from implicit_dsl.operators.base import Operator
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import Definition, Layer
from implicit_dsl.resolve.wires import Network, Tensor, Wire
from implicit_dsl.shapes import Shape
from implicit_dsl.source import Span
from implicit_dsl.syntax import Expression

MOST_STEPS = 1_000_000  # statements and list items that a program may unroll to
DEEPEST_BLOCKS = 64  # blocks within blocks


@dataclass(eq=False, slots=True)
class Context:
    """The network so far, the findings so far, and the definition under evaluation.

    `evaluate` and `force` are set once, where the parts are put together.
    """

    findings: Findings
    network: Network = field(default_factory=Network)
    layers: list[Layer] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    active: list[Definition] = field(default_factory=list)
    frames: tuple[Label, ...] = ()
    steps: int = 0
    evaluate: Callable[[Expression, Environment], Any] = None  # type: ignore[assignment]
    force: Callable[[Definition], Any] = None  # type: ignore[assignment]
    _attributes: dict[str, tuple[str, Span]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _labels: dict[str, int] = field(default_factory=dict)

    # ------------------------------------------------------------------ limits and findings

    def step(self, span: Span, count: int = 1) -> None:
        """Count work that a program unrolls to. Raises Problem beyond the limit."""
        self.steps += count
        if self.steps > MOST_STEPS:
            raise problem(
                "E0107",
                f"this program unrolls to more than {MOST_STEPS:,} steps",
                span,
                "the limit is reached here",
                help="loops are unrolled at compile time: use fewer iterations",
            )

    def warn(self, diagnostic: Diagnostic) -> None:
        self.findings.add(diagnostic)

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
        if plain in TAKEN_ATTRIBUTES:
            self.warn(
                Diagnostic(
                    "W0105",
                    f"`{name}` is called `{plain}_` in the generated module, because `nn.Module` has a `{plain}`",
                    span,
                    help="choose another name, and the two will agree",
                )
            )
            plain += "_"
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

    def invent(self, name: str, span: Span) -> str:
        """An attribute for what has no name of its own: `y_dense`, `y_dense2`, …"""
        base = identifier(name)
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
        return self.network.add(
            Wire(kind, shape, span, sources, operator, hint=self.full_target(), path=self.frames)
        )
