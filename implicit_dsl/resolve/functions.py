"""Functions of the program that act on one value entry by entry: they become one activation."""

from __future__ import annotations

from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.body import Body, Instruction
from implicit_dsl.operators.functions import known
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.values import Function
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.source import Span

LONGEST = 200  # instructions of a function; a longer one stays inlined
_TWO = ("product", "maximum", "minimum")


def as_activation(
    context: Context, function: Function, arguments: list[Wire], result: Wire, start: int, span: Span
) -> Wire:
    """The value of a function: one activation of its only argument, if it is that; else as it was inlined.

    `start` is the number of the first wire that the call made. What is linear stays so, and so do activations
    of one another: only what joins several values of its argument becomes one, with bounds of its own.
    """
    if len(arguments) != 1:
        return result
    (x,) = arguments
    made = _body(x, result, start)
    if made is None or not _joins(made) or all(name in ("sum", "scale", "constant") for name, *_ in made):
        return result
    name = "function" if function.name == "->" else function.name
    operator = OPERATORS["function"].operator({"body": made, "name": name}, x.shape)
    wire = context.wire("activation", x.shape, span, (x,), operator)
    wire.hint, wire.path = result.hint, result.path
    context.functions.append((wire, function))
    return wire


def _joins(body: Body) -> bool:
    """Whether some instruction takes two values that depend on the argument."""
    depends = [True]
    joined = False
    for name, *rest in body:
        first = {"constant": 1, "scale": 1, "phi": 2}.get(name, 0)
        taken = [depends[value] for value in rest[first:]]
        joined |= sum(taken) > 1
        depends.append(any(taken))
    return joined


def _body(x: Wire, result: Wire, start: int) -> Body | None:
    """The instructions that make the result of x; None if they are not all elementwise."""
    numbers: dict[Wire, int] = {x: 0}
    body: list[Instruction] = []
    waiting = [result]
    while waiting:
        wire = waiting[-1]
        if wire in numbers:
            waiting.pop()
            continue
        if wire.number < start or wire.name or wire.shape != x.shape or len(body) > LONGEST:
            return None
        missing = [source for source in wire.sources if source not in numbers]
        if missing:
            waiting += reversed(missing)
            continue
        sources = tuple(numbers[source] for source in wire.sources)
        found = _instructions(wire, sources, len(body))
        if found is None:
            return None
        body += found
        numbers[wire] = len(body)
        waiting.pop()
    return tuple(body) if body and result is not x and len(body) <= LONGEST else None


def _instructions(wire: Wire, sources: tuple[int, ...], made: int) -> list[Instruction] | None:
    """What makes one value of its sources; None if it is not elementwise."""
    operator = wire.operator
    match wire.kind, operator:
        case "sum", None:
            return [("sum", *sources)]
        case "constant", Operator(kind="constant"):
            return [("constant", float(operator["value"]))]
        case "linear", Operator(kind="scale"):
            return [("scale", float(operator["factor"]), *sources)]
        case "activation", Operator(kind="function"):
            return _spliced(operator["body"], sources[0], made)
        case "activation", Operator(kind=kind) if kind in _TWO:
            return [(kind, *sources)]
        case "activation", Operator(kind=kind) if known(operator):
            return [("phi", kind, operator.settings, *sources)]
        case _:
            return None


def _spliced(body: Body, x: int, made: int) -> list[Instruction]:
    """The instructions of another function, applied to value x."""
    found: list[Instruction] = []
    for name, *rest in body:
        first = {"constant": 1, "scale": 1, "phi": 2}.get(name, 0)
        moved = (x if value == 0 else made + value for value in rest[first:])
        found.append((name, *rest[:first], *moved))
    return found
