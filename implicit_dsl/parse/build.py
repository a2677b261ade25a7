"""One method for each rule of the grammar: from the values of its symbols to a piece of syntax.

A method gets the values that the grammar keeps, and where the rule starts and ends. Values
are tokens, syntax, or the small parts below, which exist only until their statement is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from implicit_dsl import syntax
from implicit_dsl.parse.expressions import Expressions, Values, split_arguments
from implicit_dsl.parse.tokens import Token
from implicit_dsl.source import Span


class Part(NamedTuple):
    """A clause of a statement: what introduces it, and what follows."""

    kind: str
    value: Any


class Header(NamedTuple):
    kind: str
    name: syntax.Name
    formals: tuple[syntax.Formal, ...]
    base: syntax.Expression | None
    span: Span


class Item(NamedTuple):
    """One name of a declaration, before it is known of which kind."""

    value: Values
    start: int
    end: int


class Doc(NamedTuple):
    text: str


class Body(NamedTuple):
    statements: tuple[syntax.Statement, ...]


class Build(Expressions):
    """The actions of the whole grammar: statements here, expressions in the parent."""

    def error(self, values: Values, start: int, end: int) -> None:
        return None

    # ----------------------------------------------------------------------- the file

    def start(self, values: Values, start: int, end: int) -> syntax.Program:
        file_doc = None
        if values and isinstance(values[0], Doc) and not (len(values) > 1 and _takes_doc(values[1])):
            file_doc = values[0].text
        return syntax.Program(self.source, file_doc, _statements(values))

    def stray_end(self, values: Values, start: int, end: int) -> None:
        self.report.stray_end(self.span(start, end))

    def doc(self, values: Values, start: int, end: int) -> Doc:
        text = self.unescape(values[0], 3)
        return Doc(dedent(text))

    # ----------------------------------------------------------------------- definitions

    def template(self, values: Values, start: int, end: int) -> syntax.Template:
        header, body = values
        kind, name, formals, base, header_span = header
        span = self.span(start, end)
        return syntax.Template(kind, name, formals, base, body.statements, None, span, header_span)

    def head(self, values: Values, start: int, end: int) -> Header:
        kind, name, *rest = values
        formals: tuple[syntax.Formal, ...] = ()
        base = None
        for value in rest:
            if type(value) is tuple:
                formals = value
            elif not isinstance(value, Token):
                base = value
        name = self.unread(name) if name.kind == "ERROR" else self.to_name(name)
        return Header(kind.kind, name, formals, base, self.span(start, end))

    def formals(self, values: Values, start: int, end: int) -> tuple[syntax.Formal, ...]:
        found: list[syntax.Formal] = []
        for value in values:
            found.extend(value.value if isinstance(value, Part) else (value,))
        return tuple(found)

    def keyword_formals(self, values: Values, start: int, end: int) -> Part:
        return Part(";", [syntax.Formal(f.name, f.kind, f.default, True, f.span) for f in values])

    def formal(self, values: Values, start: int, end: int) -> syntax.Formal:
        parts = dict(values[1:])
        name = self.to_name(values[0])
        return syntax.Formal(name, parts.get("kind"), parts.get("default"), False, self.span(start, end))

    def kind(self, values: Values, start: int, end: int) -> Part:
        return Part("kind", self.to_name(values[0]))

    def default(self, values: Values, start: int, end: int) -> Part:
        return Part("default", values[0])

    def body(self, values: Values, start: int, end: int) -> Body:
        return Body(_statements(values))

    # ----------------------------------------------------------------------- declarations

    def declaration(self, values: Values, start: int, end: int) -> tuple[syntax.Declaration, ...]:
        """`state x[2], y[3]` declares two; the keyword belongs to the first."""
        kind = values[0].kind
        items = [self._declared(kind, item.value, item.start, item.end) for item in values[1:]]
        items[0] = replace(items[0], span=self.span(start, items[0].span.end))
        return tuple(items)

    def declared(self, values: Values, start: int, end: int) -> Item:
        return Item(values, start, end)

    def _declared(self, kind: str, parts: Values, start: int, end: int) -> syntax.Declaration:
        brackets: list[tuple[syntax.Expression, ...]] = []
        member = value = None
        relation = ""
        for part in parts[1:]:
            match part.kind:
                case "[":
                    brackets.append(part.value)
                case "in":
                    member = part.value
                case _:
                    relation, value = part
        has_shape = bool(brackets) and (kind != "layer" or len(brackets) > 1)
        shape = brackets.pop() if has_shape else None
        family = brackets[0] if brackets else None
        name = self.to_name(parts[0])
        span = self.span(start, end)
        return syntax.Declaration(kind, name, family, shape, member, relation, value, None, span)

    def bracket(self, values: Values, start: int, end: int) -> Part:
        return Part("[", tuple(values))

    def member(self, values: Values, start: int, end: int) -> Part:
        return Part("in", values[0])

    def start_value(self, values: Values, start: int, end: int) -> Part:
        return Part("=", values[0])

    def drive(self, values: Values, start: int, end: int) -> Part:
        return Part("~", values[0])

    # ----------------------------------------------------------------------- blocks

    def binding(self, values: Values, start: int, end: int) -> syntax.Binding:
        return syntax.Binding(self.to_name(values[0]), values[1], self.span(start, end))

    def recurrent(self, values: Values, start: int, end: int) -> syntax.Recurrent:
        return syntax.Recurrent(_bindings(values), values[-1].statements, self.span(start, end))

    def for_(self, values: Values, start: int, end: int) -> syntax.For:
        return syntax.For(_bindings(values), values[-1].statements, self.span(start, end))

    def ode(self, values: Values, start: int, end: int) -> syntax.Ode:
        *header, body = values
        variable = self.unread(header[0]) if len(header) == 1 else self.to_name(header[0])
        interval = variable if len(header) == 1 else header[1]
        return syntax.Ode(variable, interval, body.statements, self.span(start, end))

    def if_(self, values: Values, start: int, end: int) -> syntax.If:
        return syntax.If(tuple(values), self.span(start, end))

    def branch(self, values: Values, start: int, end: int) -> syntax.Branch:
        (condition, head_end), body = values
        end = max([head_end, *(statement.span.end for statement in body.statements[-1:])])
        return syntax.Branch(condition, body.statements, self.span(start, end))

    def branch_head(self, values: Values, start: int, end: int) -> tuple[syntax.Expression | None, int]:
        if not values:
            return None, end
        condition = values[0]
        return (self.unread(condition) if isinstance(condition, Token) else condition), end

    # ----------------------------------------------------------------------- simple statements

    def equation(self, values: Values, start: int, end: int) -> syntax.Equation:
        return syntax.Equation(values[0], values[1], self.span(start, end))

    def definition(self, values: Values, start: int, end: int) -> syntax.Definition:
        return syntax.Definition(values[0], values[1], self.span(start, end))

    def bare(self, values: Values, start: int, end: int) -> syntax.Bare:
        return syntax.Bare(values[0], self.span(start, end))

    def open_(self, values: Values, start: int, end: int) -> syntax.Open:
        structure = values[1] if len(values) > 1 else None
        return syntax.Open(values[0], structure, self.span(start, end))

    def import_(self, values: Values, start: int, end: int) -> syntax.Import:
        path, *names = values
        if isinstance(path, Token):
            path = self.unescape(path, 1)
        return syntax.Import(path, tuple(names), self.span(start, end))

    def module(self, values: Values, start: int, end: int) -> tuple[str, ...]:
        return tuple(self.to_name(token).name for token in values)

    def import_name(self, values: Values, start: int, end: int) -> syntax.ImportName:
        return syntax.ImportName(self.to_name(values[0]), self.to_name(values[-1]), self.span(start, end))

    def annotation(self, values: Values, start: int, end: int) -> syntax.Annotation:
        at = values[0]
        word = at.text[1:].removesuffix("(")
        name = self.to_name(Token("NAME", word, at.start + 1, at.start + 1 + len(word)))
        arguments, keywords = split_arguments(values[1:])
        return syntax.Annotation(name, arguments, keywords, self.span(start, end))


def _bindings(values: Values) -> tuple[syntax.Binding, ...]:
    return tuple(value for value in values if type(value) is syntax.Binding)


def _statements(values: Values) -> tuple[syntax.Statement, ...]:
    """The statements that could be read, each with the doc comment just above it."""
    found: list[syntax.Statement] = []
    doc: str | None = None
    for value in values:
        if type(value) is Doc:
            doc = value.text
            continue
        if value is not None:
            found.extend(_with_doc(value, doc) if doc is not None else _one_by_one(value))
        doc = None
    return tuple(found)


def _one_by_one(value: Any) -> tuple[syntax.Statement, ...]:
    return value if type(value) is tuple else (value,)


def _with_doc(value: Any, doc: str) -> Iterator[syntax.Statement]:
    for statement in _one_by_one(value):
        if isinstance(statement, syntax.Template | syntax.Declaration):
            yield replace(statement, doc=doc)
        else:
            yield statement


def _takes_doc(value: Any) -> bool:
    return type(value) is syntax.Template or type(value) is tuple


def dedent(text: str) -> str:
    """Without the indentation that all lines but the first share, and without empty lines around."""
    first, *rest = text.expandtabs(4).splitlines() or [""]
    margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    lines = [first.strip(), *(line[margin:].rstrip() for line in rest)]
    while lines and not lines[0]:
        del lines[0]
    while lines and not lines[-1]:
        del lines[-1]
    return "\n".join(lines)
