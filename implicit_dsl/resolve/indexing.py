"""`h[i]`, `x[1, :]`, `module.name`: members of families, items of lists, slices of values."""

from __future__ import annotations

from itertools import islice
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.resolve import apply, lengths
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.lookup import find, no_equation, scoped, use
from implicit_dsl.resolve.problem import Poisoned, did_you_mean, instead, problem
from implicit_dsl.resolve.refusals import origin_label
from implicit_dsl.resolve.scope import Environment, Key
from implicit_dsl.resolve.values import (
    Definition,
    LowRank,
    Namespace,
    Outputs,
    PairValue,
    ParameterValue,
    describe,
    short,
    show_key,
)
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import show
from implicit_dsl.source import Span


def evaluate_index(context: Context, node: s.Index, environment: Environment) -> Any:
    """A member of a family, an item of a list, or a slice of a value."""
    base = node.value
    if is_member(node, environment):
        return _member(context, node, environment)
    value = _as_value(context, context.evaluate(base, environment), base.span)
    if isinstance(value, Wire):
        return _slice(context, node, value, environment)
    if isinstance(value, PairValue):
        value = (value.left, value.right)
    if isinstance(value, (tuple, range, str)):
        return _item(context, node, value, environment)
    raise problem("E0206", f"{describe(value)} cannot be indexed", node.span)


def _as_value(context: Context, value: Any, span: Span) -> Any:
    """A `param` as the value that is sliced; anything else as it is."""
    return apply.offset(context, value, span) if isinstance(value, ParameterValue) else value


def is_member(node: s.Index, environment: Environment) -> bool:
    """Whether `h[i]` is a member of a family, and not an item of something bound in a scope."""
    body = environment.body
    if body is None or not isinstance(node.value, s.Name):
        return False
    if node.value.name not in body.holding(node.value.name).families:
        return False
    return scoped(node.value.name, environment) is None


def labels(context: Context, subscripts: tuple[s.Expression, ...], environment: Environment) -> Key:
    """The labels of a member of a family."""
    found: list[Any] = []
    for subscript in subscripts:
        if isinstance(subscript, s.Colon | s.Axis):
            raise problem("E0206", "a member of a family is named by numbers", subscript.span)
        value = context.evaluate(subscript, environment)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        check_label(value, subscript.span)
        found.append(value)
    return tuple(found)


def check_label(value: object, span: Span) -> None:
    """Raises Problem unless this can name a member of a family."""
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise problem(
            "E0205", "a label must be a whole number or a string", span, f"this is {describe(value)}"
        )


def named_definition(context: Context, node: s.Expression, environment: Environment) -> Definition | None:
    """The definition that a name or a member of a family means, without its value."""
    if isinstance(node, s.Name):
        found = find(node.name, environment)
        return found if isinstance(found, Definition) else None
    if isinstance(node, s.Index) and is_member(node, environment):
        assert environment.body is not None and isinstance(node.value, s.Name)
        body = environment.body.holding(node.value.name)
        return body.definitions.get((node.value.name, *labels(context, node.subscripts, environment)))
    return None


def _member(context: Context, node: s.Index, environment: Environment) -> Any:
    assert environment.body is not None and isinstance(node.value, s.Name)
    name = node.value.name
    body = environment.body.holding(name)
    members = body.families[name]
    rank = len(next(iter(members))) - 1
    key = (name, *labels(context, node.subscripts[:rank], environment))
    definition = body.definitions.get(key)
    if definition is None:
        if name in body.broken or name in environment.module.lost:
            raise Poisoned
        if key in body.shapes:
            raise no_equation(show_key(key), body.shapes[key].kind, body.shapes[key].span)
        have = ", ".join(f"`{show_key(other)}`" for other in islice(members, 6))
        more = ", …" if len(members) > 6 else ""
        raise problem("E0206", f"there is no `{show_key(key)}`", node.span, help=f"there are {have}{more}")
    value = use(context, definition, node.span)
    rest = node.subscripts[rank:]
    if not rest:
        return value
    value = _as_value(context, value, node.span)
    if not isinstance(value, Wire):
        raise problem("E0206", f"{describe(value)} cannot be indexed", node.span)
    return _slice(context, s.Index(node.value, rest, node.span), value, environment)


def _item(context: Context, node: s.Index, value: Any, environment: Environment) -> Any:
    if len(node.subscripts) != 1:
        raise problem("E0206", "a list takes one index", node.span)
    (subscript,) = node.subscripts
    if isinstance(subscript, s.Colon):
        return value
    if isinstance(subscript, s.Axis):
        raise problem("E0206", "an item of a list is named by its number", subscript.span)
    index = context.evaluate(subscript, environment)
    if isinstance(index, range):
        context.step(node.span, len(index))
        picked = [_pick(value, i, subscript.span) for i in index]
        return "".join(picked) if isinstance(value, str) else tuple(picked)
    if isinstance(index, float) and index.is_integer():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        raise problem(
            "E0205", "an index must be a whole number", subscript.span, f"this is {describe(index)}"
        )
    return _pick(value, index, subscript.span)


