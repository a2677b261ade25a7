"""`ode t in a..b … end`: the steps of a Runge–Kutta method, and what is read of them behind the `end`.

Within, x is the state at the time t, and `D(x) ~ …` its derivative. The statements are evaluated once for
each stage of a step, with other values of x and t; layers and parameters are those of one instance.
Behind, x is the sequence of its values, which begins with the start, and `last(x)` the value at b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from implicit_dsl import syntax as s
from implicit_dsl.clock import LENGTH, TIME, Clock, Timed, combined, later
from implicit_dsl.errors import Label
from implicit_dsl.integrators import FIXED, Method, Tableau
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.annotations.integration import method_of
from implicit_dsl.resolve.constants import sizes
from implicit_dsl.resolve.intervals import times
from implicit_dsl.resolve.moments import finite, is_factor
from implicit_dsl.resolve.problem import Poisoned, problem, quoted
from implicit_dsl.resolve.recurrence import start_value
from implicit_dsl.resolve.scope import Body, Environment, Integration, Key, Noted
from implicit_dsl.resolve.values import Definition, Flow, TimeValue, show_key
from implicit_dsl.resolve.wires import Carried, Network, Step, Wire
from implicit_dsl.shapes import Shape, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from implicit_dsl.resolve.context import Context

    Collect = Callable[[Context, Body, tuple[s.Statement, ...], Environment], list[Definition]]

MOST_STEPS = 100_000


def integration(context: Context, body: Body, statement: s.Ode, environment: Environment) -> Integration:
    """An `ode` with the names that it defines, of which none is known yet. Raises Problem."""
    around: Network | None = context.network
    while around is not None:
        if around.timed:
            head = statement.span._replace(end=statement.variable.span.end)
            raise problem("E0605", "an `ode` inside of another", head, help="its states can be added to that")
        around = around.outer
    marks, chosen = times(context, statement.interval, environment)
    endless = math.isinf(marks[-1])
    network = context.network if endless else Network(outer=context.network, timed=True)
    inner = Body(body.instance, body.state_path, body.frames, body.depth, network, outer=body)
    inner.allowed = body.allowed
    made = Integration(statement, inner, environment, marks, chosen)
    inner.ode = made
    return made


def collect(context: Context, made: Integration, run: Collect) -> list[Definition]:
    """Collect the names of the right-hand side; gives what they stand for behind its `end`."""
    noted, wrong = len(context.noted), context.findings.errors
    time: Any = TimeValue(TIME, Clock((0.0, 1.0)))
    if math.isinf(made.marks[-1]):
        name = made.statement.variable
        time = Definition((name.name,), "endless", None, made.environment, name.span, made.body)
    found = _collected(context, made, made.body, time, run)
    for number in range(noted, len(context.noted)):
        one = context.noted[number]
        if one.body is made.body:
            assert made.body.outer is not None
            context.noted[number] = Noted(one.annotation, made.body.outer, made.environment)
    made.rates = {definition.key[1:]: definition for definition in found if definition.kind == "rate"}
    _check_names(made, context.findings.errors > wrong)
    if math.isinf(made.marks[-1]):
        for key, definition in made.rates.items():
            steady = Definition(
                key, "steady", definition.expression, definition.environment, definition.span, made.body
            )
            steady.label = show_key(key)
            made.body.definitions[key] = steady
    return [_behind(made, definition, run) for definition in found if not definition.local]


def _collected(
    context: Context, made: Integration, body: Body, time: TimeValue | Definition, run: Collect
) -> list[Definition]:
    """The definitions of the right-hand side in one of its bodies, for one time."""
    around, name = made.environment, made.statement.variable.name
    scope = Environment(body, around.module, around, {name: time}, around.tag, False, around.owner)
    return run(context, body, made.statement.body, scope)


def _check_names(made: Integration, refused: bool) -> None:
    """What can be said of the names before anything is evaluated. Raises Problem.

    `refused`: some statements were, which may have had the derivatives. Then raises Poisoned.
    """
    variable, body = made.statement.variable, made.body
    own = body.definitions.get((variable.name,))
    if own is not None:
        raise problem(
            "E0103", f"`{variable.name}` is the time of this `ode`", own.span, help="choose another name"
        )
    for key, definition in made.rates.items():
        name = show_key(key)
        if key in body.definitions:
            raise problem(
                "E0605",
                f"`{name}` has a derivative, and a value as well",
                body.definitions[key].span,
                labels=(Label(definition.span, "its derivative"),),
                help="a state of an `ode` follows from its start and its derivative alone",
            )
        if key not in body.shapes or body.shapes[key].start is None:
            raise problem(
                "E0603",
                f"`{name}` has no start value",
                definition.span,
                "its derivative",
                help=f"write `state {name}[…] = 0` in the `ode`, or the value that it starts from",
            )
    if refused:
        raise Poisoned
    for key, declared in body.shapes.items():
        if declared.start is not None and key not in made.rates and key not in body.definitions:
            name = show_key(key)
            raise problem(
                "E0603", f"`{name}` has no derivative", declared.span, help=f"write `D({name}) ~ …`"
            )
    if not made.rates:
        raise problem(
            "E0603", "this `ode` has no derivative", variable.span, help="write `D(x) ~ …` for a state x"
        )


def _behind(made: Integration, definition: Definition, run: Collect) -> Definition:
    """What a name stands for behind the `end`: a state has a sequence of values, others have none."""
    outer = made.body.outer
    key = definition.key[1:] if definition.kind == "rate" else definition.key
    behind = Definition(key, "flow", definition.expression, made.environment, definition.span, outer)
    behind.label = show_key(key)
    behind.value = (made, key if definition.kind == "rate" else None, run)
    return behind


# --------------------------------------------------------------------------- evaluation


def at_the_marks(context: Context, definition: Definition) -> Any:
    """The sequence of the values of a state."""
    made, key, run = definition.value
    if key is None:
        raise problem(
            "E0605",
            f"`{definition.shown}` is a value at each time, and is not known behind the `end`",
            definition.span,
            help=f"define it there again, of the states: `{quoted(definition.span)} = …`",
        )
    if math.isinf(made.marks[-1]):
        return Flow(context.force(made.body.definitions[key]), definition.shown)
    assert definition.body is not None
    whole = _whole(context, made, run)
    value = made.states[key]
    network, context.network = context.network, definition.body.network
    try:
        wire = context.wire("steps", (*whole.shape, *value.shape), definition.span, (whole,))
    finally:
        context.network = network
    wire.step, wire.given, wire.declared = made.step, value, True
    wire.name = definition.body.label(definition.label)
    return wire


def rate(context: Context, definition: Definition) -> Any:
    """`D(x) ~ …`: the derivative of a state, a value of the network or one number for all entries."""
    assert definition.expression is not None
    value = context.evaluate(definition.expression, definition.environment)
    if is_factor(value):
        return finite(value, definition.expression.span)
    return apply.as_value(context, value, definition.expression.span)


def _whole(context: Context, made: Integration, run: Collect) -> Wire:
    """The wire that stands for all steps: the right-hand side is evaluated when it is first needed."""
    if made.wire is not None:
        return made.wire
    outer = made.body.outer
    assert outer is not None
    method = method_of(context, made)
    clock = Clock(made.marks, method.steps, method.steps if made.chosen else 1)
    if method.is_adaptive:
        clock = Clock(made.marks, free=True)
    if clock.count > MOST_STEPS:
        raise problem(
            "E0107",
            f"this `ode` takes {clock.count:,} steps",
            made.statement.variable.span,
            f"at most {MOST_STEPS:,}",
        )
    network = Network(outer=outer.network, timed=True)
    made.step = Step(network, made.statement.span, clock=clock, method=method if method.is_adaptive else None)
    around, context.network = context.network, network
    try:
        starts = {key: _start(context, made, key) for key in made.rates}
        _Stepping(context, made, network, method, clock, run).run(starts)
    finally:
        context.network = around
    made.wire = _standing(context, made, (clock.given,))
    return made.wire


def _standing(context: Context, made: Integration, shape: Shape) -> Wire:
    """The wire that stands for all of a step that is known, in the network around it."""
    assert made.body.outer is not None and made.step is not None
    around, context.network = context.network, made.body.outer.network
    try:
        sources = [*made.step.network.captured]
        sources += [one.start for one in made.step.carried.values() if isinstance(one.start, Wire)]
        wire = context.wire("recurrence", shape, made.statement.span, tuple(sources))
    finally:
        context.network = around
    wire.step = made.step
    return wire


def _start(context: Context, made: Integration, key: Key) -> tuple[Shape, tuple[float, ...] | Wire]:
    """The shape of a state, and its value at the first time: numbers, or a value around the `ode`."""
    definition, declared = made.rates[key], made.body.shapes[key]
    assert declared.start is not None
    shape = sizes(context, declared)
    named = Definition(key, "~", None, definition.environment, definition.span, made.body)
    value = start_value(context, named, declared, made.body, shape)
    if isinstance(value, Wire):
        return value.shape, value
    return tuple(size for size in shape if size is not None), value


class _Stepping:
    """One step of a method: the statements once for each stage."""

    def __init__(
        self,
        context: Context,
        made: Integration,
        network: Network,
        method: Method,
        clock: Clock,
        run: Collect,
    ) -> None:
        self.context, self.made, self.network, self.run_statements = context, made, network, run
        self.tableau: Tableau = FIXED["euler" if method.is_adaptive else method.name]
        self.method = method
        self.clock = clock
        self.length: Timed = LENGTH if clock.even is None else clock.even
        self.before: dict[Key, Wire] = {}
        self.unknown: dict[Key, Wire] = {}  # of an implicit method: the states behind the step
        self.slopes: dict[Key, list[Wire]] = {key: [] for key in made.rates}
        self.noted = len(context.noted)

    def run(self, starts: dict[Key, tuple[Shape, tuple[float, ...] | Wire]]) -> None:
        """Evaluate it; the carried values and the states behind the step are known then."""
        step = self.made.step
        assert step is not None and self.made.body.outer is not None
        for key, (shape, start) in starts.items():
            wire = self.network.add(Wire("input", shape, self.made.rates[key].span))
            wire.name = show_key(key) if self.method.is_adaptive else f"{show_key(key)}@1"
            self.before[key] = wire
            step.carried[key, 1] = Carried(wire, None, start, self.made.statement.span)
        for number in range(len(self.tableau.nodes)):
            self._stage(number)
        if self.method.is_adaptive:
            for key in self.made.rates:
                step.carried[key, 1].now, self.made.states[key] = self.slopes[key][0], self.before[key]
            return
        for key in self.made.rates:
            now = self.unknown.get(key) or self._moved(key, self.tableau.weights)
            if now.kind != "state":
                now = self._own(now, key)
            step.carried[key, 1].now = self.made.states[key] = now

    def _own(self, wire: Wire, key: Key) -> Wire:
        """The value of a state behind a step, under its own name."""
        assert self.made.body.outer is not None
        if wire.name or wire.home is not self.network or wire.kind == "input":  # nothing moves it
            wire = self.context.wire("sum", wire.shape, self.made.rates[key].span, (wire,))
        wire.name, wire.declared = self.made.body.outer.label(show_key(key)), True
        return wire

    def _stage(self, number: int) -> None:
        """Evaluate the slopes at a stage."""
        made, context, row = self.made, self.context, self.tableau.matrix[number]
        path, several = made.body.state_path, len(self.tableau.nodes) > 1
        if several:
            path = f"{path}.k{number + 1}" if path else f"k{number + 1}"
        body = Body(made.body.instance, path, made.body.frames, made.body.depth, self.network)
        body.outer, body.allowed, body.ode = made.body.outer, made.body.allowed, made
        delay = combined("*", self.tableau.nodes[number], self.length)
        time = TimeValue(later(TIME, delay), self.clock)
        found = _collected(context, made, body, time, self.run_statements)
        del context.noted[self.noted :]
        rates = {one.key[1:]: one for one in found if one.kind == "rate"}
        states: dict[Key, Wire] = {}
        for key in made.rates:
            implicit = self.tableau.is_implicit(number)
            states[key] = self._unsolved(key) if implicit else self._moved(key, row[:number])
        for key, state in states.items():
            known = Definition(key, "=", None, made.environment, made.rates[key].span, body, "done", state)
            body.definitions[key] = known
        for key, one in rates.items():
            value = context.force(one)
            if not isinstance(value, Wire):
                value = apply.constant(context, value, states[key].shape, one.span)
            slope = self.network.here(value)
            if slope.shape != states[key].shape:
                raise problem(
                    "E0202",
                    f"`{show_key(key)}` is {show(states[key].shape)}, and its derivative {show(slope.shape)}",
                    one.span,
                )
            if not slope.name and slope.kind != "input":
                label = f"{show_key(key)}.k{number + 1 if several else ''}"
                assert made.body.outer is not None
                slope.name, slope.declared = made.body.outer.label(label), True
            if not self.tableau.is_implicit(number):
                slope.uses += 1  # scaled as a whole, and not term by term
            self.slopes[key].append(slope)
        # all of the first stage, for what is wrong in it; of others the equations of states that were read
        while waiting := [one for one in found if one.status == "new" and (number == 0 or one.wire)]:
            for definition in waiting:
                with suppress(Poisoned):
                    context.force(definition)
        for key, state in self.unknown.items():
            state.drive = self._moved(key, self.tableau.weights)

    def _unsolved(self, key: Key) -> Wire:
        """The state at an implicit stage, as far as the unknown is: the state behind the step."""
        wire = self.context.wire("state", self.before[key].shape, self.made.rates[key].span)
        assert self.made.body.outer is not None
        wire.name, wire.declared = self.made.body.outer.label(show_key(key)), True
        self.unknown[key] = wire
        part, span = self.tableau.matrix[-1][-1] / self.tableau.weights[-1], self.made.rates[key].span
        if part == 1:
            return wire
        rest = apply.scale(self.context, 1 - part, self.before[key], span)
        return apply.add(self.context, rest, apply.scale(self.context, part, wire, span), span)

    def _moved(self, key: Key, weights: Sequence[float]) -> Wire:
        """x + h Σ weight · slope."""
        context, span = self.context, self.made.rates[key].span
        total = self.before[key]
        for weight, slope in zip(weights, self.slopes[key]):
            if weight:
                number = combined("*", weight, self.length)
                factor = TimeValue(number, self.clock) if isinstance(number, tuple) else number
                total = apply.add(context, total, apply.scale(context, factor, slope, span), span)
        return total
