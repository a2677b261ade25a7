"""The actions of the grammar that build expressions, names and literals."""

from __future__ import annotations

import math
import re
from typing import Any, TypeAlias

from implicit_dsl import syntax
from implicit_dsl.errors import Diagnostic
from implicit_dsl.parse.report import Report
from implicit_dsl.parse.tokens import Token
from implicit_dsl.source import Source, Span

Values: TypeAlias = list[Any]

_ASCII = {"⊙": ".*", "⋅": "*", "≤": "<=", "≥": ">=", "≠": "!=", "∈": "in"}
_CONSTANTS = {"true": True, "false": False, "Inf": math.inf, "∞": math.inf}
_WORD = re.compile(r"[^\W\d][\w\u0300-\u036f]*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\s\S]))|([\ud800-\udfff])")
_ESCAPED = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
_MOST_DIGITS = 4000  # Python itself reads no more than 4300


_new = tuple.__new__  # a third of the cost of calling a NamedTuple


class Expressions:
    """One method for each kind of expression; `report` takes what is wrong with a literal."""

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report

    def span(self, start: int, end: int) -> Span:
        return _new(Span, (self.source, start, end))

    # ----------------------------------------------------------------------- names and literals

    def to_name(self, token: Token) -> syntax.Name:
        text = token.text
        return syntax.Name(text if text.isascii() else _normal(text), self.span(token.start, token.end))

    def unread(self, token: Token) -> syntax.Name:
        """What stands for a part that could not be read: its first name, if there is one."""
        word = _WORD.match(token.text)
        end = token.start + (word.end() if word else 0)
        return syntax.Name(_normal(word[0]) if word else "_", self.span(token.start, end))

    def name(self, values: Values, start: int, end: int) -> syntax.Name:
        return self.to_name(values[0])

    def integer(self, values: Values, start: int, end: int) -> syntax.Literal:
        digits = values[0].text.replace("_", "")
        if len(digits) > _MOST_DIGITS:
            return self._too_large(start, end)
        return syntax.Literal(int(digits), self.span(start, end))

    def float(self, values: Values, start: int, end: int) -> syntax.Literal:
        number = float(values[0].text.replace("_", ""))
        if number == math.inf:
            return self._too_large(start, end)
        return syntax.Literal(number, self.span(start, end))

    def _too_large(self, start: int, end: int) -> syntax.Literal:
        span = self.span(start, end)
        help_text = "infinity is written `Inf`"
        self.report.add(Diagnostic("E0006", "this number is too large", span, help=help_text))
        return syntax.Literal(0, span)

    def constant(self, values: Values, start: int, end: int) -> syntax.Literal:
        return syntax.Literal(_CONSTANTS[values[0].text], self.span(start, end))

    def string(self, values: Values, start: int, end: int) -> syntax.Literal:
        return syntax.Literal(self.unescape(values[0], 1), self.span(start, end))

    def unescape(self, token: Token, quotes: int) -> str:
        """The text between the quotes, its escapes replaced."""

        def replaced(match: re.Match[str]) -> str:
            code, character, surrogate = match.groups()
            if character in _ESCAPED:
                return _ESCAPED[character]
            if code is not None and not 0xD800 <= int(code, 16) <= 0xDFFF:
                return chr(int(code, 16))
            offset = token.start + quotes
            span = self.span(offset + match.start(), offset + match.end())
            if surrogate is not None:
                message, help_text = (
                    f"unexpected character U+{ord(surrogate):04X}",
                    "half a character: save the file as UTF-8",
                )
                self.report.add(Diagnostic("E0001", message, span, help=help_text))
            else:
                self.report.add(Diagnostic("E0007", f"unknown escape `{match[0]}`", span, help=_ESCAPE_HELP))
            return ""

        inside = token.text[quotes:-quotes]
        return _ESCAPE.sub(replaced, inside)

    # ----------------------------------------------------------------------- operators

    def binary(self, values: Values, start: int, end: int) -> syntax.Binary:
        left, token, right = values
        operator = _ASCII.get(token.text, token.text)
        return syntax.Binary(operator, left, right, self.span(start, end), self.span(token.start, token.end))

    power = binary

    def unary(self, values: Values, start: int, end: int) -> syntax.Unary:
        return syntax.Unary(values[0].text, values[1], self.span(start, end))

    def comparison(self, values: Values, start: int, end: int) -> syntax.Comparison:
        operators = tuple(_ASCII.get(token.text, token.text) for token in values[1::2])
        return syntax.Comparison(tuple(values[::2]), operators, self.span(start, end))

    def lambda_(self, values: Values, start: int, end: int) -> syntax.Lambda:
        given, body = values
        if isinstance(given, syntax.Sequence):
            parameters = given.items
        else:
            parameters = (self.to_name(given) if isinstance(given, Token) else given,)
        return syntax.Lambda(parameters, body, self.span(start, end))

    def pair(self, values: Values, start: int, end: int) -> syntax.Pair:
        return syntax.Pair(values[0], values[1], self.span(start, end))

    def pipe(self, values: Values, start: int, end: int) -> syntax.Pipe:
        value, token, function = values
        return syntax.Pipe(value, function, token.text == ".|>", self.span(start, end))

    def range(self, values: Values, start: int, end: int) -> syntax.Range:
        step = values[1] if len(values) == 3 else None
        return syntax.Range(values[0], step, values[-1], self.span(start, end))

    def interval(self, values: Values, start: int, end: int) -> syntax.Interval:
        return syntax.Interval(values[0], values[1], self.span(start, end))

    # ----------------------------------------------------------------------- after a value

    def call(self, values: Values, start: int, end: int) -> syntax.Call:
        arguments, keywords = split_arguments(values[1:])
        return syntax.Call(values[0], arguments, keywords, False, self.span(start, end))

    def broadcast(self, values: Values, start: int, end: int) -> syntax.Call:
        arguments, keywords = split_arguments(values[1:])
        return syntax.Call(values[0], arguments, keywords, True, self.span(start, end))

    def keyword(self, values: Values, start: int, end: int) -> syntax.Keyword:
        return syntax.Keyword(self.to_name(values[0]), values[1], self.span(start, end))

    def index(self, values: Values, start: int, end: int) -> syntax.Index:
        return syntax.Index(values[0], tuple(values[1:]), self.span(start, end))

    def colon(self, values: Values, start: int, end: int) -> syntax.Colon:
        return syntax.Colon(self.span(start, end))

    def axis(self, values: Values, start: int, end: int) -> syntax.Axis:
        return syntax.Axis(self.to_name(values[0]), values[1], self.span(start, end))

    def field(self, values: Values, start: int, end: int) -> syntax.Field:
        return syntax.Field(values[0], self.to_name(values[1]), self.span(start, end))

    def transpose(self, values: Values, start: int, end: int) -> syntax.Transpose:
        return syntax.Transpose(values[0], self.span(start, end))

    # ----------------------------------------------------------------------- several values

    def tuple(self, values: Values, start: int, end: int) -> syntax.Sequence:
        return syntax.Sequence(tuple(values), True, self.span(start, end))

    def list(self, values: Values, start: int, end: int) -> syntax.Sequence:
        return syntax.Sequence(tuple(values), False, self.span(start, end))

    def comprehension(self, values: Values, start: int, end: int) -> syntax.Comprehension:
        """With its brackets, or bare as the argument of a call."""
        value, *bindings = values
        condition = None if type(bindings[-1]) is syntax.Binding else bindings.pop()
        return syntax.Comprehension(value, tuple(bindings), condition, self.span(start, end))


_ESCAPE_HELP = r"the escapes are \" \\ \n \t and \u with four hexadecimal digits"


def split_arguments(values: Values) -> tuple[tuple[syntax.Expression, ...], tuple[syntax.Keyword, ...]]:
    """Arguments by position, and those by keyword."""
    for value in values:
        if type(value) is syntax.Keyword:
            break
    else:
        return tuple(values), ()
    positional = tuple(value for value in values if type(value) is not syntax.Keyword)
    return positional, tuple(value for value in values if type(value) is syntax.Keyword)


def _normal(text: str) -> str:
    """The composed form (NFC), so that ĥ in one character and in two is one name."""
    from unicodedata import normalize

    return normalize("NFC", text)
