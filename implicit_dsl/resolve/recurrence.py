"""`recurrent x over u … end`: a network of its own for one step, and what is read of it behind its `end`.

Within, x is one step of u, and `prev(h)` the value of h one step before. Behind, h is the sequence of
its values, and `last(h)` the last of them. Values around the step are read in it as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from implicit_dsl import syntax as s
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.resolve import apply, lengths
from implicit_dsl.resolve.annotations.truncation import truncation_of
from implicit_dsl.resolve.lookup import solved
from implicit_dsl.resolve.mismatch import fits, show_expected
from implicit_dsl.resolve.problem import Poisoned, problem
from implicit_dsl.resolve.scope import Body, DeclaredShape, Environment, Recurrence
from implicit_dsl.resolve.starts import start_numbers
from implicit_dsl.resolve.values import Definition, Flow, ParameterValue, describe
from implicit_dsl.resolve.wires import Carried, Network, Step, Wire
from implicit_dsl.shapes import Dim, show

if TYPE_CHECKING:
    from implicit_dsl.resolve.context import Context
    from implicit_dsl.source import Span


def recurrence(context: Context, body: Body, statement: s.Recurrent, environment: Environment) -> Recurrence:
    """The step of a statement with its own names, of which none is known yet. Raises Problem."""
    network = Network(outer=context.network)
    inner = Body(body.instance, body.state_path, body.frames, body.depth, network, outer=body)
    inner.allowed = body.allowed
    made = Recurrence(statement, inner, environment, Step(network, statement.span))
    inner.recurrence = made
    for binding in statement.bindings:
        key = (binding.name.name,)
        if key in inner.definitions:
            raise problem("E0103", f"`{key[0]}` is two sequences at once", binding.name.span)
        definition = Definition(key, "step", binding.values, environment, binding.name.span, inner)
        definition.label = binding.name.name
        inner.definitions[key] = definition
    return made


def scope(made: Recurrence) -> Environment:
    """The scope of its statements."""
    around = made.environment
    return Environment(made.body, around.module, around, {}, around.tag, False, around.owner)


def given(made: Recurrence) -> list[Definition]:
    """What the names of a step stand for behind its `end`: the sequences of their values."""
    outer = made.body.outer
    assert outer is not None
    found = []
    for definition in made.definitions:
        is_state = definition.kind == "flow" and definition.value[1] is not None  # of an `ode` in the step
        if (definition.kind not in ("~", "=") and not is_state) or definition.local:
            continue
        sequence = Definition(
            definition.key, "steps", definition.expression, made.environment, definition.span, outer
        )
        sequence.label, sequence.value = definition.label, (made, definition)
        found.append(sequence)
    return found


# --------------------------------------------------------------------------- evaluation


def at_all_steps(context: Context, definition: Definition) -> Any:
    """The sequence of what a name of a step stands for; what is no value of the network, as it is."""
    made, inner = definition.value
    whole = _whole(context, made)
    value = context.force(inner)
    if isinstance(value, Flow):
        value = value.limit
    if not isinstance(value, Wire):
        return value
    value = made.step.network.here(value)
    assert definition.body is not None
    network, context.network = context.network, definition.body.network
    try:
        wire = context.wire("steps", (whole.shape[0], *value.shape), definition.span, (whole,))
    finally:
        context.network = network
    wire.step, wire.given, wire.declared = made.step, value, inner.kind == "~"
    wire.name = definition.body.label(definition.label)
    limit = made.limit
    if limit is None:
        return wire
    wire.name, name = f"{wire.name}.padded", wire.name
    limited = lengths.upto(context, wire, limit, definition.span)
    limited.name, limited.declared = name, wire.declared
    return limited


def _whole(context: Context, made: Recurrence) -> Wire:
    """The wire that stands for all that a recurrence computes: its step is evaluated once."""
    if made.wire is not None:
        return made.wire
    inner = made.body
    assert inner.outer is not None
    length = None
    limits: dict[str, Wire | None] = {}
    for definition in inner.definitions.values():
        if definition.kind == "step":
            context.force(definition)
            (sequence,) = (read for step, read in made.step.read if step is definition.value)
            length = sequence.shape[0] if length is None else length
            if sequence.shape[0] != length:
                raise problem(
                    "E0602",
                    f"the sequences have {length} and {sequence.shape[0]} steps",
                    definition.span,
                    help="all sequences of one `recurrent` have as many steps",
                )
            limits[definition.label] = sequence.limit
            if sequence.limit is None and "padding" not in inner.allowed:
                _warn_of_padding(context, definition, sequence)
    made.limit = _limit(limits, made.statement.span)
    for definition in made.definitions:
        context.force(definition)
    _close(context, made)
    made.step.truncated = truncation_of(context, made)
    network, context.network = context.network, inner.outer.network
    try:
        sources = [sequence for _, sequence in made.step.read]
        sources += made.step.network.captured
        sources += [one.start for one in made.step.carried.values() if isinstance(one.start, Wire)]
        if length is None:
            raise Poisoned  # it has no sequence, which the parser said
        made.wire = context.wire("recurrence", (length,), made.statement.span, tuple(sources))
    finally:
        context.network = network
    made.wire.step = made.step
    return made.wire


def _limit(limits: dict[str, Wire | None], span: Span) -> Wire | None:
    """The length of all sequences, if they have one of their own in each sample."""
    found = set(limits.values())
    if len(found) <= 1:
        return found.pop() if found else None
    shown = [
        f"`{name}` at {'the last step' if limit is None else f'`{limit.name or limit.hint}`'}"
        for name, limit in limits.items()
    ]
    raise problem(
        "E0602",
        f"the sequences do not end together: {', '.join(shown)}",
        span,
        help="all sequences of one `recurrent` end at the same step: write `[1:k, …]` behind each",
    )


def _warn_of_padding(context: Context, definition: Definition, sequence: Wire) -> None:
    """A sequence that was computed of one with a length, and goes on behind that."""
    reached, waiting = {sequence}, [sequence]
    for wire in waiting:
        if wire.limit is not None:
            limit = wire.limit.name or wire.limit.hint
            context.report(
                Diagnostic(
                    "W0601",
                    f"`{definition.label}` runs over all steps, and what it is computed of ends at `{limit}`",
                    definition.span,
                    help=f"write `[1:{limit}, …]` behind the sequence, or silence this with `@allow padding`",
                )
            )
            return
        new = [one for one in wire.sources if one.shape[:1] == sequence.shape[:1] and one not in reached]
        reached.update(new)
        waiting += new


def one_step(context: Context, definition: Definition) -> Wire:
    """`x over u`: the input of a step, which is one entry of the sequence along its first axis."""
    inner = definition.body
    assert inner is not None and inner.recurrence is not None and inner.outer is not None
    network, context.network = context.network, inner.outer.network
    assert definition.expression is not None
    span = definition.expression.span
    try:
        sequence = context.evaluate(definition.expression, definition.environment)
        if isinstance(sequence, ParameterValue):
            sequence = apply.offset(context, sequence, span)
        if not isinstance(sequence, Wire) or not sequence.shape:
            raise problem(
                "E0601",
                "a `recurrent` runs over a sequence, whose first axis are the steps",
                span,
                f"this is {describe(sequence)}",
            )
        sequence = context.network.here(sequence)
    finally:
        context.network = network
    wire = inner.network.add(Wire("input", sequence.shape[1:], definition.span, tokens=sequence.tokens))
    wire.name, wire.declared = definition.label, True
    inner.recurrence.step.read.append((wire, sequence))
    return wire


def before(context: Context, definition: Definition, lag: int, span: Span) -> Wire:
    """`prev(h, lag)`: the value of h so many steps before. Raises Problem if its shape is not known."""
    inner = definition.body
    assert inner is not None and inner.recurrence is not None
    carried = inner.recurrence.step.carried
    for number in range(1, lag + 1):
        if (definition, number) in carried:
            continue
        shape = _shape(context, definition, span)
        wire = inner.network.add(Wire("input", shape, span, path=inner.frames))
        wire.name = f"{definition.label}@{number}"
        earlier = carried[definition, number - 1].before if number > 1 else None
        carried[definition, number] = Carried(wire, earlier, (), span)
    return context.network.here(carried[definition, lag].before)


def _shape(context: Context, definition: Definition, span: Span) -> Any:
    if definition.wire is None and definition.status != "done":
        context.introduce(definition, reads_itself=True)
    if definition.wire is not None:
        return definition.wire.shape
    if definition.status == "active" and definition.kind == "=" and definition.declared_shape is not None:
        raise problem(
            "E0301",
            f"`{definition.shown}` is defined by itself, one step before",
            definition.span,
            labels=(Label(span, "used here"),),
            notes=("`=` names an expression, and `~` states an equation, which may refer to itself",),
            help=f"write `{definition.shown} ~ …`",
            fixes=solved(definition),
        )
    if definition.status == "active":
        raise problem(
            "E0304",
            f"the shape of `{definition.shown}` cannot be found: it depends on itself one step before",
            definition.span,
            labels=(Label(span, "read here"),),
            help=f"declare it: `state {definition.shown}[…] = 0`",
        )
    value = context.force(definition)
    if not isinstance(value, Wire):
        raise problem("E0602", f"`{definition.shown}` is {describe(value)}, the same at each step", span)
    return value.shape


def _close(context: Context, made: Recurrence) -> None:
    """Say what the next step reads, and what the first one does."""
    for state in made.definitions:
        declared = state.declared_shape
        if declared is None or declared.start is None or (state, 1) in made.step.carried:
            continue
        if state.wire is not None and _is_value(context, declared, made.body):
            network, context.network = context.network, made.step.network
            try:
                before(context, state, 1, declared.start.span)  # what it is if there are no steps
            finally:
                context.network = network
    for (definition, lag), one in made.step.carried.items():
        assert isinstance(definition, Definition)
        value = context.force(definition)
        if not isinstance(value, Wire):
            raise Poisoned
        if lag == 1:
            one.now = made.step.network.here(value)
        if one.before.shape != value.shape:
            raise problem(
                "E0202",
                f"`{definition.shown}` was {show(one.before.shape)} before, and is {show(value.shape)}",
                definition.span,
            )
        one.start = _start(context, definition, one.before)
    carried = {definition for definition, _ in made.step.carried}
    for definition in made.definitions:
        declared, wire = definition.declared_shape, definition.wire
        if (
            definition not in carried
            and wire is not None
            and declared is not None
            and declared.start is not None
        ):
            wire.start = start_numbers(context, declared, definition, wire.shape)


def _is_value(context: Context, declared: DeclaredShape, inner: Body) -> bool:
    """Whether a state starts from a value around the steps, and not from numbers."""
    assert declared.start is not None and inner.outer is not None
    network, context.network = context.network, inner.outer.network
    try:
        return isinstance(context.evaluate(declared.start, declared.environment), (Wire, ParameterValue))
    finally:
        context.network = network


def _start(context: Context, definition: Definition, wire: Wire) -> tuple[float, ...] | Wire:
    """`state h[n] = 0`: the value before the first step."""
    declared = definition.declared_shape
    if declared is None or declared.start is None:
        return ()
    assert definition.body is not None
    return start_value(context, definition, declared, definition.body, wire.shape)


def start_value(
    context: Context,
    definition: Definition,
    declared: DeclaredShape,
    inner: Body,
    shape: tuple[Dim | None, ...],
) -> tuple[float, ...] | Wire:
    """What a state of a step, or of an `ode`, starts from: numbers, or a value around its body `inner`."""
    assert declared.start is not None and inner.outer is not None
    network, context.network = context.network, inner.outer.network
    span = declared.start.span
    try:
        value = context.evaluate(declared.start, declared.environment)
        if isinstance(value, ParameterValue):
            value = apply.offset(context, value, span)
        if isinstance(value, Wire):
            if value.home is inner.network:
                raise problem(
                    "E0602",
                    f"`{definition.shown}` starts from a value of the steps",
                    span,
                    help="it is known before the first step, outside of the "
                    f"`{'recurrent' if inner.ode is None else 'ode'}`",
                )
            value = context.network.here(value)
            if not fits(shape, value.shape):
                whole, given = show_expected(shape, declared), show(value.shape)
                raise problem(
                    "E0202",
                    f"`{definition.shown}` is {whole}, and starts from {given}",
                    span,
                    help=f"a layer makes one of the other: `{definition.shown}[…] = Dense(…) * {span.text}`",
                )
            return value
    finally:
        context.network = network
    if None in shape:
        message = f"the shape of `{definition.shown}` is left open"
        raise problem("E0304", message, declared.span, help="write its sizes")
    return start_numbers(context, declared, definition, tuple(size for size in shape if size is not None))
