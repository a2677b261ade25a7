"""From tokens to lines: where blocks are indented, and where blank lines stand."""

from __future__ import annotations

from implicit_dsl.formatting.alignment import align
from implicit_dsl.formatting.docstrings import docstring
from implicit_dsl.formatting.documents import INDENT, Compound, Document, Row, add_comment, render
from implicit_dsl.formatting.pieces import Tokens
from implicit_dsl.formatting.spelling import Spelling
from implicit_dsl.formatting.statements import Statements
from implicit_dsl.formatting.trivia import Gap, Remark, column_of, gap, shifted
from implicit_dsl.parse.reader import Reader
from implicit_dsl.parse.report import Report
from implicit_dsl.parse.tables import language
from implicit_dsl.parse.tokens import tokenize
from implicit_dsl.source import Source
from implicit_dsl.vocabulary import DECLARATIONS, MIDDLE, OPENING, TEMPLATES

_DOCUMENTED = TEMPLATES | DECLARATIONS
_DOCSTRING = "DOCSTRING"
_ENDED = "end of "


def layout(source: Source, spelling: Spelling) -> str:
    """The text laid out once. It must have no errors in its syntax."""
    tables = language()
    tokens = Tokens(source.text, tokenize(source.text, tables), spelling)
    statements = Statements(tokens)
    Reader(tables, tokens.tokens, statements, Report(source)).read()
    rows = _Page(tokens, statements.lines).rows()
    align(rows)
    return "".join(_written(row) + "\n" for row in rows)


def _written(row: Row) -> str:
    code = " " * row.indent + row.code if row.code else ""
    if not row.comments:
        return code.rstrip(" ")
    comment = " ".join(row.comments)
    return f"{code}  {comment}" if code else " " * row.indent + comment


class _Page:
    """The statements of a file, one after another."""

    def __init__(self, tokens: Tokens, lines: dict[int, Document]) -> None:
        self.tokens, self.lines = tokens, lines
        apart = tokens.separators
        self.firsts = [n for n in range(len(tokens.tokens)) if n not in apart and (not n or n - 1 in apart)]
        self.written: list[Row] = []
        self.blocks: list[str] = []  # how those that are open begin
        self.previous = ""  # how the statement before begins, or the block that it ends

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def rows(self) -> list[Row]:
        ended = 0  # where the statement before ends in the source
        for place, first in enumerate(self.firsts):
            kind, following = self._kind(place), self._kind(place + 1)
            ahead = self._between(gap(self.tokens.text, ended, self._start(first)), first, kind, following)
            self._statement(first, kind, ahead)
            ended = self._end(first)
        rest = self._close_line(gap(self.tokens.text, ended, len(self.tokens.text)).remarks)
        self._own_lines(rest, [0] * len(rest), [remark.lines_before > 1 for remark in rest])
        return self.written

    def _kind(self, place: int) -> str:
        return self.tokens.kind(self.firsts[place]) if place < len(self.firsts) else ""

    def _start(self, number: int) -> int:
        return self.tokens.tokens[number].start

    def _end(self, number: int) -> int:
        """Where the statement that begins with a token ends."""
        while number + 1 not in self.tokens.separators:
            number += 1
        return self.tokens.tokens[number].end

    def _statement(self, first: int, kind: str, ahead: str) -> None:
        ended = self.blocks.pop() if kind == "end" else ""
        indent = (self.depth - (kind in MIDDLE)) * INDENT
        if kind == _DOCSTRING:
            self.written.append(Row(indent, ahead + docstring(self.tokens.tokens[first].text, indent)))
        else:
            behind = indent + INDENT if kind in OPENING or kind in MIDDLE else indent
            made = render(Compound((ahead, self.lines.get(first, "end"))), indent, behind)
            made[0].whole = len(made) == 1
            self.written += made
        if kind in OPENING:
            self.blocks.append(kind)
        self.previous = _ENDED + ended if ended else kind

    # ----------------------------------------------------------------------- between statements

    def _between(self, found: Gap, first: int, kind: str, following: str) -> str:
        """Write comments and blank lines; returns the comments that go ahead of the statement in its line."""
        remarks, ahead = found.split()
        remarks = self._close_line(remarks)
        blanks = [remark.lines_before > 1 for remark in remarks]
        blanks.append((ahead[0].lines_before if ahead else found.lines_after) > 1)
        if self._apart(kind, following) and not any(blanks):
            blanks[0] = True
        if kind == "end" or kind in MIDDLE or (self._documents(kind) and not remarks):
            blanks[-1] = False
        if not self.previous or self.previous in OPENING or self.previous in MIDDLE:
            blanks[0] = False
        self._own_lines(remarks, [self._indent(remark, first, kind) for remark in remarks], blanks)
        if blanks[-1]:
            self.written.append(Row(0))
        return "".join(f"{remark.text} " for remark in ahead)

    def _documents(self, kind: str) -> bool:
        """Whether the statement before is the docstring of this one."""
        return self.previous == _DOCSTRING and kind in _DOCUMENTED

    def _apart(self, kind: str, following: str) -> bool:
        """Whether a blank line has to stand before a statement: models and blocks stand alone."""
        if self.depth or self._documents(kind):
            return False
        begins = kind in TEMPLATES or (kind == _DOCSTRING and following in TEMPLATES)
        return begins or self.previous.removeprefix(_ENDED) in TEMPLATES

    def _indent(self, remark: Remark, first: int, kind: str) -> int:
        """A comment belongs to the body that it stands in; before `else` it is its column that tells."""
        outside = kind in MIDDLE and remark.column <= column_of(self.tokens.text, self._start(first))
        return (self.depth - outside) * INDENT

    def _close_line(self, remarks: tuple[Remark, ...]) -> tuple[Remark, ...]:
        """Put what stands behind a statement there; returns the comments on lines of their own."""
        for place, remark in enumerate(remarks):
            if remark.lines_before or not self.written or not add_comment(self.written[-1], remark.text):
                return remarks[place:]
        return ()

    def _own_lines(self, remarks: tuple[Remark, ...], indents: list[int], blanks: list[bool]) -> None:
        for remark, indent, blank in zip(remarks, indents, blanks):
            if blank and self.written:
                self.written.append(Row(0))
            text = shifted(remark.text, indent - remark.column) if remark.lines_before else remark.text
            if remark.lines_before or not self.written or not add_comment(self.written[-1], text):
                self.written.append(Row(indent, comments=[text]))
