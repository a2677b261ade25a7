"""Recurrences in `forward`: what can be computed for all steps at once, then a loop over the steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from implicit_dsl.clock import Clock, text, uses
from implicit_dsl.emit.equilibria import Network
from implicit_dsl.emit.hoisting import Hoisted, hoisted
from implicit_dsl.emit.loops import shape_text
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.wording import INDENT, WIDTH, comment, fitted, quoted
from implicit_dsl.integrators import Method
from implicit_dsl.model import Block, ImplicitModel, Term
from implicit_dsl.operators.base import Expression, Operator
from implicit_dsl.operators.timed import TIMED
from implicit_dsl.recurrence import Carry, Recurrence

if TYPE_CHECKING:
    from collections.abc import Collection


class Recurrent(Network):
    """Writes `forward` of a model that may have recurrences. `inner` are the writers of their steps."""

    def __init__(self, model: ImplicitModel, names: Names, taken: Collection[str] = ()) -> None:
        self._reserved: dict[str, str] = {}  # variables that stand in a line before that of their state
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
        cut = hoisted(recurrence)
        sequences = {name: self._values[of].text for name, of in recurrence.sequences}
        first = next(iter(sequences.values()))
        sequences |= self._ahead(recurrence, cut, first)
        rest = cut.rest
        step = self._writer(rest.step)
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
        lists = self._lists(rest, step)
        unset = {state for _, state, whole in rest.gives if not whole} - running.keys() - sequences.keys()
        unset -= {carry.now for carry in rest.carried}
        for state in sorted(unset):  # if there are no steps
            shape = shape_text(rest.step.blocks[state].shape, self.inputs, (f"{first}.shape[0]",))
            self._assign(step.reserved(state), Expression(f"{self.real}.new_zeros({shape})"), "")
        self._lines += [f"{variable}: list[Tensor] = []" for variable in lists.values()]
        body = step.body(rest, running, lists)
        if body:
            over = [(step.inputs[name], f"{sequences[name]}.unbind(1)") for name, _ in rest.sequences]
            self._lines += [*_head(over, first), *("    " + line for line in body)]
        self._results(rest, running, lists, sequences, step, first)

    def _integration(self, recurrence: Recurrence[ImplicitModel], clock: Clock) -> None:
        """The steps of an `ode`: each state has one variable, which they move."""
        cut = hoisted(recurrence)
        once = self._once(recurrence, cut)
        rest = cut.rest
        step = self._writer(rest.step)
        step.around = self
        if recurrence.method is not None:
            self._adaptive(rest, clock, recurrence.method, step, once)
            return
        step.moves = True
        step.before = {carry.now: carry.before for carry in rest.carried}
        for name, of in rest.same:
            step._values[name] = once[name] if name in once else self._values[of]
        running = {}
        for carry in rest.carried:
            running[carry.before] = step.carry(carry)
            start = self._start(carry, rest.step, self.first_input)
            self._assign(running[carry.before], Expression(start), "")
        for name in step.guessed(running):
            made = Carry(name, name, rest.step.blocks[name].start)
            step.starts[name] = step._variable(f"{name}.start")
            start = self._start(made, rest.step, self.first_input)
            self._assign(step.starts[name], Expression(start), "")
        lists = {state: step._variable(f"{state}.list") for _, state, whole in rest.gives if whole}
        befores = {carry.now: running[carry.before] for carry in rest.carried}
        for state, variable in lists.items():
            self._lines.append(f"{variable} = [{befores[state]}]")
        head, clock_lines, inner = self._clock_lines(step, clock)
        body = [*clock_lines, *step.body(rest, running, {})]
        kept = [f"{variable}.append({befores[state]})" for state, variable in lists.items()]
        if inner:
            body = [inner, *("    " + line for line in body)]
        self._lines += [head, *("    " + line for line in (*body, *kept))]
        self._taken = step._taken
        for name, state, whole in rest.gives:
            self._values[name] = Expression(befores[state])
            if whole:
                variable = self._variable(f"{name}.steps")
                self._assign(variable, Expression(f"torch.stack({lists[state]}, 1)"), "")
                self._values[name] = Expression(variable)

    def _adaptive(
        self,
        rest: Recurrence[ImplicitModel],
        clock: Clock,
        method: Method,
        step: _Body,
        once: dict[str, Expression],
    ) -> None:
        """A function for the derivatives, and a call of the runtime that integrates them."""
        step.clock = {"t": step._variable("t"), "math": "torch"}
        same = {name: once[name] if name in once else self._values[of] for name, of in rest.same}
        step._values.update(same)
        starts = []
        for carry in rest.carried:
            if isinstance(carry.start, str):
                self._release(carry.start)
            starts.append(self._start(carry, rest.step, self.first_input))
        for name in step.guessed({}):
            made = Carry(name, name, rest.step.blocks[name].start)
            step.starts[name] = step._variable(f"{name}.start")
            start = self._start(made, rest.step, self.first_input)
            self._assign(step.starts[name], Expression(start), "")
        states = [carry.before for carry in rest.carried]
        function = step._variable(f"{states[0]}.rate")
        several = len(states) > 1
        returned = f"tuple[{', '.join(['Tensor'] * len(states))}]" if several else "Tensor"
        arguments = [f"{name}: Tensor" for name in (step.clock["t"], *(step.inputs[name] for name in states))]
        lines = step.body(rest, dict.fromkeys(states, ""), {}, moves=False)
        results = ", ".join(step._values[carry.now].text for carry in rest.carried)
        self._lines += ["", *_function_head(f"def {function}", arguments, returned, self.indent)]
        self._lines += ["    " + line for line in (*lines, f"return {results}")] + [""]
        trained = {tensor.id for tensor in rest.step.tensors if tensor.trainable}
        ids = (id for term in rest.step.terms for op in term.chain for _, id in op.parameters)
        given = [value.text for value in same.values()]
        given += [self.explicit.get(id, f"self.{id}") for id in dict.fromkeys(ids) if id in trained]
        self._taken = step._taken
        variables = [self._variable(f"{name}.steps") for name in states]
        call = [
            function,
            f"({', '.join(starts)}{'' if several else ','})",
            repr(clock.marks),
            f"({', '.join(given)}{',' if len(given) == 1 else ''})",
            quoted(", ".join(states)),
            str(rest.line),
            f"method={quoted(method.name)}",
            *(f"{key}={value!r}" for key, value in method.settings),
        ]
        left = ", ".join(variables) if several else f"({variables[0]},)"
        self._lines += fitted(f"{left} = {self._called_in('integrate', ', '.join(call))}", indent=self.indent)
        befores = dict(zip(states, variables))
        for name, state, whole in rest.gives:
            self._values[name] = Expression(befores[state] if whole else f"{befores[state]}[:, -1]")

    def _once(self, recurrence: Recurrence[ImplicitModel], cut: Hoisted) -> dict[str, Expression]:
        """What is the same at all steps of an `ode`, by the name that it has in the step."""
        if cut.ahead is None:
            return {}
        writer = self._writer(cut.ahead)
        writer.around, writer.indent = self, self.indent
        for name, of in recurrence.same:
            if name in writer.inputs:
                writer._values[name] = self._values[of]
        for block in cut.ahead.states:
            writer._block(block)
        found = {}
        for name, _ in cut.rest.same:
            if name in cut.ahead.terms_of:
                writer._release(name)
                found[name] = writer._values[name]
        self._lines += writer._lines
        return found

    def _clock_lines(self, step: _Body, clock: Clock) -> tuple[str, list[str], str]:
        """The head of the loop over the steps, what stands first in it, and the head of a loop within it."""
        used = {v for v in ("t", "h") if _timed(step.model, v)}
        step.clock = {v: step._variable(v) for v in ("t", "h") if v in used}
        nested = clock.even is None or clock.every > 1
        if not nested and "t" not in used:
            return f"for _ in range({clock.count}):", [], ""
        count = step._variable("step")
        if not nested:
            begin = f"{clock.marks[0]!r} + " if clock.marks[0] else ""
            return (
                f"for {count} in range({clock.count}):",
                [f"{step.clock['t']} = {begin}{clock.even!r} * {count}"],
                "",
            )
        inner = f"for {count if 't' in used else '_'} in range({clock.steps}):" if clock.steps > 1 else ""
        step.indent += 4 if inner else 0
        if not used:
            return f"for _ in range({clock.given - 1}):", [], inner
        first = step._variable("begin")
        length = step.clock.get("h") or step._variable("length")
        pairs = [(clock.begin(number), clock.length(number)) for number in range(0, clock.count, clock.steps)]
        head = f"for {first}, {length} in {tuple(pairs)!r}:"
        if "t" not in used:
            return head, [], inner
        text = f"{first} + {length} * {count}" if inner else first
        return head, [f"{step.clock['t']} = {text}"], inner

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
        writer = self._writer(ahead)
        writer.indent = self.indent
        read = {term.source for term in ahead.terms}
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
                value = Expression(f"{writer._values[name].atom}.unflatten(0, {first}.shape[:2])")
                writer._assign(found[name], value, "")
        self._lines += writer._lines
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

    def _lists(self, rest: Recurrence[ImplicitModel], step: _Body) -> dict[str, str]:
        """The variables that collect what all steps give, by state of the step."""
        inputs = {block.name for block in rest.step.inputs}
        wanted = dict.fromkeys(state for _, state, whole in rest.gives if whole and state not in inputs)
        return {state: step._variable(f"{state}.list") for state in wanted}

    def _results(
        self,
        rest: Recurrence[ImplicitModel],
        running: dict[str, str],
        lists: dict[str, str],
        sequences: dict[str, str],
        step: _Body,
        first: str,
    ) -> None:
        """What is read behind the steps: those of one value side by side, or the last."""
        carried = {carry.now: running[carry.before] for carry in rest.carried}
        self._taken = step._taken
        for name, state, whole in rest.gives:
            if state in sequences and whole:
                self._values[name] = Expression(sequences[state])
                continue
            variable = self._variable(f"{name}.steps" if whole else name)
            if state in sequences:
                text = self._called_in("last", sequences[state])
            elif whole:
                shape = shape_text(rest.step.blocks[state].shape, self.inputs)
                text = self._called_in("stack", f"{lists[state]}, {self.real_batch(first)}, {shape}")
            else:
                text = carried.get(state, step._values[state].text)
            self._assign(variable, Expression(text), "")
            self._values[name] = Expression(variable)


def _function_head(start: str, arguments: list[str], returned: str, indent: int) -> list[str]:
    """The first line of a function, or its lines."""
    line = f"{start}({', '.join(arguments)}) -> {returned}:"
    if len(line) + indent <= WIDTH:
        return [line]
    inner = f"    {', '.join(arguments)}"
    rows = [inner] if len(inner) + indent <= WIDTH else [f"    {argument}," for argument in arguments]
    return [f"{start}(", *rows, f") -> {returned}:"]


def _is_matrix(operator: Operator) -> bool:
    """Whether an operator is a `param` applied to a vector, without an offset."""
    return operator.kind == "matrix" and len(operator.target) == 1


def _timed(model: ImplicitModel, variable: str) -> bool:
    """Whether some operator of a step depends on the time `t`, or on the length `h` of the step."""
    used = any(
        operator.kind in TIMED and uses(operator["number"], variable)
        for term in model.terms
        for operator in term.chain
    )
    return used or any(_timed(one.step, variable) for one in model.recurrences)


def _head(over: list[tuple[str, str]], first: str) -> list[str]:
    """The line that begins the loop over the steps, or its lines."""
    if not over:
        return [f"for _ in range({first}.shape[1]):"]
    if len(over) == 1:
        return [f"for {over[0][0]} in {over[0][1]}:"]
    head = f"for {', '.join(variable for variable, _ in over)} in zip("
    line = f"{head}{', '.join(text for _, text in over)}):"
    if len(line) + INDENT <= WIDTH:
        return [line]
    inner = f"    {', '.join(text for _, text in over)}"
    return [head, *([inner] if len(inner) + INDENT <= WIDTH else [f"    {text}," for _, text in over]), "):"]


class _Body(Recurrent):
    """Writes the lines of one step. Loops start from the step before, where they have been solved in it."""

    def __init__(self, model: ImplicitModel, names: Names, taken: Collection[str] = ()) -> None:
        super().__init__(model, names, taken)
        self.moves = False  # whether states move on by sums of slopes, each times a number
        self.around: Recurrent | None = None  # the lines around it, if its batch is that of these
        self.starts: dict[str, str] = {}
        self.before: dict[str, str] = {}  # what was a state one step before

    @property
    def first_input(self) -> str:
        return super().first_input if self.around is None else self.around.first_input

    @property
    def real(self) -> str:
        return super().real if self.around is None else self.around.real

    def _plain_sum(self, terms: tuple[Term, ...], named: str = "") -> Expression:
        if not self.moves or named or len(terms) < 2:
            return super()._plain_sum(terms, named)
        plain = [term for term in terms if term.source is not None and not term.chain]
        scaled = [term for term in terms if term not in plain and term.source is not None]
        if len(plain) == 1 and len(plain) + len(scaled) == len(terms):
            made = self._moved(plain[0], scaled)
            if made is not None:
                return made
        return self._with_bias(terms) or super()._plain_sum(terms)

    def _moved(self, start: Term, scaled: list[Term]) -> Expression | None:
        """x + a·(k + …) + …, one call for each factor."""
        groups: dict[str, list[Term]] = {}
        for term in scaled:
            last = term.chain[-1]
            if last.kind not in ("scale", "timed_scale"):
                return None
            number = last["factor"] if last.kind == "scale" else last["number"]
            groups.setdefault(text(number, self.clock), []).append(replace(term, chain=term.chain[:-1]))
        total = self._chain(start.source, ())
        lines: tuple[str, ...] = ()
        for number, (factor, terms) in enumerate(groups.items()):
            parts = super()._plain_sum(tuple(terms)).text
            if number:
                rows = (f"    {total.text},", f"    {parts},", f"    alpha={factor},")
                lines = ("torch.add(", *rows, ")")
                if max(map(len, lines)) + self.indent > WIDTH or number > 1:
                    return None
            total = Expression(f"torch.add({total.text}, {parts}, alpha={factor})", lines=lines, fresh=True)
        return total

    def _with_bias(self, terms: tuple[Term, ...]) -> Expression | None:
        """W*x + b as one call, where b is the same for all samples."""
        first = next((t for t in terms if t.source is not None and t.chain and _is_matrix(t.chain[-1])), None)
        offsets = tuple(t for t in terms if t.source is None and any(op.kind == "offset" for op in t.chain))
        if first is None or not offsets:
            return None
        applied = self._chain(first.source, first.chain)
        assert applied.text.endswith(")")
        made = f"{applied.text[:-1]}, {super()._plain_sum(offsets).text})"
        rest = [term for term in terms if term is not first and term not in offsets]
        for term in rest:
            sign, value = self._signed(term)
            made += f" {sign or '+'} {value.text if value.tight or self._is_product(term) else value.atom}"
        return Expression(made, tight=not rest, fresh=True)

    def carry(self, carry: Carry) -> str:
        """The variable of what a step carries: one for before and behind it, if nothing reads both."""
        if self._is_moved_last(carry):
            self._reserved[carry.now] = variable = super()._variable(carry.now)
            self.inputs[carry.before] = variable
            self._values[carry.before] = Expression(variable)
        return self.inputs[carry.before]

    def _is_moved_last(self, carry: Carry) -> bool:
        """Whether no state behind a carried one reads what that was before, in its line or another."""
        names = [block.name for block in self.model.states]
        looped = {name for loop in self.model.loops for name in loop.states}
        if carry.now not in names or carry.now in looped or self.model.recurrences:
            return False
        late = {carry.before}
        for block in self.model.states:  # written where they are read
            if not block.declared and any(t.source in late for t in self.model.terms_of[block.name]):
                late.add(block.name)
        behind = names[names.index(carry.now) + 1 :]
        return not any(t.source in late for name in behind for t in self.model.terms_of[name])

    def guessed(self, running: dict[str, str]) -> list[str]:
        """The unknowns of loops that have to start from given numbers."""
        self.starts = {name: running[before] for name, before in self.before.items()}
        return [name for loop in self.model.loops for name in loop.iterated if name not in self.starts]

    def _starting(self, name: str) -> str:
        return self.starts[name]

    def reserved(self, state: str) -> str:
        """The variable of a state, before its line is written."""
        if state not in self._reserved:
            self._reserved[state] = super()._variable(state)
        return self._reserved[state]

    def _variable(self, name: str) -> str:
        return self._reserved.pop(name) if name in self._reserved else super()._variable(name)

    def body(
        self,
        rest: Recurrence[ImplicitModel],
        running: dict[str, str],
        lists: dict[str, str],
        moves: bool = True,
    ) -> list[str]:
        """The lines of a step; at their end what is carried moves on, unless they give derivatives."""
        for block in self.model.states:
            self._block(block)
        for name in (*lists, *(carry.now for carry in rest.carried)):
            self._release(name)
        lines = [*self._lines]
        lines += [f"{variable}.append({self._values[state].text})" for state, variable in lists.items()]
        moved = [(running[carry.before], self._values[carry.now].text) for carry in rest.carried]
        moved = [(to, of) for to, of in moved if to != of and moves]
        if len(moved) == 1:
            lines.append(f"{moved[0][0]} = {moved[0][1]}")
        elif moved:
            lines += fitted(
                f"{', '.join(to for to, _ in moved)} = {', '.join(of for _, of in moved)}", indent=self.indent
            )
        return lines
