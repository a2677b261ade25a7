"""Collects what is wrong with a text, so that one cause gives one message."""

from __future__ import annotations

from implicit_dsl.errors import MOST_SHOWN, Diagnostic
from implicit_dsl.parse import hints
from implicit_dsl.parse.describe import Problem, describe
from implicit_dsl.parse.tables import END_OF_FILE
from implicit_dsl.parse.tokens import TOO_DEEP
from implicit_dsl.source import Source, Span


class Report:
    """The diagnostics so far: one for each line, as a second is mostly an echo of the first."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[Diagnostic] = []
        self._lines: set[int] = set()
        self._deep_start = len(source.text)
        self._lost_headers = 0
        self._swallowed = False

    def add(self, diagnostic: Diagnostic) -> None:
        """Report what is wrong with a piece that could be read."""
        if len(self.found) < MOST_SHOWN and self._is_first(diagnostic.span.start):
            self.found.append(diagnostic)

    def stray_end(self, span: Span) -> None:
        if self._lost_headers:
            self._lost_headers -= 1  # its header is what was misspelt
            return
        help_text = "remove this `end`, or look above for one too many"
        self.add(Diagnostic("E0000", "unexpected `end`", span, "nothing is open here", help=help_text))

    def misfit(self, problem: Problem) -> None:
        """Report a token that does not fit."""
        token = problem.token
        if token.kind == TOO_DEEP:
            outer = token.start <= self._deep_start < token.end
            self._deep_start = token.start
            if outer:  # around what has been reported
                return
        if token.kind == END_OF_FILE and self._swallowed:
            return  # an `end` that is missing is in the comment
        self._swallowed = self._swallowed or token.kind in ("UNCLOSED_DOC", "UNCLOSED_COMMENT")
        if len(self.found) < MOST_SHOWN and self._is_first(token.start):
            self._lost_headers += hints.loses_a_header(problem.statement(), token)
            diagnostic = describe(self.source, problem)
            self._is_first(diagnostic.span.start)
            self.found.append(diagnostic)

    def _is_first(self, offset: int) -> bool:
        line = self.source.locate(offset)[0]
        if line in self._lines:
            return False
        self._lines.add(line)
        return True
