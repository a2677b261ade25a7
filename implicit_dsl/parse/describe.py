"""Says what is wrong where a token does not fit: the cause where it can be found, and a way out."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.fixes import replacing
from implicit_dsl.parse import hints
from implicit_dsl.parse.tables import END_OF_FILE, NEWLINE
from implicit_dsl.parse.tokens import CONTINUING, DEEPEST, OPENING, TOO_DEEP, Token
from implicit_dsl.source import Source, Span

_BLOCKS = frozenset(("model", "block", "recurrent", "ode", "for", "if"))
_UNCLOSED = {
    "UNCLOSED_STRING": ("string", '"', 'a string ends on its line, with `"`'),
    "UNCLOSED_DOC": ("doc comment", '"""', 'a doc comment ends with `"""`'),
    "UNCLOSED_COMMENT": ("comment", "#=", "a comment that begins with `#=` ends with `=#`"),
}


class Problem(NamedTuple):
    """A token that does not fit. `expected` is what would have fitted at `position`."""

    tokens: list[Token]
    position: int
    token: Token
    expected: Collection[str]

    @property
    def before(self) -> Token | None:
        return self.tokens[self.position - 1] if self.position else None

    def statement(self) -> list[Token]:
        """The tokens of the statement up to the problem."""
        first = self.position
        while first and self.tokens[first - 1].kind != NEWLINE:
            first -= 1
        return self.tokens[first : self.position]


def describe(source: Source, problem: Problem) -> Diagnostic:
    token = problem.token
    span = source.span(token.start, token.end)
    if token.kind == TOO_DEEP:
        return _too_deep(span)
    if token.kind in _UNCLOSED:
        what, opening, help_text = _UNCLOSED[token.kind]
        opened = source.span(token.start, token.start + len(opening))
        return Diagnostic("E0008", f"this {what} is not closed", opened, "it begins here", help=help_text)
    if token.kind == "STRANGE":
        return _strange(token, span)
    if token.kind == END_OF_FILE or (token.kind in ("model", "block") and "end" in problem.expected):
        return _missing_end(source, problem)
    if token.kind == NEWLINE:
        return _end_of_line(source, problem)
    return _unexpected(source, problem)


def _too_deep(span: Span) -> Diagnostic:
    return Diagnostic(
        "E0005",
        "nested too deeply",
        span._replace(end=min(span.end, span.start + 20)),
        f"more than {DEEPEST} levels",
        help="give parts of it names of their own: `part = ...`",
    )


def _strange(token: Token, span: Span) -> Diagnostic:
    character = token.text
    shown = "back quote" if character == "`" else f"`{character}`" if character.isprintable() else ""
    if not character.isascii() or not shown:
        from unicodedata import name

        title = name(character, "") or hints.CONTROLS.get(character, "no character")
        shown = f"{shown} U+{ord(character):04X}, {title}".lstrip()
    meant = hints.REPLACED.get(character)
    return Diagnostic(
        "E0001",
        f"unexpected character {shown}",
        span,
        help=hints.CHARACTERS.get(character, ""),
        fixes=() if meant is None else replacing(span, meant),
    )


# --------------------------------------------------------------------------- something is missing


def _missing_end(source: Source, problem: Problem) -> Diagnostic:
    token = problem.token
    opener, mate = _open_block(source, problem)
    if opener is None:
        return Diagnostic(
            "E0004", "the file ends in the middle of a statement", source.span(token.start, token.end)
        )
    labels: tuple[Label, ...] = ()
    if mate is not None:
        labels = (
            Label(
                source.span(mate.start, mate.end), "this `end` closes it, but lines up with an outer block"
            ),
        )
    elif token.kind != END_OF_FILE:
        labels = (Label(source.span(token.start, token.end), f"`{token.text}` cannot stand inside it"),)
    message = f"`{opener.kind}` is never closed: an `end` is missing"
    return Diagnostic("E0003", message, source.span(opener.start, opener.end), labels=labels)


