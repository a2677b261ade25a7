"""From text to tokens, and the rule that says which newlines end a statement."""

from __future__ import annotations

from typing import NamedTuple

from implicit_dsl.parse.tables import END_OF_FILE, NEWLINE, Tables
from implicit_dsl.vocabulary import BLOCKS, CONTROL, DECLARATIONS

DEEPEST = 100  # nesting beyond this is refused, so that no later stage runs out of stack
TOO_DEEP = "TOO_DEEP"

# A keyword that cannot stand inside an expression: at the start of a line it begins a statement,
# whatever was left open above it.
STATEMENTS = (BLOCKS | DECLARATIONS | CONTROL | {"ANNOTATION", "ANNOTATION_CALL"}) - {"for", "if"}
OPENING = {"(": ")", ".(": ")", "ANNOTATION_CALL": ")", "[": "]"}
CLOSING = frozenset(")]")

# A statement goes on after these. Not after `:`, which ends many a line by habit.
CONTINUING = frozenset(
    (
        ",",
        "=",
        "~",
        "->",
        "=>",
        "||",
        "&&",
        "!",
        "|>",
        ".|>",
        "..",
        "in",
        "∈",
        "SUM",
        "PRODUCT",
        "POWER",
        "COMPARISON",
    )
)
# A comma at the end of a line continues only these; after an equation it is a slip.
_LISTING = frozenset(
    ("input", "output", "state", "param", "layer", "import", "for", "recurrent", "ANNOTATION")
)
_PIPES = frozenset(("|>", ".|>"))


class Token(NamedTuple):
    """`kind` is the text itself for keywords and punctuation, else the name of the terminal."""

    kind: str
    text: str
    start: int
    end: int


def tokenize(text: str, tables: Tables) -> list[Token]:
    """All tokens; newlines that do not end a statement are left out.

    The last two are always a newline and the end of the file.
    """
    tokens = _lex(text, tables)
    return _layout(tokens, _pair_brackets(tokens))


def _lex(text: str, tables: Tables) -> list[Token]:
    """The tokens as written. Blank lines, and lines with a comment only, count as one newline."""
    groups, fixed = tables.groups, tables.fixed
    tokens: list[Token] = []
    append, make = tokens.append, tuple.__new__
    previous = NEWLINE
    start = 1 if text.startswith("\ufeff") else 0
    for match in tables.pattern.finditer(text, start):
        group = match.lastindex
        assert group is not None
        piece = match[group]
        kind = piece if piece in fixed else groups[group]
        if kind == NEWLINE and previous == NEWLINE:
            continue
        previous = kind
        if kind == END_OF_FILE:
            break
        append(make(Token, (kind, piece, *match.span(group))))
    end = len(text)
    if previous != NEWLINE:
        append(Token(NEWLINE, "", end, end))
    append(Token(END_OF_FILE, "", end, end))
    return tokens


def _pair_brackets(tokens: list[Token]) -> bytearray:
    """Mark the brackets that have a partner. An opening bracket nested too deeply becomes TOO_DEEP.

    A bracket without a partner must not swallow newlines: the error then stays on its line.
    """
    paired = bytearray(len(tokens))
    unclosed: list[tuple[int, str]] = []
    lines: dict[str, list[int]] = {")": [], "]": []}  # of the unclosed brackets, by what closes them
    too_deep: list[int] = []
    line, line_start = 0, True
    for index, token in enumerate(tokens):
        kind = token.kind
        if line_start and unclosed and kind in STATEMENTS:
            unclosed, lines = [], {")": [], "]": []}
        line_start = kind == NEWLINE
        line += line_start
        if kind in OPENING:
            closing = OPENING[kind]
            unclosed.append((index, closing))
            lines[closing].append(line)
            if len(unclosed) == DEEPEST + 1:
                too_deep.append(index)
        elif kind in CLOSING and lines[kind]:
            if unclosed[-1][1] != kind and lines[kind][-1] != line:
                continue  # rather the wrong bracket here than the partner of one far above
            opening, closing = unclosed.pop()
            lines[closing].pop()
            while closing != kind:
                opening, closing = unclosed.pop()
                lines[closing].pop()
            paired[opening] = paired[index] = 1
    for index in too_deep:
        tokens[index] = tokens[index]._replace(kind=TOO_DEEP)
    return paired


def _layout(tokens: list[Token], paired: bytearray) -> list[Token]:
    """Leave out the newlines inside brackets, after an operator or a comma, and before `|>`."""
    kept: list[Token] = []
    append = kept.append
    depth = 0
    previous = first = NEWLINE
    for index, token in enumerate(tokens):
        kind = token.kind
        if kind == NEWLINE:
            following = tokens[index + 1].kind
            ends = following in STATEMENTS or following == END_OF_FILE
            goes_on = previous in CONTINUING and (previous != "," or first in _LISTING)
            if not ends and (depth or goes_on or following in _PIPES):
                continue
        elif paired[index]:
            depth += -1 if kind in CLOSING else 1
        if previous == NEWLINE:
            first = kind
        append(token)
        previous = kind
    return kept
