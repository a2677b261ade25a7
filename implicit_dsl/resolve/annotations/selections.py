"""Which entries of weights are meant: `B`, `K`, `B[:, j]`, `vcat(B, D)`, `A[to, from]` of the assembled A."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.demands import Piece
from implicit_dsl.graph import Node
from implicit_dsl.operators.base import LinearRule
from implicit_dsl.resolve.annotations.forms import is_free
from implicit_dsl.resolve.annotations.matrices import of_system
from implicit_dsl.resolve.arithmetic import is_number
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.indexing import is_member
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.subscripts import REGIONS, SIDES, Named, Region, check_side, named, no_block
from implicit_dsl.resolve.values import Flow, Layer, MatrixExpression, ParameterValue, describe
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.source import Span

_JOINS = {"vcat": 0, "hcat": 1}  # the axis along which they stand one behind the other


@dataclass(frozen=True, slots=True)
class Selection:
    """Entries of some tensors side by side. `shape` is that of the whole, without axes of one number.

    `joined` is the axis along which several stand, if there are several.
    """

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    span: Span
    joined: int | None = None
    full: tuple[int, ...] = ()  # the shape of the first tensor

    @property
    def is_vector(self) -> bool:
        return len(self.shape) < 2


@dataclass(frozen=True, slots=True)
class Assembled:
    """Blocks of an assembled matrix, until the graph is known: those of a region, or of rows and columns.

    None stands for all of them.
    """

    matrix: str
    span: Span
    rows: tuple[Named, ...] | None = None
    columns: tuple[Named, ...] | None = None
    region: Region | None = None

    @property
    def is_whole(self) -> bool:
        return self.rows is None and self.columns is None and self.region is None


def select(context: Context, form: s.Expression, environment: Environment) -> Selection | Assembled | None:
    """What an expression selects; None if it is no tensor, and no part of one. Raises Problem."""
    part = _of_system(context, form, environment)
    if part is not None:
        return part
    if isinstance(form, s.Call) and isinstance(form.function, s.Name) and form.function.name in _JOINS:
        return _joined(context, form, environment)
    if isinstance(form, s.Index) and not is_member(form, environment):
        base = select(context, form.value, environment)
        if isinstance(base, Assembled):
            raise problem("E0404", "a block of an assembled matrix is taken once", form.span)
        return None if base is None else _indexed(context, base, form, environment)
    return _whole(context.evaluate(form, environment), form.span)


def _whole(value: Any, span: Span) -> Selection | None:
    match value:
        case ParameterValue() if value.tensor.shape:
            return _of_tensor(value.tensor.id, value.tensor.shape, span)
        case Layer() if isinstance(value.rule, LinearRule):
            weight = next((t for t in value.tensors if t.id.endswith(".weight") and len(t.shape) > 1), None)
            grouped = (
                value.operator is not None and value.operator.kind == "conv" and value.operator["groups"] != 1
            )
            if weight is not None and not grouped:
                return _of_tensor(weight.id, weight.shape, span)
            raise problem("E0404", "this is about a matrix or a layer", span, "a layer without a matrix")
    return None


def _of_tensor(id: str, shape: tuple[int, ...], span: Span) -> Selection:
    return Selection((Piece(id),), shape, span, full=shape)


def nothing(value: Any, span: Span) -> Problem:
    """That a value is no weight, or one that is made of others."""
    made = isinstance(value, MatrixExpression)
    help = "name the matrix alone, and put a number in front; sums and products have norms, `norm(X, Fro)`"
    return problem(
        "E0404",
        "this is about a matrix or a layer",
        span,
        "this is made of others" if made else f"this is {describe(value)}",
        help=help if made else "",
    )


def _joined(context: Context, form: s.Call, environment: Environment) -> Selection:
    word = form.function.name if isinstance(form.function, s.Name) else ""
    axis = _JOINS[word]
    if not form.arguments:
        raise problem("E0702", f"`{word}` joins at least one matrix", form.span)
    parts = []
    for argument in form.arguments:
        part = select(context, argument, environment)
        if not isinstance(part, Selection):
            raise problem(
                "E0404",
                "matrices and layers of the program are joined by their names",
                argument.span,
            )
        parts.append(part)
    if len({len(part.shape) for part in parts}) > 1:
        raise problem("E0204", "these have different numbers of axes, and cannot be joined", form.span)
    across = 1 - axis
    if not parts[0].is_vector:
        sizes = list(dict.fromkeys(part.shape[across] for part in parts))
        if len(sizes) > 1:
            word = ("rows", "columns")[across]
            raise problem(
                "E0204", f"matrices with {sizes[0]} and {sizes[1]} {word} have no {word} in common", form.span
            )
    shape = list(parts[0].shape)
    at = 0 if parts[0].is_vector else axis
    shape[at] = sum(part.shape[at] for part in parts)
    pieces = tuple(piece for part in parts for piece in part.pieces)
    return Selection(pieces, tuple(shape), form.span, at if len(parts) > 1 else None, parts[0].full)


def _indexed(context: Context, base: Selection, form: s.Index, environment: Environment) -> Selection:
    """Rows and columns of one tensor; a single number takes its axis away."""
    if len(base.pieces) != 1 or base.pieces[0].rows is not None or base.pieces[0].columns is not None:
        raise problem("E0404", "rows and columns are taken of one matrix, and once", form.span)
    if len(form.subscripts) > min(2, len(base.shape)):
        most = min(2, len(base.shape))
        raise problem(
            "E0205", f"this has {len(form.subscripts)} subscripts, and here are at most {most}", form.span
        )
    kept: list[tuple[int, ...] | None] = [None, None]
    shape: list[int] = []
    for axis, size in enumerate(base.shape):
        if axis >= len(form.subscripts) or isinstance(form.subscripts[axis], s.Colon):
            shape.append(size)
            continue
        chosen, single = _numbers(context, form.subscripts[axis], size, environment)
        kept[axis] = chosen
        if not single:
            shape.append(len(chosen))
    piece = replace(base.pieces[0], rows=kept[0], columns=kept[1])
    return Selection((piece,), tuple(shape), form.span, full=base.full)


def _numbers(
    context: Context, subscript: s.Expression | s.Axis | s.Colon, size: int, environment: Environment
) -> tuple[tuple[int, ...], bool]:
    """The chosen numbers of an axis, from 0, and whether it is one alone."""
    if isinstance(subscript, s.Axis | s.Colon):
        raise problem("E0205", "rows and columns are chosen by numbers", subscript.span)
    value = context.evaluate(subscript, environment)
    single = is_number(value)
    listed = (value,) if single else tuple(value) if isinstance(value, (tuple, range)) else ()
    if not listed or not all(is_number(one) and one == int(one) for one in listed):
        raise problem(
            "E0205",
            "a row or column is a whole number, or several are a range or list",
            subscript.span,
            help="blocks of an assembled matrix are named: `system.A[to, from]`" if _names(value) else "",
        )
    for one in listed:
        if not 1 <= one <= size:
            raise problem("E0205", f"there is no number {int(one)}: they go from 1 to {size}", subscript.span)
    if len(set(listed)) < len(listed):
        raise problem("E0205", "the same number is chosen twice", subscript.span)
    return tuple(int(one) - 1 for one in listed), single


def _names(value: Any) -> bool:
    """Whether a value is what blocks are named by."""
    return isinstance(value, (Wire, Flow))


# --------------------------------------------------------------------------- assembled matrices


def _of_system(context: Context, form: s.Expression, environment: Environment) -> Assembled | None:
    indexed = form if isinstance(form, s.Index) else None
    name = of_system(form if indexed is None else indexed.value, environment)
    if not name:
        return None
    if indexed is None:
        return Assembled(name, form.span)
    match indexed.subscripts:
        case (s.Name(region),) if region in REGIONS and is_free(region, environment):
            if name != "A":
                raise problem("E0404", f"{name} has no `{region}`: only states read one another", form.span)
            return Assembled(name, form.span, region=region)
        case (row, column):
            rows = named(context, row, environment, name in "CDS", "E0404")
            columns = named(context, column, environment, False, "E0404")
            return Assembled(name, form.span, rows and rows[0], columns and columns[0])
    raise problem(
        "E0404",
        f"a block of {name} is `{name}[to, from]`, with names",
        form.span,
        help="" if name == "S" else "of A there are `A[forward]`, `A[feedback]` and `A[self]`, too",
    )


def names_of(
    found: tuple[Named, ...] | None, nodes: tuple[Node, ...], matrix: str, side: int
) -> frozenset[str] | None:
    """The blocks that are named among the rows (`side` 0) or columns (1); None for all. Raises Problem."""
    if found is None:
        return None
    by_name = {node.name: node for node in nodes}
    chosen = []
    for one in found:
        name = one.name if one.wire is None else one.wire.name
        node = by_name.get(name)
        if node is None:
            raise no_block(nodes, SIDES[matrix][side], one.span, "E0404")
        check_side(node, matrix, side, one.span, "E0404", "", "[…]")
        chosen.append(name)
    return frozenset(chosen)
