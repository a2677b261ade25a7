"""Sums of norms of weights, as `@penalty` and `@sparse` take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf
from typing import Literal

from implicit_dsl import syntax as s
from implicit_dsl.demands import Family, GroupAxis, Matrix, Measured, MeasureName, Piece
from implicit_dsl.resolve.annotations.forms import number
from implicit_dsl.resolve.annotations.matrices import bounded
from implicit_dsl.resolve.annotations.selections import Assembled, Selection, nothing, select
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import LowRank, MatrixExpression
from implicit_dsl.source import Span

MOST_TERMS = 100_000  # of a sum that is written out

MEASURES = (
    "`columns(X)`, `rows(X)`, `blocks(A)`, `entries(X)`, `norm(X, Fro)`, `norm(X, Fro)^2`, `norm(X, Inf)`, "
    "`norm(X, 1)`, `norm(X, 2)`, `nuclear(X)`, `maxabs(X)`, `sum(abs(X))`, `norm(X[:, j])`, and sums "
    "of these, `sum(… for j in …)`"
)
_GROUPS = {"columns": 1, "rows": 0}
_OF_VECTORS: dict[float, MeasureName] = {1: "l1", 2: "l2", inf: "linf"}
_INDUCED: dict[float, MeasureName] = {1: "largest_column", 2: "spectral", inf: "largest_row"}
_WORDS = ("norm", "opnorm", "columns", "rows", "entries", "blocks", "sum", "abs", "nuclear", "maxabs")
_BESIDE = {"columns": "vcat", "rows": "hcat"}  # what joins matrices that have the same groups


@dataclass(frozen=True, slots=True)
class Atom:
    """factor · measure of what is selected: the groups of `axis`, or a matrix made of others."""

    factor: float
    name: MeasureName
    axis: GroupAxis
    what: Selection | Assembled | Matrix
    span: Span


def atoms(context: Context, form: s.Expression, environment: Environment, factor: float = 1.0) -> list[Atom]:
    """The terms of a sum of numbers times measures. Raises Problem, or Poisoned if the cause was reported."""
    match form:
        case s.Binary("+", left, right):
            return [
                *atoms(context, left, environment, factor),
                *atoms(context, right, environment, factor),
            ]
        case s.Unary("+", operand):
            return atoms(context, operand, environment, factor)
        case s.Binary("*", left, right) if is_measure(right):
            return atoms(context, right, environment, factor * _factor(context, left, environment))
        case s.Binary("*", left, right) if is_measure(left):
            return atoms(context, left, environment, factor * _factor(context, right, environment))
        case s.Binary("/", left, right) if is_measure(left):
            divisor = _factor(context, right, environment)
            if divisor == 0:
                raise problem("E0208", "a penalty is divided by zero", right.span)
            return atoms(context, left, environment, factor / divisor)
        case s.Binary("^", s.Call() as inner, s.Literal(2)) if is_measure(inner):
            inside = atoms(context, inner, environment)
            if len(inside) != 1 or inside[0].name != "l2":
                raise problem(
                    "E0702", "of these measures only a Euclidean norm is squared: `norm(X, Fro)^2`", form.span
                )
            (found,) = inside
            return [replace(found, factor=factor * found.factor**2, name="squares", span=form.span)]
        case s.Call(s.Name("sum"), (s.Comprehension() as node,), ()):
            return _written_out(context, node, environment, factor)
        case s.Call(s.Name("sum"), (s.Call(s.Name("abs"), (inner,)),), ()):
            return [Atom(factor, "l1", "whole", _selected(context, inner, environment), form.span)]
        case s.Call(s.Name("abs"), (inner,), ()):
            entry = _selected(context, inner, environment)
            if not isinstance(entry, Selection) or entry.shape:
                raise problem("E0702", "`abs` is of one entry, and of all it is `sum(abs(X))`", form.span)
            return [Atom(factor, "l1", "whole", entry, form.span)]
        case s.Call(s.Name("entries"), (inner,), ()):
            return [Atom(factor, "l1", "whole", _selected(context, inner, environment), form.span)]
        case s.Call(s.Name("blocks"), (inner,), ()):
            return [_blocks(context, inner, environment, factor, form.span)]
        case s.Call(s.Name("columns"), (inner,), ()):
            return [_groups(context, "columns", inner, environment, factor, form.span)]
        case s.Call(s.Name("rows"), (inner,), ()):
            return [_groups(context, "rows", inner, environment, factor, form.span)]
        case s.Call(s.Name("maxabs"), (inner,), ()):
            return [Atom(factor, "linf", "whole", _selected(context, inner, environment), form.span)]
        case s.Call(s.Name("nuclear"), (inner,), ()):
            return [_of_matrix(context, "nuclear", inner, environment, factor, form.span)]
        case s.Call(s.Name("norm" | "opnorm"), (inner, *order), ()) if len(order) < 2:
            return [_norm(context, inner, order[0] if order else None, environment, factor, form)]
    raise no_measure(form)


def is_measure(form: s.Expression) -> bool:
    """Whether an expression has the form of a measure, and not that of a number."""
    match form:
        case s.Binary("^", inner, _):
            return is_measure(inner)
        case s.Binary("+" | "*" | "/", left, right):
            return is_measure(left) or is_measure(right)
        case s.Call(s.Name(name), _, _):
            return name in _WORDS
    return False


def no_measure(form: s.Expression) -> Problem:
    """That an expression is no measure of weights."""
    text = " ".join(form.span.text.split())[:60]
    return problem(
        "E0702",
        f"`{text}` is no measure of weights",
        form.span,
        help=f"a penalty is a sum of numbers times measures: {MEASURES}",
    )


def _factor(context: Context, form: s.Expression, environment: Environment) -> float:
    found = number(context, form, environment, "the factor of a penalty")
    if found < 0:
        raise problem("E0703", "the factor of a penalty is at least 0", form.span, f"this is {found:g}")
    return found


def _written_out(
    context: Context, node: s.Comprehension, environment: Environment, factor: float
) -> list[Atom]:
    found: list[Atom] = []
    for scope in context.scopes(node, environment):
        found += atoms(context, node.value, scope, factor)
        if len(found) > MOST_TERMS:
            raise problem("E0107", f"this sum has more than {MOST_TERMS} terms", node.span)
    return [replace(atom, span=node.span) for atom in found]


def _selected(context: Context, form: s.Expression, environment: Environment) -> Selection | Assembled:
    """Entries of tensors, or of an assembled matrix. Raises Problem if it is neither."""
    found = select(context, form, environment)
    if found is None:
        raise nothing(context.evaluate(form, environment), form.span)
    return found


def _blocks(
    context: Context, inner: s.Expression, environment: Environment, factor: float, span: Span
) -> Atom:
    found = _selected(context, inner, environment)
    if isinstance(found, Selection):
        raise problem(
            "E0404",
            "blocks are those of an assembled matrix: `blocks(A)`",
            inner.span,
            help="of one matrix there are `columns(X)`, `rows(X)` and `entries(X)`",
        )
    return Atom(factor, "linf", "blocks", found, span)


def _groups(
    context: Context,
    word: Literal["columns", "rows"],
    inner: s.Expression,
    environment: Environment,
    factor: float,
    span: Span,
) -> Atom:
    found = _selected(context, inner, environment)
    if isinstance(found, Selection):
        if found.is_vector:
            raise problem("E0404", f"a vector has no {word}", inner.span, help="of it there is `entries(x)`")
        if found.joined is not None and found.joined != 1 - _GROUPS[word]:
            raise problem(
                "E0702", f"matrices with the same {word} are joined by `{_BESIDE[word]}(X, Y)`", inner.span
            )
    return Atom(factor, "linf", word, found, span)


def _norm(
    context: Context,
    inner: s.Expression,
    order: s.Expression | None,
    environment: Environment,
    factor: float,
    form: s.Call,
) -> Atom:
    """`norm(x)`, `norm(x, p)` of a vector, and of a matrix the Frobenius norm or an induced one."""
    frobenius = isinstance(order, s.Name) and order.name == "Fro"
    value = 2 if order is None or frobenius else context.evaluate(order, environment)
    if not is_number(value) or value not in _INDUCED:
        raise no_measure(form)
    found = _entries(context, inner, environment)
    if isinstance(found, Selection) and found.is_vector:
        return Atom(factor, _OF_VECTORS[value], "whole", found, form.span)
    if frobenius:
        return Atom(factor, "l2", "whole", found, form.span)
    if order is None:
        raise problem(
            "E0702",
            "the norm of a matrix is `norm(X, Fro)`, or an induced one: `norm(X, 2)`, `norm(X, Inf)`",
            form.span,
            help="of a vector, such as a column `X[:, j]`, `norm(x)` is the Euclidean norm",
        )
    return _of_matrix(context, _INDUCED[value], inner, environment, factor, form.span)


def _entries(
    context: Context, form: s.Expression, environment: Environment
) -> Selection | Assembled | Matrix:
    """Entries of tensors, of an assembled matrix, or of an expression of matrices."""
    found = select(context, form, environment)
    if found is not None:
        return found
    value = context.evaluate(form, environment)
    if not isinstance(value, (MatrixExpression, LowRank)):
        raise nothing(value, form.span)
    made = bounded(context, form, environment)
    assert made.matrix is not None, "an assembled matrix was found before"
    if made.is_operator:
        raise problem(
            "E0404",
            "this is for matrices, and a kernel has more axes",
            form.span,
            help="measure the layer alone, and put the number in front: `2 * norm(K, Inf)`",
        )
    return made.matrix


def _of_matrix(
    context: Context,
    name: MeasureName,
    form: s.Expression,
    environment: Environment,
    factor: float,
    span: Span,
) -> Atom:
    found = _entries(context, form, environment)
    if isinstance(found, Selection):
        if found.is_vector:
            raise problem("E0404", "this is of a matrix, and here is a vector", form.span)
        if name in ("spectral", "nuclear") and len(found.shape) > 2:
            raise problem("E0404", "this is for matrices, and a kernel has more axes", form.span)
        if len(found.pieces) > 1:
            raise problem("E0404", "this is of one matrix", form.span, help="give each a term of its own")
    return Atom(factor, name, "whole", found, span)


# --------------------------------------------------------------------------- as data


def measures(found: list[Atom]) -> Iterator[tuple[float, Measured, Span]]:
    """Terms of selections as data: those of one factor and norm are one, columns of a matrix are together."""
    keyed: dict[tuple[float, str, int], list[Atom]] = {}
    for atom in found:
        keyed.setdefault((atom.factor, atom.name, atom.span.start), []).append(atom)
    for (factor, name, _), group in keyed.items():
        span = group[0].span
        if name in ("l1", "l2", "linf", "squares"):
            families = tuple(_families(group))
            yield factor, Measured(group[0].name, families), span
        else:
            for atom in group:
                assert isinstance(atom.what, Selection)
                yield factor, Measured(atom.name, (Family("whole", atom.what.pieces),)), span


def _families(group: list[Atom]) -> Iterator[Family]:
    """The groups of some terms; vectors that are all columns, or all rows, of the same matrices together."""

    def pattern(atom: Atom) -> tuple[GroupAxis, tuple[str, ...], bool]:
        assert isinstance(atom.what, Selection)
        pieces = atom.what.pieces
        ids = tuple(piece.tensor for piece in pieces)
        if atom.axis != "whole" or not atom.what.is_vector:
            return (atom.axis, ids, False)
        if all(_one(piece.columns) and piece.rows is None for piece in pieces):
            return ("columns", ids, len({piece.columns for piece in pieces}) == 1)
        if len(atom.what.full) > 1 and all(_one(piece.rows) and piece.columns is None for piece in pieces):
            return ("rows", ids, len({piece.rows for piece in pieces}) == 1)
        return (atom.axis, ids, False)

    for (axis, _, together), members in groupby(group, pattern):
        listed = list(members)
        selections = [atom.what for atom in listed if isinstance(atom.what, Selection)]
        if together and axis in ("columns", "rows"):
            merged = _merged(axis, selections)
            if merged is not None:
                yield merged
                continue
        for atom, selection in zip(listed, selections):
            yield Family(atom.axis, selection.pieces)


def _one(numbers: tuple[int, ...] | None) -> bool:
    return numbers is not None and len(numbers) == 1


def _merged(axis: Literal["columns", "rows"], selections: list[Selection]) -> Family | None:
    """Columns or rows as one family; None if one of them is there twice."""
    chosen = [_number(selection.pieces[0], axis) for selection in selections]
    if len(set(chosen)) < len(chosen):
        return None
    size = selections[0].full[0 if axis == "rows" else 1]
    kept = None if chosen == list(range(size)) else tuple(chosen)
    pieces = [piece.tensor for piece in selections[0].pieces]
    return Family(axis, tuple(Piece(id, kept) if axis == "rows" else Piece(id, None, kept) for id in pieces))


def _number(piece: Piece, axis: Literal["columns", "rows"]) -> int:
    """The one column or row that a piece is."""
    numbers = piece.columns if axis == "columns" else piece.rows
    assert numbers is not None, "vectors of a family are one column or row each"
    return numbers[0]
