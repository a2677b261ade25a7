"""`u[1:k, :]`: the first k steps of a sequence, where k is a value of the network."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.offsets import constants
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import show

if TYPE_CHECKING:
    from implicit_dsl.resolve.context import Context
    from implicit_dsl.source import Span


def upto(context: Context, wire: Wire, k: Wire, span: Span) -> Wire:
    """The sequence with zeros behind its first k steps. Raises Problem."""
    if k.shape:
        raise problem("E0205", f"a length is one number `[]`, and this is {show(k.shape)}", span)
    if wire.limit is k:
        return wire
    made = apply.by_kind(context, "upto", (_number(context, k, span), wire), span)
    made.limit, made.padded = k, wire
    return made


def reverse(context: Context, wire: Wire, span: Span) -> Wire:
    """The same steps from the last to the first."""
    assert wire.limit is not None
    made = apply.by_kind(context, "reverse_upto", (_number(context, wire.limit, span), wire), span)
    made.limit, made.padded = wire.limit, made
    return made


def last(context: Context, wire: Wire, span: Span) -> Wire:
    """The last of its steps; of no steps what a state starts from, else zeros."""
    assert wire.limit is not None and wire.padded is not None
    k = _number(context, wire.limit, span)
    start = _start(context, wire.padded, span)
    given = (k, wire.padded) if start is None else (k, wire.padded, start)
    return apply.by_kind(context, "at_step", given, span)


def at_the_last_step(context: Context, wire: Wire, span: Span) -> Wire:
    """`last(h)` for what a step computes, beside the sequence in the network that it belongs to."""
    assert wire.home is not None and wire.step is not None
    found = wire.step.last.get(wire)
    if found is not None:
        return found
    network, context.network = context.network, wire.home
    try:
        made = context.wire("last", wire.shape[1:], span, wire.sources)
    finally:
        context.network = network
    made.step, made.given, made.declared = wire.step, wire.given, wire.declared
    made.name = f"{wire.name}.last" if wire.name else ""
    wire.step.last[wire] = made
    return made


def _start(context: Context, sequence: Wire, span: Span) -> Wire | None:
    if sequence.kind != "steps" or sequence.step is None:
        return None
    carried = sequence.step.carried.items()
    starts = [one.start for (_, lag), one in carried if lag == 1 and one.now is sequence.given]
    assert sequence.given is not None
    start = starts[0] if starts else sequence.given.start
    if isinstance(start, Wire):
        return context.network.here(start)
    if not any(start):
        return None
    parts = []
    for first, *others in constants(start, sequence.shape[1:]):
        part = context.wire("constant", first.target, span, (), first)
        for operator in others:
            part = context.wire("linear", operator.target, span, (part,), operator)
        parts.append(part)
    return reduce(lambda one, other: apply.add(context, one, other, span), parts)


def _number(context: Context, k: Wire, span: Span) -> Wire:
    """A length as a value to compute with."""
    k = context.network.here(k)
    if not k.tokens:
        return k
    found = context.network.numbers.get(k)
    if found is None:
        operator = OPERATORS["number"].operator({}, (*k.shape, k.tokens))
        found = context.network.numbers[k] = context.wire("linear", (), span, (k,), operator)
    return found
