"""Recurrences in `forward`: what can be computed for all steps at once, then a loop over the steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from implicit_dsl.emit.cells import Cell, Elman, Gru, Linear, Lstm, gated, simple
from implicit_dsl.emit.hoisting import Hoisted, hoisted, needing
from implicit_dsl.emit.integration import Integrating, Step
from implicit_dsl.emit.loops import shape_text
from implicit_dsl.emit.lowering import Lowering
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.trailing import Trailing, trailing
from implicit_dsl.emit.wording import comment, fitted, opened, quoted
from implicit_dsl.model import Block, ImplicitModel
from implicit_dsl.operators.base import Expression
from implicit_dsl.recurrence import Carry, Recurrence

if TYPE_CHECKING:
    from collections.abc import Collection


class Recurrent(Integrating, Lowering):
    """Writes `forward` of a model that may have recurrences. `inner` are the writers of their steps."""

    def __init__(self, model: ImplicitModel, names: Names, taken: Collection[str] = ()) -> None:
        self._recurrence_of = {name: one for one in model.recurrences for name, *_ in one.gives}
        self._run: set[str] = set()
        self.inner: list[Recurrent] = []
        self._root: Recurrent = self
        super().__init__(model, names, taken)

    @property
    def writers(self) -> list[Recurrent]:
        """This one, and those within."""
        return [self, *(writer for inner in self.inner for writer in inner.writers)]

    def _block(self, block: Block) -> None:
        recurrence = self._recurrence_of.get(block.name)
        if recurrence is None:
            super()._block(block)
        elif recurrence.name not in self._run:
            self._run.add(recurrence.name)
            self._recurrence(recurrence)

    # ------------------------------------------------------------------ the parts

    def _recurrence(self, recurrence: Recurrence[ImplicitModel]) -> None:
        for name in recurrence.reads:
            self._release(name)
        self._comments.append(comment(recurrence))
        self._show_comments()
        if recurrence.clock is not None:
            self._integration(recurrence, recurrence.clock)
            return
        sequences = {name: self._values[of].text for name, of in recurrence.sequences}
        first = next(iter(sequences.values()))
        cut, after, cell = _parts(recurrence)
        sequences |= self._ahead(recurrence, cut, first)
        reads = after.reads
        if cell is None:
            found = self._step_by_step(after.rest, reads, sequences, first)
        else:
            found = self._fused(cell, recurrence, after.rest, _with_carried(cell, reads), sequences, first)
            last, steps = (
                {of: one.text for (of, all_), one in found.items() if all_ == w} for w in (False, True)
            )
            self._require_finite(after.rest, last, steps)
        for (state, whole), name in reads.items():
            if state in sequences:
                found[state, whole] = self._of_sequence(sequences[state], whole, name)
        self._values |= {name: found[state, whole] for name, state, whole in after.rest.gives}
        if after.behind is not None:
            self._behind(after, after.behind, found, first)

    def _of_sequence(self, sequence: str, whole: bool, name: str) -> Expression:
        """A sequence of values, or the last of them."""
        if whole:
            return Expression(sequence)
        variable = self._variable(name)
        self._assign(variable, Expression(self._called_in("last", sequence)), "")
        return Expression(variable)

    def _step_by_step(
        self,
        rest: Recurrence[ImplicitModel],
        reads: dict[tuple[str, bool], str],
        sequences: dict[str, str],
        first: str,
    ) -> dict[tuple[str, bool], Expression]:
        """The steps one by one. `reads` names what is read behind them: a state, and whether of all steps."""
        step = self._writer(rest.step)
        step.around, step.binds = self, True
        step.before = {carry.now: carry.before for carry in reversed(rest.carried)}
        for name, of in rest.same:
            step._values[name] = self._values[of]
        running = {carry.before: step.inputs[carry.before] for carry in rest.carried}
        for carry in rest.carried:
            self._assign(running[carry.before], Expression(self._start(carry, rest.step, first)), "")
        for name in step.guessed(running):
            start = rest.step.blocks[name].start
            made = Carry(name, name, start)
            step.starts[name] = step._variable(f"{name}.start")
            self._assign(step.starts[name], Expression(self._start(made, rest.step, first)), "")
        wanted = [(state, whole) for state, whole in reads if state not in sequences]
        lists = {state: step._variable(f"{state}.list") for state, whole in wanted if whole}
        carried = {carry.now: running[carry.before] for carry in rest.carried}
        unset = {state for state, whole in wanted if not whole} - running.keys() - carried.keys()
        for state in sorted(unset):  # if there are no steps
            none = Carry(state, state, rest.step.blocks[state].start)
            self._assign(step.reserved(state), Expression(self._start(none, rest.step, first)), "")
        self._lines += [f"{variable}: list[Tensor] = []" for variable in lists.values()]
        body = step.body(rest, running, lists)
        self._lines += [f"{variable} = {made}" for made, variable in step.bound.items()]
        if body:
            over = [(step.inputs[name], f"{sequences[name]}.unbind(1)") for name, _ in rest.sequences]
            if rest.truncated and running:
                count = step._variable("step")
                self._lines += _head(over, first, self.indent, count)
                body = [*_detached(count, rest.truncated, [*running.values()], step.indent), *body]
            else:
                self._lines += _head(over, first, self.indent)
            self._lines += ["    " + line for line in body]
        self._require_finite(rest, carried, lists)
        self._taken = step._taken
        found = {}
        for state, whole in wanted:
            name = reads[state, whole]
            variable = self._variable(f"{name}.steps" if whole else name)
            if whole:
                shape = shape_text(rest.step.blocks[state].shape, self.inputs)
                text = self._called_in("stack", f"{lists[state]}, {self.real_batch(first)}, {shape}")
            else:
                text = carried.get(state, step._values[state].text)
            self._assign(variable, Expression(text), "")
            found[state, whole] = Expression(variable)
        return found

    def _behind(
        self,
        after: Trailing,
        behind: ImplicitModel,
        found: dict[tuple[str, bool], Expression],
        first: str,
    ) -> None:
        """What is computed from the values of all steps, or from the last of them."""
        writer = self._writer(behind)
        writer.indent = self.indent
        same = dict(after.rest.same)
        for block in behind.inputs:
            if block.name not in same:
                value = found[block.name, after.whole]
                text = f"{value.atom}.flatten(0, 1)"
            else:
                value = self._values[same[block.name]]
                text = f"{value.atom}.repeat_interleave({first}.shape[1], 0)"
            if after.whole:
                writer._lines.append(f"{writer.inputs[block.name]} = {text}")
            else:
                writer._values[block.name] = value
                writer.inputs[block.name] = value.atom
        for block in behind.states:
            writer._block(block)
        made: dict[str, str] = {}
        for name, state, whole in after.gives:
            if state not in made:
                writer._release(state)
                made[state] = writer._variable(f"{state}.steps" if after.whole else f"{state}.last")
                value = writer._values[state]
                steps = f"torch.unflatten({value.text}, 0, {first}.shape[:2])"  # the method has no types
                text = steps if after.whole else self._called_in("or_zeros", f"{value.text}, {first}")
                writer._assign(made[state], Expression(text), "")
            self._values[name] = Expression(made[state])
            if after.whole and not whole:
                variable = writer._variable(name)
                writer._assign(variable, Expression(self._called_in("last", made[state])), "")
                self._values[name] = Expression(variable)
        self._lines += writer._lines

    def _require_finite(
        self, rest: Recurrence[ImplicitModel], last: dict[str, str], steps: dict[str, str]
    ) -> None:
        """A line that looks at what is carried behind the last step."""
        states = {block.name for block in rest.step.states}
        carried = [carry.now for carry in rest.carried if carry.now in states]
        shown = [
            ", ".join(f"{quoted(name)}: {of[name]}" for name in carried if name in of) for of in (last, steps)
        ]
        if shown[0]:
            given = f"{rest.line}, {{{shown[0]}}}, {{{shown[1]}}}"
            self._lines += fitted(self._called_in("require_finite_steps", given), indent=self.indent)

    def _writer(self, model: ImplicitModel) -> _Body:
        """A writer of lines within these, whose variables are none of these."""
        attributes = {name for writer in self._root.writers for name in writer.attributes.values()}
        made = _Body(model, self.names, (*self._taken, *attributes))
        made.explicit, made.indent = dict(self.explicit), self.indent + 4
        made.runtime_calls, made._root, made.clock = self.runtime_calls, self._root, dict(self.clock)
        self._taken = made._taken
        self.inner.append(made)
        return made

    def _ahead(self, recurrence: Recurrence[ImplicitModel], cut: Hoisted, first: str) -> dict[str, str]:
        """What is computed for all steps at once: sequences by the name that they have in the step."""
        ahead = cut.ahead
        if ahead is None:
            return {}
        read = {term.source for term in ahead.terms}
        if not read & {block.name for block in ahead.inputs}:
            read.add(recurrence.sequences[0][0])  # it says how many samples there are
        inputs = tuple(block for block in ahead.inputs if block.name in read)
        writer = self._writer(replace(ahead, inputs=inputs))
        writer.indent = self.indent
        for name, of in recurrence.sequences:
            if name in read:
                writer._lines.append(f"{writer.inputs[name]} = {self._values[of].atom}.flatten(0, 1)")
        for name, of in recurrence.same:
            if name in read:
                repeated = f"{self._values[of].atom}.repeat_interleave({first}.shape[1], 0)"
                writer._lines.append(f"{writer.inputs[name]} = {repeated}")
        for block in ahead.states:
            writer._block(block)
        found = {}
        for name, _ in cut.rest.sequences:
            if name in ahead.terms_of:
                writer._release(name)
                found[name] = writer._variable(f"{name}.steps")
                value = Expression(f"torch.unflatten({writer._values[name].text}, 0, {first}.shape[:2])")
                writer._assign(found[name], value, "")
        self._lines += writer._lines
        self._last_comment = writer._last_comment
        return found

    def _called_in(self, function: str, arguments: str) -> str:
        self.runtime_calls.add(function)
        return f"{self.names(function)}({arguments})"

    def real_batch(self, first: str) -> str:
        """A tensor of real numbers with as many samples as a sequence has."""
        tokens = any(block.tokens and self.inputs[block.name] == first for block in self.model.inputs)
        return f"{self.real}.new_empty(({first}.shape[0],))" if tokens else first

    def _start(self, carry: Carry, step: ImplicitModel, first: str) -> str:
        if isinstance(carry.start, str):
            self._release(carry.start)
            return self._values[carry.start].text
        shape = shape_text(step.blocks[carry.before].shape, self.inputs, (f"{first}.shape[0]",))
        if not any(carry.start):
            return f"{self.real}.new_zeros({shape})"
        if len(carry.start) == 1:
            return f"{self.real}.new_full({shape}, {carry.start[0]!r})"
        return f"{self.real}.new_tensor({list(carry.start)!r}).expand({first}.shape[0], -1)"


def _parts(recurrence: Recurrence[ImplicitModel]) -> tuple[Hoisted, Trailing, Cell | None]:
    """What of a recurrence is computed ahead, its steps and what is behind them, and which cell they are."""
    if recurrence.truncated:
        cut = hoisted(recurrence)
        return cut, trailing(cut.rest), None
    cut = hoisted(recurrence, ahead="none")
    after = trailing(cut.rest)
    gates = gated(after.rest, cut.ahead, after.reads)
    if gates is not None:
        names = {piece.name for gate in gates.gates for piece in gate.inputs}
        names |= {state for state, _ in after.reads}
        return needing(cut, names), after, gates
    cut = hoisted(recurrence, ahead="all")
    after = trailing(cut.rest)
    cell = simple(after.rest, after.reads)
    if cell is not None:
        return cut, after, cell
    cut = hoisted(recurrence)
    return cut, trailing(cut.rest), None


def _with_carried(cell: Cell, reads: dict[tuple[str, bool], str]) -> dict[tuple[str, bool], str]:
    """What is read behind the steps of a cell, and all that it gives: each value, and the last."""
    match cell:
        case Elman() | Gru():
            given = [(cell.carry if isinstance(cell, Elman) else cell.h).now]
        case Linear(parts):
            given = [
                carry.now for carry, *_ in parts if {(carry.now, True), (carry.now, False)} & reads.keys()
            ]
        case Lstm(h, c):
            return {(h.now, True): h.now, (h.now, False): h.now, (c.now, False): c.now, **reads}
    return {**{(name, whole): name for name in given for whole in (True, False)}, **reads}


def _detached(count: str, steps: int, running: list[str], indent: int) -> list[str]:
    """Lines that end the gradients of what is carried, where so many steps have been taken."""
    detached = f"{', '.join(running)} = {', '.join(f'{one}.detach()' for one in running)}"
    lines = fitted(detached, indent=indent + 4)
    return [f"if {count} and {count} % {steps} == 0:", *("    " + line for line in lines)]


def _head(over: list[tuple[str, str]], first: str, indent: int, count: str = "") -> list[str]:
    """The line that begins the loop over the steps, or its lines. `count` is a variable for their number."""
    if not over:
        return [f"for {count or '_'} in range({first}.shape[1]):"]
    if count:
        names = ", ".join(variable for variable, _ in over)
        of = over[0][1] if len(over) == 1 else f"zip({', '.join(text for _, text in over)})"
        names = names if len(over) == 1 else f"({names})"
        return opened(f"for {count}, {names} in enumerate", [of], ":", indent)
    if len(over) == 1:
        return [f"for {over[0][0]} in {over[0][1]}:"]
    head = f"for {', '.join(variable for variable, _ in over)} in zip"
    return opened(head, [text for _, text in over], ":", indent)


class _Body(Recurrent, Step):
    """Writes the lines of one step, which may have recurrences of its own."""
