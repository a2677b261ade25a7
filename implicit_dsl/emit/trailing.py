"""What of a step no step behind it depends on: computed behind all steps, for all of them at once.

The counterpart of `hoisting`: the step that is left ends with what is carried, and a model of the rest has
all steps of all samples as its batch. Where only the values of the last step are read, it has those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from implicit_dsl.emit.hoisting import giving, stays
from implicit_dsl.model import ImplicitModel
from implicit_dsl.recurrence import Recurrence


@dataclass(frozen=True, slots=True)
class Trailing:
    """`rest` is the recurrence that is left, `behind` what is computed from its values, if anything.

    `gives` are blocks around the recurrence, each with a state of `behind`, and whether it is that of all
    steps or that of the last. The inputs of `behind` are blocks of the step.
    """

    rest: Recurrence[ImplicitModel]
    behind: ImplicitModel | None = None
    gives: tuple[tuple[str, str, bool], ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is computed for all steps, and not only for the last."""
        return any(whole for *_, whole in self.gives)

    @property
    def reads(self) -> dict[tuple[str, bool], str]:
        """What is read behind the steps: a state, and whether that of all steps, each with a name."""
        found = {(state, whole): name for name, state, whole in self.rest.gives}
        same = {name for name, _ in self.rest.same}
        for block in self.behind.inputs if self.behind is not None else ():
            if block.name not in same:
                name = block.name if self.whole else f"{block.name}.last"
                found.setdefault((block.name, self.whole), name)
        return found


def trailing(recurrence: Recurrence[ImplicitModel]) -> Trailing:
    """A recurrence without a clock, cut in two."""
    step = recurrence.step
    moved = _moved(recurrence)
    if not moved:
        return Trailing(recurrence)
    gives = tuple(one for one in recurrence.gives if one[1] in moved)
    kept = tuple(one for one in recurrence.gives if one[1] not in moved)
    terms = tuple(term for term in step.terms if term.target in moved)
    read = {term.source for term in terms}
    behind = replace(
        step,
        inputs=tuple(
            replace(block, activation=None)
            for block in (*step.inputs, *step.states)
            if block.name in read and block.name not in moved
        ),
        states=tuple(block for block in step.states if block.name in moved),
        outputs=(),
        terms=terms,
        loops=tuple(loop for loop in step.loops if set(loop.states) <= moved),
        recurrences=(),
    )
    whole = any(whole for *_, whole in gives)
    left = {block.name for block in step.states} - moved
    names = [block.name for block in behind.inputs if block.name in left]
    shown = tuple((name, name, whole) for name in names)
    outputs = {block.name for block in step.outputs}
    rest = replace(
        step,
        states=tuple(block for block in step.states if block.name not in moved),
        outputs=(),
        terms=tuple(term for term in step.terms if term.target not in moved | outputs),
        loops=tuple(loop for loop in step.loops if not set(loop.states) <= moved),
    )
    still = {term.source for term in rest.terms} | {name for one in rest.recurrences for name in one.reads}
    still |= {state for _, state, _ in kept} | {carry.now for carry in recurrence.carried}
    sequences = tuple(pair for pair in recurrence.sequences if pair[0] in still)
    made = replace(recurrence, gives=(*kept, *shown), sequences=sequences)
    made = replace(made, step=giving(rest, made.results))
    return Trailing(replace(made, gives=kept), giving(behind, [state for _, state, _ in gives]), gives)


def _moved(recurrence: Recurrence[ImplicitModel]) -> set[str]:
    """The states that nothing carried depends on, and that are the same function for more samples at once."""
    step = recurrence.step
    before = {carry.before for carry in recurrence.carried}
    kept = {*before, *(carry.now for carry in recurrence.carried)}
    kept |= {name for one in step.recurrences for name in (*one.reads, *(given for given, *_ in one.gives))}
    for block in step.states:
        terms = step.terms_of[block.name]
        if any(term.source in before or stays(term, False) for term in terms):
            kept.add(block.name)
    changed = True
    while changed:
        size = len(kept)
        kept |= {t.source for t in step.terms if t.target in kept and t.source is not None}
        for loop in step.loops:
            if set(loop.states) & kept:
                kept |= set(loop.states)
        changed = len(kept) > size
    return {block.name for block in step.states} - kept
