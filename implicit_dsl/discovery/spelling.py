"""Operators and activations as they are written in the language, from what the registry knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from implicit_dsl.operators import OPERATORS, activation_rule
from implicit_dsl.operators.base import Formal, Operator
from implicit_dsl.operators.slots import SeveralSlots
from implicit_dsl.shapes import count

_FUNCTIONS = ("abs", "sin", "cos", "exp", "log", "sqrt")  # which the language has beside the registry
ARGUMENT = "x_"  # of functions without a name
_LONGEST = 2_000  # characters of a function


class CannotWrite(ValueError):  # noqa: N818 (it is what was found, not a fault of the program)
    """A model has a part that is not written back; the text names it."""


def constructor(operator: Operator, target: int | None = None, source: int | None = None) -> str:
    """How a layer is made, such as `Conv(3 => 6, [5, 5]; stride = [1, 1])`, with other widths if given."""
    rule = OPERATORS[operator.kind]
    if not rule.names:
        raise CannotWrite(f"`{operator.kind}` has no name in the language")
    first, keywords = [], []
    named = {formal.name: formal for formal in rule.formals}
    # a pad that is one less on one side is that which keeps the size
    padded = "same" if "after" in dict(operator.settings) and "same" in named["pad"].choices else None
    known = {*named, "after"} if padded else set(named)
    unknown = [name for name, _ in operator.settings if name not in known]
    if unknown:
        raise CannotWrite(f"{rule.names[0]} with `{unknown[0]}` is not written back")
    for formal in rule.formals:
        if formal.name == "width":
            at = -1 if operator.kind in ("dense", "embedding") else 0
            out = target if target is not None else count(operator.target[at:][:1])
            into = source if source is not None else count(operator.source[at:][:1])
            first.append(str(out) if operator.kind == "embedding" else f"{into} => {out}")
        elif formal.name == "vocab":
            first.append(str(count(operator.source[-1:])))
        elif (value := operator.get(formal.name, None)) is not None:
            written = literal(padded if padded and formal.name == "pad" else value)
            if formal.required:
                first.append(written)
            elif written != _default(operator, formal):
                keywords.append(f"{formal.name} = {written}")
        elif formal.name == "size":  # of all axes behind the channels
            first.append(literal(operator.target[1:]))
        elif formal.required:
            raise CannotWrite(f"the `{formal.name}` of {rule.names[0]} is not written back")
    listed = ", ".join(first) + ("; " if keywords else "") + ", ".join(keywords)
    return f"{rule.names[0]}({listed})"


def _default(operator: Operator, formal: Formal) -> str:
    """What holds if nothing is said: a value, or that of another argument."""
    other = operator.get(formal.default_text, None) if formal.default is None else None
    return formal.default_text if other is None else literal(other)


def literal(value: Any) -> str:
    """A setting as it is written."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case tuple():
            alike = len(set(value)) == 1
            return literal(value[0]) if alike else f"[{', '.join(map(literal, value))}]"
        case _:
            return repr(value)


def applied(operator: Operator, value: str) -> str:
    """An activation of one argument."""
    rule, kind = activation_rule(operator), operator.kind
    match kind:
        case "identity":
            return value
        case "power":
            exponent = literal(operator["exponent"])
            return f"{atom(value)} .^ {exponent if operator['exponent'] >= 0 else f'({exponent})'}"
        case "reciprocal":
            return f"{literal(operator['numerator'])} ./ {atom(value)}"
        case "clamp" if operator["high"] is None:
            return f"max({value}, {literal(operator['low'])})"
        case "clamp":
            return f"min({value}, {literal(operator['high'])})"
        case "function":
            return f"({ARGUMENT} -> {body(operator)})({value})"
        case _ if kind in _FUNCTIONS:
            return f"{kind}({value})"
    if operator.parameters or not rule.names or isinstance(rule, SeveralSlots):
        raise CannotWrite(f"`{operator.get('name', kind)}` is not written back")
    name = rule.names[0]
    if name[0].isupper():
        return f"{constructor(operator)}({value})"
    settings = [
        f"{formal.name} = {literal(found)}"
        for formal in rule.formals
        if (found := operator.get(formal.name, None)) is not None
    ]
    return f"{name}({value}{'; ' if settings else ''}{', '.join(settings)})"


def body(function: Operator) -> str:
    """A function of one number as an expression of its argument."""
    values, instructions = [ARGUMENT], function["body"]
    for name, *rest in instructions:
        match name, rest:
            case "constant", [number]:
                made = literal(number)
            case "scale", [number, i]:
                made = f"{atom(literal(number))}*{atom(values[i])}"
            case (("sum" | "product"), [*places]):
                sign = " + " if name == "sum" else " .* "
                made = sign.join(atom(values[i]) for i in places)
            case (("maximum" | "minimum"), [i, j]):
                made = f"{name[:3]}({values[i]}, {values[j]})"
            case _:
                kind, settings, i = rest
                made = applied(Operator(kind, (), (), settings), values[i])
        if len(made) > _LONGEST:
            raise CannotWrite("a function that is as long as this is not written back")
        values.append(made)
    return values[-1]


def several(operator: Operator, arguments: Sequence[str]) -> str:
    """An activation of several arguments."""
    kind = operator.kind
    match kind:
        case "product" | "quotient":
            return f" {'.*' if kind == 'product' else './'} ".join(f"({one})" for one in arguments)
        case "maximum" | "minimum":
            return f"{kind[:3]}({', '.join(arguments)})"
        case "matmul" | "attend":
            chosen = [f"heads = {operator['heads']}"] if operator.get("heads", 1) > 1 else []
            chosen += ["causal = true"] if operator.get("causal", False) else []
            given = arguments[: 3 if kind == "attend" else 2]
            chosen += [f"mask = {mask}" for mask in arguments[len(given) :]]
            return f"{kind}({', '.join(given)}{'; ' if chosen else ''}{', '.join(chosen)})"
        case "upto" | "reverse_upto" | "at_step" if len(arguments) == 2:
            length, value = arguments
            behind = len(operator.target) - (kind != "at_step")
            picked = f"{atom(value)}[1:{atom(length)}{', :' * behind}]"
            return {"upto": picked, "at_step": f"last({picked})"}.get(kind, f"reverse({picked})")
        case "expand_as":
            return f"expand({', '.join(arguments)})"
    raise CannotWrite(f"`{kind}` is not written back")


def atom(value: str) -> str:
    """A value as a factor: in brackets unless it is a name or a call."""
    plain = value.replace("_", "a")
    depth = 0
    for place, sign in enumerate(plain):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0 and not (sign.isalnum() or sign in "()[].") and place < len(plain) - 1:
            return f"({value})"
    return value


def added(parts: list[str]) -> str:
    """a + b - c."""
    text = parts[0]
    for part in parts[1:]:
        text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
    return text


def sliced(value: str, operator: Operator) -> str:
    """A slice, with numbers from 1 and ranges that include their ends."""
    written = []
    for piece in operator["slices"]:
        if piece is None:
            written.append(":")
        elif isinstance(piece, int):
            written.append(str(piece + 1))
        else:
            begin, step, length = piece
            last = begin + step * (length - 1)
            if step < 0:
                raise CannotWrite("a slice that goes down is not written back")
            written.append(f"{begin + 1}:{last + 1}" if step == 1 else f"{begin + 1}:{step}:{last + 1}")
    return f"{value}[{', '.join(written)}]"


__all__ = [
    "ARGUMENT",
    "CannotWrite",
    "applied",
    "atom",
    "body",
    "constructor",
    "literal",
    "several",
    "sliced",
]
