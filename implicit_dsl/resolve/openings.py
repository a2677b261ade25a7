"""`open A[to, from] as …`: which blocks of the assembled matrices a statement is about.

The names are evaluated when all values are known, and before these become a graph: what an `open` names is
a block of its own there. `opened` makes the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from implicit_dsl import syntax as s
from implicit_dsl.errors import Label
from implicit_dsl.resolve.annotations.forms import is_free
from implicit_dsl.resolve.annotations.matrices import SENSITIVITY, SYSTEM, of_system
from implicit_dsl.resolve.context import STATEMENT, Context
from implicit_dsl.resolve.problem import Poisoned, Problem, did_you_mean, instead, problem
from implicit_dsl.resolve.scope import Body, Environment, NotedOpen
from implicit_dsl.resolve.subscripts import REGIONS, Named, Region, named
from implicit_dsl.resolve.values import Builtin, Layer, SetValue, describe
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.sets import SETS
from implicit_dsl.source import Span

_FORMS = "`open A[x, h]`, `open A[forward]`, `open B[x, u]`, `open C`"


@dataclass(frozen=True, slots=True)
class Opening:
    """One `open`. `rows` and `columns` are the blocks that it names, None for all that there are.

    `single`: it names one block, which must be there and be zero; else those of a region that are zero.
    `structure` is what stands behind `as`.
    """

    matrix: str
    region: Region | Literal["all"]
    rows: tuple[Named, ...] | None
    columns: tuple[Named, ...] | None
    single: bool
    structure: SetValue | Layer | None
    place: Span
    structure_place: Span | None

    @property
    def text(self) -> str:
        """The region as it is written, on one line."""
        return " ".join(self.place.text.split())

    @property
    def pairs(self) -> tuple[tuple[Wire | None, Wire | None], ...]:
        """The values that it names, as (target, source); None for what is no value, or all that there are."""
        rows = (None,) if self.rows is None else tuple(row.wire for row in self.rows)
        columns = (None,) if self.columns is None else tuple(column.wire for column in self.columns)
        return tuple((row, column) for row in rows for column in columns)


def note_open(context: Context, body: Body, statement: s.Open, environment: Environment) -> None:
    """Note an `open`, to be read when everything is defined. Raises Problem where none may stand."""
    word = Span(statement.span.source, statement.span.start, statement.span.start + len("open"))
    if body.recurrence is not None or body.ode is not None:
        inside = "recurrent" if body.recurrence is not None else "ode"
        raise problem(
            "E0506",
            f"`open` stands in the model, and not inside of `{inside}`",
            word,
            notes=(f"A is the matrix of what is around a `{inside}`: its steps have equations of their own",),
            help="write one more term in the equation, with a matrix that starts from zeros: "
            "`param W[n, n] = zeros()`",
        )
    if body.state_path:
        raise problem(
            "E0506",
            "`open` stands in a model, and not in a block",
            word,
            notes=("A is the matrix of the whole model, and a block may be applied several times",),
            help="open it where the block is applied",
        )
    context.opens.append(NotedOpen(statement, body, environment))


def read_opens(context: Context) -> tuple[Opening, ...]:
    """What the `open`s of a model name, in the order of the text; what is wrong is reported."""
    found: list[Opening] = []
    for noted in context.opens:
        context.step(noted.statement.span, STATEMENT)
        try:
            found.append(_opening(context, noted))
        except Problem as wrong:
            context.report(wrong.diagnostic)
        except Poisoned:
            context.poisoned = True
    return tuple(found)


def _opening(context: Context, noted: NotedOpen) -> Opening:
    statement, environment = noted.statement, noted.environment
    region = statement.region
    indexed = region if isinstance(region, s.Index) else None
    matrix = of_system(region if indexed is None else indexed.value, environment)
    if not matrix or matrix == SENSITIVITY:
        raise _no_matrix(region if indexed is None else indexed.value, environment)
    structure = _structure(context, statement.structure, environment)
    behind = statement.structure.span if statement.structure is not None else None

    def made(where: Region | Literal["all"], rows: Any, columns: Any, single: bool) -> Opening:
        return Opening(matrix, where, rows, columns, single, structure, region.span, behind)

    if indexed is None:
        return made("all", None, None, False)
    match indexed.subscripts:
        case (s.Name(word) as name,):
            if word in REGIONS and is_free(word, environment):
                if matrix != "A":
                    raise problem(
                        "E0506",
                        f"{matrix} has no region `{word}`: only states are computed one behind another",
                        name.span,
                        help=f"write `open {matrix}` for all of its zeros, or `open {matrix}[to, from]`",
                    )
                return made(word, None, None, False)
            meant = did_you_mean(word, REGIONS) if matrix == "A" else ""
            raise problem(
                "E0506",
                f"`{word}` is no region of {matrix}",
                name.span,
                f"did you mean `{meant}`?" if meant else "",
                help="a block is named by what it goes to and what it comes from, "
                f"`{matrix}[to, from]`"
                + ("; regions are `forward`, `feedback`, `self`" if matrix == "A" else ""),
                fixes=instead(name.span, meant),
            )
        case (to, source):
            rows = named(context, to, environment, matrix in "CD", "E0506")
            columns = named(context, source, environment, False, "E0506")
            single = all(part is not None and part[1] for part in (rows, columns))
            return made("all", rows and rows[0], columns and columns[0], single)
    raise problem(
        "E0506", f"a block of {matrix} is named by what it goes to and what it comes from",
        region.span, help=f"write {_FORMS}",
    )  # fmt: skip


def _no_matrix(value: s.Expression, environment: Environment) -> Problem:
    if isinstance(value, s.Name) and value.name in SYSTEM:
        return problem(
            "E0506",
            f"`{value.name}` is a name of this program, and zeros of the assembled matrices are opened",
            value.span,
            help=f"the assembled one is `system.{value.name}`",
        )
    return problem(
        "E0506",
        "what is opened is a part of A, B, C or D",
        value.span,
        notes=("these are the matrices of x = φ(A x + B u), y = C x + D u",),
        help=f"write {_FORMS}",
    )


# --------------------------------------------------------------------------- what stands behind `as`


def _structure(
    context: Context, node: s.Expression | None, environment: Environment
) -> SetValue | Layer | None:
    if node is None:
        return None
    value = context.evaluate(node, environment)
    if isinstance(value, Layer) and not isinstance(node, s.Call):
        raise problem(
            "E0507",
            "an opened block has weights of its own, which start from zero",
            node.span,
            labels=(Label(value.span, "a layer of the model"),),
            help="write the layer itself, such as `as Conv(3; pad = 1)`",
        )
    if isinstance(value, SetValue | Layer):
        return value
    if isinstance(value, Builtin) and value.name in SETS:
        help = f"write `{value.name}({', '.join('…' for _ in SETS[value.name].formals)})`"
        raise problem("E0507", "a set has brackets", node.span, help=help)
    raise problem(
        "E0507",
        "behind `as` stands a set of matrices, or a layer",
        node.span,
        f"this is {describe(value)}",
        help="write `as LowRank(2)`, `as Banded(-1, 1)` or `as Conv(3; pad = 1)`, for example; "
        "without `as` it is a full matrix",
    )
