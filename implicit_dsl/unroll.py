"""From recurrences to the implicit model of a given length: one copy of the step for each entry.

The copies share their parameters: in A they are equal blocks, those that read the step before on a
block sub-diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from implicit_dsl.model import Block, Chain, ImplicitModel, Loop, Term
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.offsets import constants
from implicit_dsl.operators.timed import bound
from implicit_dsl.recurrence import Carry, Recurrence
from implicit_dsl.shapes import Shape


def unrolled(model: ImplicitModel) -> ImplicitModel:
    """The same model without recurrences; its states of step t of h are called `h[t]`.

    Its sizes must be known. Raises ValueError for a sequence without any step, and for steps that are
    chosen by the data.
    """
    if not model.recurrences:
        return model
    states: list[Block] = []
    terms: list[Term] = []
    loops: list[Loop] = []
    given = {name: one for one in model.recurrences for name, *_ in one.gives}
    taken = {*model.blocks, *(block.name for block in model.outputs)}
    done: dict[str, _Copies] = {}
    for block in model.states:
        one = given.get(block.name)
        if one is None:
            states.append(block)
            terms += model.terms_of[block.name]
            continue
        if one.name not in done:
            copies = done[one.name] = _Copies(model, one, taken)
            copies.run()
            states += copies.states
            terms += copies.terms
            loops += copies.loops
        states.append(block)
        terms += done[one.name].result(block)
    terms += [term for block in model.outputs for term in model.terms_of[block.name]]
    return replace(
        model, states=tuple(states), terms=tuple(terms), loops=(*model.loops, *loops), recurrences=()
    )


@dataclass(slots=True)
class _Copies:
    """The copies of one step. `taken` are names that blocks have already."""

    model: ImplicitModel
    recurrence: Recurrence[ImplicitModel]
    taken: set[str]
    length: int = 0
    step: ImplicitModel | None = None
    states: list[Block] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    names: dict[tuple[str, int], str] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        self.step = step = unrolled(self.recurrence.step)
        self.length = length = self._steps()
        for t in range(1, length + 1):
            for block in step.states:
                self.names[block.name, t] = self._name(f"{block.name}[{t}]")
        for t in range(1, length + 1):
            for block in step.states:
                name = self.names[block.name, t]
                self.states.append(replace(block, name=name))
                for term in step.terms_of[block.name]:
                    self._copy(term, name, t)
            for loop in step.loops:
                states, iterated = (
                    tuple(self.names[name, t] for name in names) for names in (loop.states, loop.iterated)
                )
                self.loops.append(replace(loop, states=states, iterated=iterated))

    def _steps(self) -> int:
        if self.recurrence.method is not None:
            names = ", ".join(f"`{carry.before}`" for carry in self.recurrence.carried)
            raise ValueError(
                f"{names}: integrated by {self.recurrence.method.name}, which chooses its steps by the data, "
                "so that there are no matrices: take a method with fixed steps"
            )
        if self.recurrence.clock is not None:
            return self.recurrence.clock.count
        _, sequence = self.recurrence.sequences[0]
        length = self.model.blocks[sequence].shape[0]
        assert isinstance(length, int), "free sizes are bound before anything is unrolled"
        if length < 1:
            raise ValueError(f"`{sequence}` has no steps, so that there is nothing to unroll")
        return length

    def _name(self, wished: str) -> str:
        name = wished
        while name in self.taken:
            name += "'"
        self.taken.add(name)
        return name

    def _copy(self, term: Term, target: str, t: int) -> None:
        chain, clock = term.chain, self.recurrence.clock
        if clock is not None:
            begin, length = clock.begin(t - 1), clock.length(t - 1)
            chain = tuple(bound(operator, begin, length) for operator in chain)
        if term.source is None:
            self.terms.append(Term(target, None, chain))
            return
        source, before = self._read(term.source, t)
        self.terms.append(Term(target, source, (*before, *chain)))

    def _read(self, name: str, t: int) -> tuple[str, Chain]:
        """The block that a block of the step is at step t, and what picks it."""
        if (name, t) in self.names:
            return self.names[name, t], ()
        for step_input, block in self.recurrence.sequences:
            if step_input == name:
                return block, (_pick(self.model.blocks[block].shape, t - 1),)
        for step_input, block in self.recurrence.same:
            if step_input == name:
                return block, ()
        carry = next(one for one in self.recurrence.carried if one.before == name)
        if t > 1:
            return self._read(carry.now, t - 1)
        return self._start(carry)

    def _start(self, carry: Carry) -> tuple[str, Chain]:
        """What the first step reads: a block of the model, or one of constants (of none, for zeros)."""
        if isinstance(carry.start, str):
            return carry.start, ()
        if carry.before not in self.starts:
            assert self.step is not None
            shape = self.step.blocks[carry.before].shape
            name = self.starts[carry.before] = self._name(self._before(carry))
            self.states.insert(0, Block(name, shape, declared=False))
            if any(carry.start):
                self.terms += (Term(name, None, chain) for chain in constants(carry.start, shape))
        return self.starts[carry.before], ()

    def _before(self, carry: Carry) -> str:
        """`h[0]`, or `h[-1]` for what a step reads of two before."""
        now, lag = self.recurrence.earlier(carry.before)
        return f"{now}[{1 - lag}]"

    def result(self, block: Block) -> list[Term]:
        """The terms of what the recurrence gives: the states of all steps, or that of the last."""
        ((state, whole),) = ((of, whole) for name, of, whole in self.recurrence.gives if name == block.name)
        if not whole:
            return [Term(block.name, *self._read(state, self.length))]
        made = []
        for row, (source, chain) in enumerate(self._rows(state)):
            made.append(Term(block.name, source, (*chain, *_stacked(block.shape, row))))
        return made

    def _rows(self, state: str) -> list[tuple[str, Chain]]:
        """What the values of a state at all steps are; that of an integration begins with its start."""
        clock = self.recurrence.clock
        if clock is None:
            return [self._read(state, t) for t in range(1, self.length + 1)]
        carry = next(one for one in self.recurrence.carried if one.now == state)
        behind = (self._read(state, t) for t in range(clock.every, self.length + 1, clock.every))
        return [self._start(carry), *behind]


def _pick(shape: Shape, at: int) -> Operator:
    """One entry along the first axis."""
    return OPERATORS["select"].operator({"slices": (at, *[None] * (len(shape) - 1))}, shape)


def _stacked(shape: Shape, at: int) -> tuple[Operator, ...]:
    """To one entry along the first axis of a shape, with zeros at the others."""
    row = OPERATORS["reshape"].operator({"shape": (1, *shape[1:])}, shape[1:])
    return row, OPERATORS["place"].operator({"axis": 0, "start": at, "total": shape[0]}, row.target)
