"""The language as data: one frozen class per construct, exactly as written.

Nothing is checked or computed here. Every node ends with the `span` it was read
from; sequences are tuples. `parse` builds these nodes and `resolve` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from implicit_dsl.source import Source, Span

# --------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Name:
    """`x`; also `_`, the size that is left free."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, `true`, `false`, `Inf` or a string."""

    value: int | float | bool | str
    span: Span


@dataclass(frozen=True, slots=True)
class Sequence:
    """`[a, b]`, or the tuple `(a, b)` when `is_tuple`."""

    items: tuple[Expression, ...]
    is_tuple: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Binding:
    """`i in 1:3` of a loop or comprehension."""

    name: Name
    values: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Comprehension:
    """`[f(i) for i in 1:3 if c]`; without the brackets, an argument of a call."""

    value: Expression
    bindings: tuple[Binding, ...]
    condition: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Range:
    """`start:stop` or `start:step:stop`, both ends included."""

    start: Expression
    step: Expression | None
    stop: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Interval:
    """`a..b`, the time span of an `ode`."""

    start: Expression
    stop: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x`, `+x` or `!x`."""

    operator: str
    operand: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    """`left operator right`.

    `operator` is spelled in ASCII: + - .+ .- * / .* ./ % ÷ ∘ ^ .^ && ||, where `÷` is the
    integer quotient and `∘` composition, which have no ASCII operator of their own.
    """

    operator: str
    left: Expression
    right: Expression
    span: Span
    operator_span: Span


@dataclass(frozen=True, slots=True)
class Comparison:
    """A chain `a < b <= c`: n operands, n - 1 operators (< <= > >= == != in)."""

    operands: tuple[Expression, ...]
    operators: tuple[str, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Pair:
    """`3 => 16`."""

    left: Expression
    right: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Pipe:
    """`value |> function`, or `.|>` when `elementwise`."""

    value: Expression
    function: Expression
    elementwise: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Lambda:
    """`x -> body`, `(x, y) -> body`. The parameters have to be names, which is checked later."""

    parameters: tuple[Expression, ...]
    body: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Keyword:
    """`k = 1` inside a call."""

    name: Name
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """`f(a, b; k = 1)`, or `f.(a)` when `elementwise`. A generator is one Comprehension."""

    function: Expression
    arguments: tuple[Expression, ...]
    keywords: tuple[Keyword, ...]
    elementwise: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Colon:
    """`:` alone in an index: the whole axis."""

    span: Span


@dataclass(frozen=True, slots=True)
class Axis:
    """`c = 3` in brackets: a size with the name of its axis."""

    name: Name
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Index:
    """`x[1, :]`."""

    value: Expression
    subscripts: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Field:
    """`module.name`."""

    value: Expression
    name: Name
    span: Span


@dataclass(frozen=True, slots=True)
class Transpose:
    """`W'`."""

    value: Expression
    span: Span


# fmt: off
Expression: TypeAlias = (
    Name | Literal | Sequence | Comprehension | Range | Interval | Unary | Binary | Comparison | Pair
    | Pipe | Lambda | Call | Colon | Axis | Index | Field | Transpose
)
# fmt: on

# --------------------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Declaration:
    """One item of `input`, `output`, `state`, `param` or `layer`.

    In `state z[s in 1:2][c[s], 8]`, `family` is the first bracket and `shape` the last;
    a `layer` has no shape, so its only bracket is a family. `member` is the set behind
    `in`; `relation` is `=` or `~` when `value` is given, else empty.
    """

    kind: str
    name: Name
    family: tuple[Expression, ...] | None
    shape: tuple[Expression, ...] | None
    member: Expression | None
    relation: str
    value: Expression | None
    doc: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Equation:
    """`target ~ value`: an equilibrium equation."""

    target: Expression
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Definition:
    """`target = value`: a name for an expression, or a function `f(x) = ...`."""

    target: Expression
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Bare:
    """An expression standing alone, which has no effect."""

    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class For:
    bindings: tuple[Binding, ...]
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`/`elseif` with its condition, or `else` (no condition)."""

    condition: Expression | None
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class If:
    branches: tuple[Branch, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Recurrent:
    """`recurrent x over u, … end`."""

    bindings: tuple[Binding, ...]
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Ode:
    """`ode t in a..b … end`."""

    variable: Name
    interval: Expression
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Open:
    """`open A[c3, f6] as LowRank(2)`."""

    region: Expression
    structure: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Annotation:
    """`@name a, b` or `@name(a; k = 1)`; `name` is without the `@`."""

    name: Name
    arguments: tuple[Expression, ...]
    keywords: tuple[Keyword, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class ImportName:
    """`Residual as Res`; `alias` is `name` itself when none is given."""

    name: Name
    alias: Name
    span: Span


@dataclass(frozen=True, slots=True)
class Import:
    """`import "file.impl": A, B as C` or `import std.vision`.

    `path` is the file name, or the dotted names; `names` is empty for a whole module.
    """

    path: str | tuple[str, ...]
    names: tuple[ImportName, ...]
    span: Span


# --------------------------------------------------------------------------- definitions


@dataclass(frozen=True, slots=True)
class Formal:
    """One parameter of a model or block: `name::kind = default`."""

    name: Name
    kind: Name | None
    default: Expression | None
    keyword_only: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Template:
    """`model` or `block`: what can be instantiated. `base` is the expression after `extends`."""

    kind: str
    name: Name
    formals: tuple[Formal, ...]
    base: Expression | None
    body: tuple[Statement, ...]
    doc: str | None
    span: Span
    header: Span


# fmt: off
Statement: TypeAlias = (
    Declaration | Equation | Definition | Bare | For | If | Recurrent | Ode | Open | Annotation | Import
    | Template
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Program:
    """One file. Statements that could not be read are left out (and were reported)."""

    source: Source
    doc: str | None
    body: tuple[Statement, ...]