def _pick(value: Any, index: int, span: Span) -> Any:
    return value[_within(index, len(value), span) - 1]


def _within(index: int, size: int, span: Span) -> int:
    if not 1 <= index <= size:
        hint = (
            "indices count from 1" if index == 0 else f"the last one is {size}" if index < 0 and size else ""
        )
        outside = f"outside of 1:{size}" if size else "an index into an empty list"
        raise problem("E0206", f"index {short(index)} is {outside}", span, help=hint)
    return index


def _slice(context: Context, node: s.Index, wire: Wire, environment: Environment) -> Wire:
    """x[1, :, 2:3], from 1 with both ends, as a selection from 0."""
    if len(node.subscripts) != len(wire.shape):
        raise problem(
            "E0206",
            f"{show(wire.shape)} takes {_indices(len(wire.shape))}, and here {_are(len(node.subscripts))}",
            node.span,
            labels=origin_label(wire, node.span),
            help="write `:` for a whole axis",
        )
    limit = _limit(context, node, environment)
    if limit is not None:
        return lengths.upto(context, wire, limit, node.span)
    slices: list[Any] = []
    for subscript, size in zip(node.subscripts, wire.shape):
        if isinstance(subscript, s.Axis):
            subscript = subscript.value
        if isinstance(subscript, s.Colon):
            slices.append(None)
            continue
        if not isinstance(size, int):
            raise problem("E0205", "this axis is free: it can only be taken whole, with `:`", subscript.span)
        slices.append(_one_slice(context, subscript, size, environment))
    return apply.linear(context, "select", {"slices": tuple(slices)}, wire, node.span)


def _limit(context: Context, node: s.Index, environment: Environment) -> Wire | None:
    """k in `u[1:k, :]`, where it is a value of the network: the length of a sequence."""
    first, *others = node.subscripts
    if not isinstance(first, s.Range) or isinstance(first.stop, s.Literal | s.Call):
        return None
    stop = context.evaluate(first.stop, environment)
    if not isinstance(stop, Wire):
        return None
    whole = all(isinstance(other, s.Colon) for other in others)
    if first.step is not None or context.evaluate(first.start, environment) != 1 or not whole:
        raise problem(
            "E0205",
            "a length is the end of a range from 1 along the first axis",
            node.span,
            help=f"write `[1:{first.stop.span.text}{', :' * len(others)}]`",
        )
    return stop


def _indices(count: int) -> str:
    return "1 index" if count == 1 else f"{count} indices"


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _one_slice(context: Context, subscript: s.Expression, size: int, environment: Environment) -> Any:
    index = context.evaluate(subscript, environment)
    if isinstance(index, float) and index.is_integer():
        index = int(index)
    if isinstance(index, int) and not isinstance(index, bool):
        return _within(index, size, subscript.span) - 1
    if isinstance(index, range) and len(index) and index.step > 0:
        if index[0] < 1 or index[-1] > size:
            shown = f"{short(index[0])}:{short(index[-1])}"
            raise problem("E0206", f"{shown} is outside of 1:{size}", subscript.span)
        return (index[0] - 1, index.step, len(index))
    raise problem(
        "E0206",
        "an axis is indexed by a number, or by a range that goes up and is not empty",
        subscript.span,
        describe(index),
    )


def evaluate_field(context: Context, node: s.Field, environment: Environment) -> Any:
    """`file.Name` of an import, or an output of a block with several."""
    value = context.evaluate(node.value, environment)
    name = node.name.name
    if isinstance(value, Namespace):
        found = value.module.names.get(name)
        if isinstance(found, Definition):
            return context.force(found)
        if found is not None:
            return found
        meant = did_you_mean(name, list(value.module.names))
        raise problem(
            "E0804",
            f"`{value.name}` has no `{name}`",
            node.name.span,
            f"did you mean `{meant}`?" if meant else "",
            fixes=instead(node.name.span, meant),
        )
    if isinstance(value, Outputs):
        if name in value.fields:
            return value.fields[name]
        have = ", ".join(f"`{other}`" for other in value.fields)
        meant = did_you_mean(name, list(value.fields))
        raise problem(
            "E0101",
            f"`{value.block}` has no output `{name}`",
            node.name.span,
            f"did you mean `{meant}`?" if meant else "",
            help=f"it has {have}",
            fixes=instead(node.name.span, meant),
        )
    if isinstance(value, LowRank):
        if name in ("left", "right"):
            return value.parts[name == "right"]
        raise problem(
            "E0101", f"`{value.name}` has no `{name}`", node.name.span, help="it has `left` and `right`"
        )
    raise problem("E0207", f"{describe(value)} has no parts with names", node.span)
