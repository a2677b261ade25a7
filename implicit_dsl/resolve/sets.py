"""`param W[m, n] in …`: tensors that are made of others, so that they are in a set whatever is trained."""

from __future__ import annotations

from math import sqrt

from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.resolve import apply
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import did_you_mean, problem
from implicit_dsl.resolve.values import (
    Builtin,
    Definition,
    LowRank,
    ParameterValue,
    SetValue,
    describe,
)
from implicit_dsl.resolve.wires import Tensor
from implicit_dsl.sets import SETS, MatrixSet, SetError

_SPREAD = {"glorot": lambda m, n: sqrt(2 / (m + n)), "kaiming": lambda m, n: sqrt(1 / (3 * n))}


def parameter(
    context: Context,
    definition: Definition,
    shape: tuple[int, ...],
    initialiser: Initialiser,
    within: MatrixSet | None = None,
    part: str = "",
) -> ParameterValue:
    """A new tensor, called as its definition, with the name of a `part` of it behind that."""
    body = definition.body
    assert body is not None
    prefix = f"{body.instance.name}_" if body.instance.name else ""
    suffix = f"_{part}" if part else ""
    if definition.local:
        id = context.invent(prefix + definition.label + suffix, definition.span)
    else:
        id = context.claim(prefix + definition.shown + suffix, definition.span)
    tensor = Tensor(id, shape, initialiser.name != "fixed", initialiser, definition.span, within)
    context.tensors.append(tensor)
    name = f"{definition.shown}.{part}" if part else definition.shown
    return ParameterValue(tensor, name, definition.span)


def constrained(
    context: Context, definition: Definition, shape: tuple[int, ...], initialiser: Initialiser
) -> ParameterValue | LowRank:
    """The parameter of a definition with `in`. Raises Problem if there is none of this shape in the set."""
    value = _set(context, definition)
    try:
        made = value.rule.of(shape, value.settings)
    except SetError as error:
        raise _refused(error, value, definition) from None
    apply.check_size(made.free, definition.span, "a parameter")
    if made.kind == "LowRank":
        return _low_rank(context, definition, made, initialiser)
    try:
        start = value.rule.start(made, initialiser)
    except SetError as error:
        span = definition.expression.span if definition.expression is not None else value.span
        raise problem("E0502", error.message, span, help=error.help) from None
    return parameter(context, definition, shape, start, made)


def _set(context: Context, definition: Definition) -> SetValue:
    """The set behind `in`."""
    member = definition.member
    assert member is not None
    value = context.evaluate(member, definition.environment)
    if isinstance(value, SetValue):
        return value
    if isinstance(value, Builtin) and value.name in SETS:
        help = f"write `{value.name}(…)` with its arguments" if SETS[value.name].formals else ""
        raise problem("E0504", "a set has brackets", member.span, help=help or f"write `{value.name}()`")
    meant = did_you_mean(member.span.text.partition("(")[0], list(SETS))
    raise problem(
        "E0504",
        "a set of matrices is needed behind `in`",
        member.span,
        f"did you mean `{meant}`?" if meant else f"this is {describe(value)}",
        help=f"there are {', '.join(f'`{name}`' for name in SETS)}",
    )


def _refused(error: SetError, value: SetValue, definition: Definition) -> Exception:
    """An error of the arguments of a set, or of the shape."""
    span = value.blame.get(error.argument, value.span)
    declared = definition.declared_shape
    if not error.argument and declared is not None and declared.sizes:
        first, last = declared.sizes[0].span, declared.sizes[-1].span
        span = type(first)(first.source, first.start, last.end)
    return problem("E0504", error.message, span, help=error.help)


def _low_rank(context: Context, definition: Definition, made: MatrixSet, initialiser: Initialiser) -> LowRank:
    """W = left right, both normal, so that entries of the product have the spread that is asked."""
    (rows, columns), (rank,) = made.shape, made.arguments
    assert isinstance(rank, int)
    left, right = _factors(definition, made, rank, initialiser)
    parts = (
        parameter(context, definition, (rows, rank), left, part="left"),
        parameter(context, definition, (rank, columns), right, part="right"),
    )
    return LowRank("product", parts, 0.0, definition.span, definition.shown)


def _factors(
    definition: Definition, made: MatrixSet, rank: int, given: Initialiser
) -> tuple[Initialiser, Initialiser]:
    """How the factors start."""
    numbers = given.numbers
    match given.name:
        case "zeros":  # in the left factor alone: else no gradient would ever reach either
            return given, Initialiser("kaiming")
        case "orthogonal":
            return given, given
        case "glorot" | "kaiming":
            spread = _SPREAD[given.name](*made.shape)
        case "normal":
            spread = numbers[0] if numbers else 1.0
        case "uniform":
            spread = (numbers[0] if numbers else 1.0) / sqrt(3)
        case _:
            assert definition.expression is not None
            raise problem(
                "E0502",
                f"a product of two factors does not start from `{given.name}`",
                definition.expression.span,
                help="write `normal(0.01)`, or `zeros()`",
            )
    each = Initialiser("normal", (sqrt(spread / sqrt(rank)),))
    return each, each