def _open_block(source: Source, problem: Problem) -> tuple[Token | None, Token | None]:
    """The block that lacks its `end`, and the `end` that was taken for it.

    Indentation decides: an `end` that lines up with an outer block means that the inner
    one was left open.
    """
    blocks: list[Token] = []
    blame: tuple[Token, Token] | None = None
    line_start = True
    for token in problem.tokens[: problem.position]:
        if line_start and token.kind in _BLOCKS:
            blocks.append(token)
        elif line_start and token.kind == "end" and blocks:
            opener = blocks.pop()
            if blame is None and _column(source, opener) > _column(source, token):
                blame = opener, token
        line_start = token.kind in (NEWLINE, ";")
    if blocks and blame:
        return blame
    return (blocks[-1] if blocks else None), None


def _column(source: Source, token: Token) -> int:
    return source.locate(token.start)[1]


def _end_of_line(source: Source, problem: Problem) -> Diagnostic:
    token, before = problem.token, problem.before
    unclosed = _unclosed_bracket(problem.statement())
    if unclosed is not None:
        closing = OPENING[unclosed.kind]
        span = source.span(unclosed.end - 1, unclosed.end)
        labels = (Label(source.span(token.start, token.start), f"`{closing}` is missing"),)
        return Diagnostic("E0002", f"`{unclosed.text[-1]}` is never closed", span, "opened here", labels)
    if before is not None and before.kind in (",", ":"):
        span = source.span(before.start, before.end)
        help_text = hints.COMMA if before.kind == "," else hints.COLON
        message = f"unexpected `{before.kind}` at the end of the line"
        return Diagnostic("E0000", message, span, help=help_text, fixes=replacing(span, ""))
    last = problem.tokens[problem.position + 1].kind == END_OF_FILE
    span = source.span(token.start, token.start)
    if last and before is not None and before.kind in CONTINUING:
        span = source.span(before.start, before.end)
        return Diagnostic(
            "E0004", "the file ends in the middle of a statement", span, "something must follow this"
        )
    if before is not None and before.kind in CONTINUING:
        span = source.span(before.start, before.end)
        return Diagnostic("E0000", "this statement is not complete", span, "something must follow this")
    return Diagnostic("E0000", "unexpected end of line", span, help=hints.help_for_end(problem.statement()))


def _unclosed_bracket(statement: list[Token]) -> Token | None:
    opened: list[Token] = []
    for token in statement:
        if token.kind in OPENING:
            opened.append(token)
        elif opened and token.kind == OPENING[opened[-1].kind]:
            opened.pop()
    return opened[-1] if opened else None


# --------------------------------------------------------------------------- something is there


def _unexpected(source: Source, problem: Problem) -> Diagnostic:
    token = problem.token
    labels: tuple[Label, ...] = ()
    last = problem.tokens[problem.position + 1].kind == NEWLINE
    help_text = hints.help_for(problem.statement(), token, last, problem.expected)
    joint = _joint(source, problem.statement(), token)
    if joint is not None:
        labels = (Label(source.span(joint.start, joint.end), "so the statement goes on in the next line"),)
    elif token.kind in (")", "]"):
        opened = _unclosed_bracket(problem.statement())
        if opened is None:
            help_text = f"there is no open bracket for this `{token.kind}`"
        else:
            labels = (Label(source.span(opened.end - 1, opened.end), "opened here"),)
            help_text = (
                help_text if OPENING[opened.kind] == token.kind else f"close it with `{OPENING[opened.kind]}`"
            )
    shown = "doc comment" if token.kind == "DOCSTRING" else f"`{_shortened(token.text)}`"
    span = source.span(token.start, token.end)
    edit = hints.edit_for(problem.statement(), token, last)
    fixes = replacing(source.span(*edit[:2]), edit[2]) if edit else ()
    return Diagnostic("E0000", f"unexpected {shown}", span, "", labels, help=help_text, fixes=fixes)


def _joint(source: Source, statement: list[Token], token: Token) -> Token | None:
    """The operator that ends the line above `token`, if that is why the statement reaches it."""
    for before in reversed(statement):
        if "\n" in source.text[before.end : token.start]:
            return before if before.kind in CONTINUING else None
        if before.kind in OPENING or before.kind in (")", "]"):
            return None
        token = before
    return None


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
