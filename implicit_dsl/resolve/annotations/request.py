"""What one annotation asks for, before it is known which states it is about."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_dsl.demands import BackwardDemand, Demand, SolverDemand
from implicit_dsl.resolve.scope import Noted
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.source import Span


@dataclass(frozen=True, slots=True)
class Request:
    """A demand without its states; `target` is the state that it names, written at `place`."""

    demand: Demand | SolverDemand | BackwardDemand
    noted: Noted
    target: Wire | None = None
    place: Span | None = None

    @property
    def span(self) -> Span:
        return self.noted.annotation.span

    @property
    def shown(self) -> str:
        """The annotation on one line, for messages."""
        return " ".join(self.span.text.split())


@dataclass(frozen=True, slots=True)
class Assigned:
    """A request with its states. Of two about one loop, that with the lower `rank` goes before.

    `loops` are those that it concerns, `ids` the parameters that it constrains.
    """

    request: Request
    demand: Demand | SolverDemand | BackwardDemand
    rank: tuple[int, int]
    loops: frozenset[int]
    ids: frozenset[str]
