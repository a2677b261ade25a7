"""What is computed once for each step of a sequence, in a graph and in a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from implicit_dsl.clock import Clock
from implicit_dsl.integrators import Method

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Carry:
    """What a step reads of the one before: its input `before` is what its block `now` was.

    `start` is what the first step reads: numbers (one, one for each entry, or () for zero), or a block
    around the step.
    """

    before: str
    now: str
    start: tuple[float, ...] | str


@dataclass(frozen=True, slots=True)
class Recurrence(Generic[S]):
    """One computation for each step along the first axis of some sequences.

    The inputs of the `step` are one entry of each of the `sequences`, blocks around it that are the
    `same` at all steps, and what is `carried`; pairs name the input and the block around the step.
    `gives` are blocks around it, each with a state of the step, and whether it is that of all steps,
    along a new first axis, or that of the last.

    Gradients go back through at most `truncated` steps, to where a multiple of these ended; 0: through all.

    With a `clock` it is the integration of an `ode`: there are no sequences, and as many steps as that
    says, whose times the operators of the step know. What it gives are carried states; all of them
    include the start. With a `method` the step gives derivatives of what it carries, for that method to
    choose its steps; what it gives is named by its inputs.
    """

    name: str
    step: S
    sequences: tuple[tuple[str, str], ...]
    same: tuple[tuple[str, str], ...]
    carried: tuple[Carry, ...]
    gives: tuple[tuple[str, str, bool], ...]
    line: int = 0
    text: str = ""  # of that line
    file: str = ""  # if it was imported
    clock: Clock | None = None
    method: Method | None = None
    truncated: int = 0

    @property
    def reads(self) -> tuple[str, ...]:
        """The blocks around the step that it depends on."""
        starts = (carry.start for carry in self.carried if isinstance(carry.start, str))
        return (*(block for _, block in (*self.sequences, *self.same)), *starts)

    @property
    def results(self) -> tuple[str, ...]:
        """The blocks of the step that are read by the next one, or around it."""
        nows = (carry.now for carry in self.carried)
        return tuple(dict.fromkeys((*nows, *(state for _, state, _ in self.gives))))

    def earlier(self, before: str) -> tuple[str, int]:
        """The block of the step that an input `before` was, and how many steps before."""
        carries = {carry.before: carry for carry in self.carried}
        lag = 0
        while before in carries:
            before, lag = carries[before].now, lag + 1
        return before, lag


class _HasSteps(Protocol):
    @property
    def recurrences(self) -> tuple[Recurrence[Any], ...]: ...


Whole = TypeVar("Whole", bound=_HasSteps)


def with_steps(whole: Whole) -> Iterator[Whole]:
    """A graph or a model, and those of the steps of its recurrences."""
    yield whole
    for one in whole.recurrences:
        yield from with_steps(one.step)
