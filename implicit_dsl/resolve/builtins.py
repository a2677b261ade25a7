"""The functions of the language, and the names whose meaning comes later."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from implicit_dsl.operators import ACTIVATIONS, CONSTRUCTORS
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.resolve import apply, axes, moments
from implicit_dsl.resolve.arguments import MOST, Arguments, arity, settings_of
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import (
    Activation,
    Builtin,
    ChainValue,
    Constructor,
    MatrixExpression,
    ParameterValue,
    SetValue,
    TimeValue,
    TokensValue,
    describe,
    is_matrix,
    short,
)
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.sets import SETS, SetRule
from implicit_dsl.shapes import show
from implicit_dsl.source import Span

Run = Callable[[Context, Arguments, Span, Environment], Any]


def _whole(arguments: Arguments, index: int, what: str, least: int | None = None) -> int:
    value = arguments.values[index]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value > MOST:
        raise problem("E0208", f"{what} is out of range", arguments.spans[index], f"at most {MOST}")
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        limit = f", at least {least}" if least is not None else ""
        raise problem(
            "E0205", f"{what} must be a whole number{limit}", arguments.spans[index], describe(value)
        )
    return value


def _numbers(arguments: Arguments, name: str) -> list[Any]:
    for value, span in zip(arguments.values, arguments.spans):
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise problem("E0205", f"`{name}` takes numbers known at compile time", span, describe(value))
    return arguments.values


def _wire(context: Context, arguments: Arguments, name: str) -> Wire:
    value = arguments.values[0]
    if isinstance(value, ParameterValue):
        return apply.offset(context, value, arguments.spans[0])
    if isinstance(value, TimeValue):
        return apply.constant(context, value, (), arguments.spans[0])
    if not isinstance(value, Wire):
        raise problem(
            "E0207", f"`{name}` applies to a value of the network", arguments.spans[0], describe(value)
        )
    return value


def _size(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Any:
    arguments.no_keywords("size")
    arity("size", arguments, 1, 2, span)
    value = arguments.values[0]
    if isinstance(value, ParameterValue):
        shape: Any = value.tensor.shape
    elif isinstance(value, Wire):
        shape = value.shape
    else:
        raise problem(
            "E0207",
            "`size` applies to values of the network and to parameters",
            arguments.spans[0],
            describe(value),
        )
    if len(arguments.values) == 1:
        wanted = tuple(shape)
    else:
        axis = _whole(arguments, 1, "the axis", 1)
        if axis > len(shape):
            raise problem("E0206", f"a value of shape {show(shape)} has no axis {axis}", arguments.spans[1])
        wanted = (shape[axis - 1],)
    for size in wanted:
        if not isinstance(size, int):
            raise problem(
                "E0205", f"this size of {show(shape)} is free, so it is not known at compile time", span
            )
    return wanted if len(arguments.values) == 1 else wanted[0]


def _length(context: Context, arguments: Arguments, span: Span, environment: Environment) -> int:
    arguments.no_keywords("length")
    arity("length", arguments, 1, 1, span)
    value = arguments.values[0]
    if not isinstance(value, (tuple, range, str)):
        raise problem("E0207", "`length` applies to lists", arguments.spans[0], describe(value))
    return len(value)


def _sum(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Any:
    """Numbers are added up; so are values of the network, matrices, and the entries of one value."""
    alone = len(arguments.values) == 1 and isinstance(arguments.values[0], (Wire, ParameterValue))
    if alone or "dim" in arguments.keywords:
        return axes.over_axes(context, "sum", arguments, span)
    arguments.no_keywords("sum")
    items = _spread(context, arguments, span)
    return _total(context, "sum", items, span) if items else 0


def _total(context: Context, name: str, items: list[Any], span: Span) -> Any:
    if all(is_number(item) for item in items):
        return _checked_sum(items, span)
    if all(map(moments.is_factor, items)):
        return moments.total(items, span)
    if all(isinstance(item, Wire) for item in items):
        total = items[0]
        for item in items[1:]:
            total = apply.add(context, total, item, span)
        return total
    if all(is_matrix(item) for item in items):
        return MatrixExpression("sum", tuple(items), 0.0, span)
    odd = next(item for item in items if not isinstance(item, Wire))
    raise problem(
        "E0207", f"`{name}` adds up numbers, or values of the network", span, f"among them {describe(odd)}"
    )


def _mean(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Any:
    """The mean of numbers, of values of the network, or of the entries of one value."""
    if len(arguments.values) == 1 and isinstance(arguments.values[0], (Wire, ParameterValue)):
        return axes.over_axes(context, "mean", arguments, span)
    arguments.no_keywords("mean")
    items = _spread(context, arguments, span)
    if not items:
        raise problem("E0104", "`mean` needs at least one number or value", span)
    total = _total(context, "mean", items, span)
    if is_number(total):
        try:
            return total / len(items)
        except OverflowError:
            raise problem("E0208", "this number is out of range", span) from None
    if isinstance(total, Wire):
        return apply.scale(context, 1 / len(items), total, span)
    return MatrixExpression("scale", (total,), 1 / len(items), span)


def _checked_sum(numbers: list[Any], span: Span) -> Any:
    try:
        return sum(numbers)
    except OverflowError:
        raise problem("E0208", "this number is out of range", span) from None


def _spread(context: Context, arguments: Arguments, span: Span) -> list[Any]:
    """The arguments, with lists written out."""
    context.step(span, sum(len(value) for value in arguments.values if isinstance(value, (tuple, range))))
    found: list[Any] = []
    for value in arguments.values:
        found.extend(value if isinstance(value, (tuple, range)) else (value,))
    return found


def _cat(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Wire:
    dim, place = arguments.keywords.pop("dim", (1, span))
    arguments.no_keywords("cat")
    parts = _spread(context, arguments, span)
    if not parts:
        raise problem("E0104", "`cat` needs at least one value", span)
    for number, part in enumerate(parts):
        if isinstance(part, ParameterValue):
            parts[number] = apply.offset(context, part, span)
        elif isinstance(part, TimeValue):  # one entry
            parts[number] = apply.constant(context, part, (1,), span)
        elif not isinstance(part, Wire):
            raise problem("E0207", "`cat` joins values of the network", span, f"among them {describe(part)}")
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise problem("E0205", "`dim` must be a whole number", place, f"this is {describe(dim)}")
    if not 1 <= dim <= max(1, len(parts[0].shape)):
        raise problem("E0206", f"{show(parts[0].shape)} has no axis {short(dim)}", place)
    return apply.concatenate(context, parts, dim - 1, span)


def _flatten(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Wire:
    arguments.no_keywords("flatten")
    arity("flatten", arguments, 1, 1, span)
    return apply.linear(context, "reshape", {"shape": None}, _wire(context, arguments, "flatten"), span)


def _expand(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Wire:
    arguments.no_keywords("expand")
    arity("expand", arguments, 2, 2, span)
    like = arguments.values[1]
    if not isinstance(like, (Wire, ParameterValue)):
        raise problem(
            "E0207",
            "`expand(s, x)` repeats s to the shape of a value x",
            arguments.spans[1],
            describe(like),
        )
    wire = _wire(context, arguments, "expand")
    if isinstance(like, Wire):
        return apply.expand(context, wire, like, span)
    return apply.linear(context, "expand", {"shape": like.tensor.shape}, wire, span)


def _chain(context: Context, arguments: Arguments, span: Span, environment: Environment) -> ChainValue:
    arguments.no_keywords("chain")
    return ChainValue(tuple(_spread(context, arguments, span)))


def _identity_matrix(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Any:
    arguments.no_keywords("I")
    arity("I", arguments, 1, 1, span)
    return MatrixExpression("identity", (), _whole(arguments, 0, "the size", 1), span)


def _tokens(context: Context, arguments: Arguments, span: Span, environment: Environment) -> TokensValue:
    arguments.no_keywords("Tokens")
    arity("Tokens", arguments, 1, 1, span)
    return TokensValue(_whole(arguments, 0, "the number of tokens", 1))


def _unreachable(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Any:
    raise problem("E0104", "`ifelse` takes a condition and two values", span)


def _arithmetic(name: str, count: int | None, function: Callable[..., Any]) -> Run:
    def run(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Any:
        arguments.no_keywords(name)
        arity(name, arguments, count or 1, count, span)
        if count is None:
            items = _spread(context, arguments, span)
            arguments = Arguments(items, [span] * len(items), {})
            arity(name, arguments, 1, None, span)
        numbers = _numbers(arguments, name)
        try:
            return function(numbers) if count is None else function(*numbers)
        except (ValueError, ZeroDivisionError, OverflowError):
            shown = ", ".join(short(number) for number in numbers[:4])
            raise problem("E0208", f"{name}({shown}) is not defined", span) from None

    return run


def _extremum(name: str, function: Callable[..., Any]) -> Run:
    """`max` and `min`: of numbers a number, of values of the network entry by entry."""
    of_numbers = _arithmetic(name, None, function)

    def run(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Any:
        items = _spread(context, arguments, span)
        if not any(isinstance(item, Wire) for item in items):
            return of_numbers(context, arguments, span, environment)
        arguments.no_keywords(name)
        numbers = [apply.finite(item, span) for item in items if is_number(item)]
        found, *others = (apply.as_value(context, item, span) for item in items if not is_number(item))
        for wire in others:
            pair = apply.repeated(context, found, wire, span)
            found = apply.by_kind(context, f"{name}imum", pair, span)
        if not numbers:
            return found
        bound = {"low": None, "high": None, "low" if name == "max" else "high": function(numbers)}
        return apply.by_kind(context, "clamp", (found,), span, bound)

    return run


def _entrywise(name: str, function: Callable[..., Any]) -> Run:
    """A function of a number, and of values of the network entry by entry."""
    of_numbers = _arithmetic(name, 1, function)

    def run(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Any:
        if len(arguments.values) == 1 and isinstance(arguments.values[0], TimeValue):
            arguments.no_keywords(name)
            return moments.function(name, arguments.values[0], span)
        if len(arguments.values) != 1 or not isinstance(arguments.values[0], (Wire, ParameterValue)):
            return of_numbers(context, arguments, span, environment)
        arguments.no_keywords(name)
        return apply.by_kind(context, name, (_wire(context, arguments, name),), span)

    return run


def _initialiser(name: str, most: int, least: int = 0) -> Run:
    def run(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Initialiser:
        arguments.no_keywords(name)
        arity(name, arguments, least, most, span)
        places = zip(_numbers(arguments, name), arguments.spans)
        numbers = tuple(apply.finite(value, place) for value, place in places)
        if any(value < 0 for value in numbers) and name != "constant":
            raise problem("E0502", f"the spread of `{name}` must be a number, at least 0", span)
        return Initialiser(name, numbers)

    return run


def _fixed(context: Context, arguments: Arguments, span: Span, environment: Environment) -> Initialiser:
    """`fixed([…])`: numbers that are not trained, in the order of rows; or one for all entries."""
    arguments.no_keywords("fixed")
    arity("fixed", arguments, 1, 1, span)
    listed: list[Any] = [arguments.values[0]]
    while any(isinstance(item, (tuple, range)) for item in listed):  # rows are lists within lists
        context.step(span, len(listed))
        listed = [part for item in listed for part in (item if isinstance(item, (tuple, range)) else (item,))]
    context.step(span, len(listed))
    odd = next((item for item in listed if not is_number(item)), None)
    if odd is not None or not listed:
        raise problem(
            "E0502",
            "`fixed` takes a number, or a list of numbers known at compile time",
            arguments.spans[0],
            describe(arguments.values[0]) if odd is None else f"among them {describe(odd)}",
        )
    return Initialiser("fixed", tuple(apply.finite(item, arguments.spans[0]) for item in listed))


_FUNCTIONS: dict[str, Run] = {
    "size": _size,
    "length": _length,
    "sum": _sum,
    "mean": _mean,
    "cat": _cat,
    "flatten": _flatten,
    "reshape": axes.reshape,
    "permute": axes.permute,
    "transpose": axes.transpose,
    "expand": _expand,
    "reverse": axes.reverse,
    "last": axes.last,
    "prev": _unreachable,
    "chain": _chain,
    "I": _identity_matrix,
    "ifelse": _unreachable,
    "Tokens": _tokens,
    "div": _arithmetic("div", 2, lambda a, b: a // b),
    "mod": _arithmetic("mod", 2, lambda a, b: a % b),
    "max": _extremum("max", max),
    "min": _extremum("min", min),
    "abs": _entrywise("abs", abs),
    "sqrt": _entrywise("sqrt", math.sqrt),
    "exp": _entrywise("exp", math.exp),
    "log": _entrywise("log", math.log),
    "sin": _entrywise("sin", math.sin),
    "cos": _entrywise("cos", math.cos),
    "floor": _arithmetic("floor", 1, math.floor),
    "ceil": _arithmetic("ceil", 1, math.ceil),
    "round": _arithmetic("round", 1, round),
    "zeros": _initialiser("zeros", 0),
    "ones": _initialiser("ones", 0),
    "constant": _initialiser("constant", 1, 1),
    "normal": _initialiser("normal", 1),
    "uniform": _initialiser("uniform", 1),
    "glorot": _initialiser("glorot", 0),
    "kaiming": _initialiser("kaiming", 0),
    "orthogonal": _initialiser("orthogonal", 0),
    "fixed": _fixed,
}


def _set(rule: SetRule) -> Run:
    def run(context: Context, arguments: Arguments, span: Span, environment: Environment) -> SetValue:
        settings, blame = settings_of(rule, rule.name, arguments, span)
        return SetValue(rule, settings, blame, span)

    return run


BUILTINS: dict[str, Any] = {
    **{name: Builtin(name, _set(rule)) for name, rule in SETS.items()},
    **{name: Builtin(name, run) for name, run in _FUNCTIONS.items()},
    **{name: Activation(name, rule) for name, rule in ACTIVATIONS.items()},
    **{name: Constructor(name, rule) for name, rule in CONSTRUCTORS.items()},
    "π": math.pi,
    "pi": math.pi,
}

LATER = frozenset(
    [
        "opnorm",
        "norm",
        "spectral",
        "monotone",
        "opened",
        "maxabs",
        "vcat",
        "hcat",
    ]
)
