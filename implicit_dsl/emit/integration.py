"""The integration of an `ode` in `forward`: a loop over its steps, or a function that a method calls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import replace

from implicit_dsl.clock import Clock, text, uses
from implicit_dsl.emit.equilibria import Network
from implicit_dsl.emit.hoisting import Hoisted, hoisted
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.wording import WIDTH, fitted, opened, quoted
from implicit_dsl.integrators import Method
from implicit_dsl.model import ImplicitModel, Term
from implicit_dsl.operators.base import Expression, Operator
from implicit_dsl.operators.timed import TIMED
from implicit_dsl.recurrence import Carry, Recurrence


class Step(Network):
    """Writes the lines of one step. Loops start from the step before, where they have been solved in it."""

    def __init__(self, model: ImplicitModel, names: Names, taken: Collection[str] = ()) -> None:
        self.moves = False  # whether states move on by sums of slopes, each times a number
        self.binds = False  # whether weights have variables before the steps
        self.around: Network | None = None  # the lines around it, if its batch is that of these
        self.bound: dict[str, str] = {}  # tensors that have a variable before the steps, by text
        self.starts: dict[str, str] = {}
        self.before: dict[str, str] = {}  # what was a state one step before
        self._reserved: dict[str, str] = {}  # variables that stand in a line before that of their state
        super().__init__(model, names, taken)

    @property
    def first_input(self) -> str:
        return super().first_input if self.around is None else self.around.first_input

    @property
    def real(self) -> str:
        return super().real if self.around is None else self.around.real

    def _plain_sum(self, terms: tuple[Term, ...], named: str = "") -> Expression:
        if named or len(terms) < 2:
            return super()._plain_sum(terms, named)
        plain = [term for term in terms if term.source is not None and not term.chain]
        scaled = [term for term in terms if term not in plain and term.source is not None]
        if self.moves and len(plain) == 1 and len(plain) + len(scaled) == len(terms):
            made = self._moved(plain[0], scaled)
            if made is not None:
                return made
        return self._with_bias(terms) or self._onto(terms) or super()._plain_sum(terms)

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
        bias = super()._plain_sum(offsets).text
        return self._with_rest(
            first, bias, [term for term in terms if term is not first and term not in offsets]
        )

    def _onto(self, terms: tuple[Term, ...]) -> Expression | None:
        """W*x + z as one call, where z has a variable."""
        first = next((term for term in terms if term.source and _is_product(term)), None)
        plain = next((term for term in terms if term.source and not term.chain), None)
        if not self.binds or first is None or plain is None or len(first.chain[-1].target) != 1:
            return None
        value = self._chain(plain.source, ()).text
        if not value.isidentifier():
            return None
        return self._with_rest(
            first, value, [term for term in terms if term is not first and term is not plain]
        )

    def _with_rest(self, first: Term, onto: str, rest: list[Term]) -> Expression:
        inner = self._chain(first.source, first.chain[:-1])
        made = self._product(first.chain[-1], inner, onto).text
        for term in rest:
            sign, value = self._signed(term)
            made += f" {sign or '+'} {value.text if value.tight or self._is_product(term) else value.atom}"
        return Expression(made, tight=not rest, fresh=True)

    def _applied(self, operator: Operator, value: Expression) -> Expression:
        if not self.binds or operator.kind not in ("dense", "matrix") or len(operator.source) != 1:
            return super()._applied(operator, value)
        bias = operator.parameter("bias")
        return self._product(operator, value, "" if bias is None else self._bound(bias, ""))

    def _product(self, operator: Operator, x: Expression, bias: str) -> Expression:
        """W*x + bias, with a weight that is transposed once for all steps: a layer would do it in each."""
        weight = operator.parameter("weight")
        assert weight is not None, "a matrix has a weight"
        if not self.binds:
            made = self._apply(operator, x).text
            return Expression(f"{made[:-1]}, {bias})", fresh=True)
        turned = operator.get("transposed", False)
        matrix = self._bound(weight, "" if turned else ".t()")
        text = f"torch.addmm({bias}, {x.text}, {matrix})" if bias else f"torch.mm({x.text}, {matrix})"
        return Expression(text, fresh=True)

    def _bound(self, id: str, method: str) -> str:
        """The variable of a tensor, which has its line before the steps."""
        text = f"{self.explicit.get(id, f'self.{id}')}{method}"
        if text not in self.bound:
            self.bound[text] = self._variable(f"{id}_t" if method else id)
        return self.bound[text]

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
            left, right = (", ".join(side) for side in zip(*moved))
            rows = [f"{left} = {right}"]
            if self.indent + len(rows[0]) > WIDTH:
                rows = [f"{left} = (", *(f"    {of}," for _, of in moved), ")"]
            lines += rows
        return lines


class Integrating(Network):
    """Writes the integrations of a model. `_writer` makes writers of lines within these."""

    @abstractmethod
    def _writer(self, model: ImplicitModel) -> Step: ...

    @abstractmethod
    def _called_in(self, function: str, arguments: str) -> str: ...

    @abstractmethod
    def _start(self, carry: Carry, step: ImplicitModel, first: str) -> str: ...

    def _integration(self, recurrence: Recurrence[ImplicitModel], clock: Clock) -> None:
        """The steps of an `ode`: each state has one variable, which they move."""
        cut = hoisted(recurrence)
        once = self._once(recurrence, cut)
        rest = cut.rest
        step = self._writer(rest.step)
        step.around, step.binds = self, True
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
        self._lines += [f"{variable} = {made}" for made, variable in step.bound.items()]
        if inner:
            body = [inner, *("    " + line for line in body)]
        self._lines += [head, *("    " + line for line in (*body, *kept))]
        names = quoted(", ".join(carry.now for carry in rest.carried))
        given = ", ".join([names, str(rest.line), *running.values()])
        self._lines += fitted(self._called_in("require_finite", given), indent=self.indent)
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
        step: Step,
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
        self._lines += [f"{variable} = {made}" for made, variable in step.bound.items()]
        self._lines += ["", *opened(f"def {function}", arguments, f" -> {returned}:", self.indent)]
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

    def _clock_lines(self, step: Step, clock: Clock) -> tuple[str, list[str], str]:
        """The head of the loop over the steps, what stands first in it, and the head of a loop within it."""
        used = {v for v in ("t", "h") if _timed(step.model, v)}
        step.clock |= {v: step._variable(v) for v in ("t", "h") if v in used}
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


def _is_product(term: Term) -> bool:
    """Whether a term ends with a matrix without an offset, applied to a vector."""
    last = term.chain[-1] if term.chain else None
    if last is None or last.kind not in ("dense", "matrix") or len(last.target) != 1:
        return False
    return last.parameter("bias") is None


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
