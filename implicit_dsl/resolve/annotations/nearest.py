"""What annotations say of one `recurrent` or `ode`: one that names a state of it, or the nearest around."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from implicit_dsl import syntax as s
from implicit_dsl.errors import Label
from implicit_dsl.resolve.annotations.forms import split
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.indexing import named_definition
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Body, Noted
from implicit_dsl.resolve.values import Definition
from implicit_dsl.source import Span

T = TypeVar("T")
Rank: TypeAlias = tuple[int, int]  # the smaller goes before the others
_NAMED: Rank = (0, 0)


@dataclass(frozen=True, slots=True)
class Saying(Generic[T]):
    """Annotations of one `name` whose form is one of some `words`, among all `known` that may stand there.

    `read` gives what one says, `twice` is the message where two that are as near say different things.
    """

    name: str
    what: str
    words: Collection[str]
    known: Collection[str]
    read: Callable[[Context, Noted, s.Expression | None], T]
    twice: str

    def of(self, context: Context, body: Body, is_own: Callable[[Definition | None], bool]) -> T | None:
        """What they say of the statement whose step is `body`, with the states that are its own.

        Raises Problem if they contradict one another.
        """
        found: dict[Rank, tuple[T, Span]] = {}
        for noted in context.noted:
            rank = _rank(noted.body, body)
            if rank is None or not self.among(noted):
                continue
            target, form = split(noted, self.what, self.known)
            if target is not None:
                if not is_own(named_definition(context, target, noted.environment)):
                    continue
                rank = _NAMED
            value = self.read(context, noted, form)
            if rank in found and found[rank][0] != value:
                other = Label(found[rank][1], "another one")
                span = noted.annotation.span
                raise problem("E0705", self.twice, span, labels=(other,), help="remove one of them")
            found[rank] = value, noted.annotation.span
            context.settled.add(id(noted.annotation))
        return found[min(found)][0] if found else None

    def among(self, noted: Noted) -> bool:
        """Whether an annotation is one of these."""
        return noted.annotation.name.name == self.name and word(noted) in self.words


def word(noted: Noted) -> str:
    """What an annotation names, `rk4` in `@solver(x, rk4(steps = 3))`."""
    form = noted.annotation.arguments[-1] if noted.annotation.arguments else None
    function = form.function if isinstance(form, s.Call) else form
    return function.name if isinstance(function, s.Name) else ""


def _rank(around: Body, body: Body) -> Rank | None:
    """How near an annotation in one body is to a step; None if it does not speak of that.

    What stands in a model or a block speaks of all in it, also of blocks; what stands in a step, of what
    is in that step.
    """
    chain = [body]
    while chain[-1].outer is not None:
        chain.append(chain[-1].outer)
    if around in chain:
        return 1, chain.index(around)
    path = around.state_path
    if around.outer is None and (not path or f"{body.state_path}.".startswith(f"{path}.")):
        return 2, -around.depth
    return None
