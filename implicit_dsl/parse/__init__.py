"""From source text to a Program: every statement that can be read, and what is wrong with the others."""

from __future__ import annotations

from implicit_dsl.errors import MOST_SHOWN, Diagnostic
from implicit_dsl.parse.build import Build
from implicit_dsl.parse.describe import Problem, describe
from implicit_dsl.parse.reader import Reader
from implicit_dsl.parse.tables import tables
from implicit_dsl.parse.tokens import tokenize
from implicit_dsl.source import Source
from implicit_dsl.syntax import Program

__all__ = ["parse"]


def parse(source: Source) -> tuple[Program, tuple[Diagnostic, ...]]:
    """Read a program. Bad text never raises: it is reported, and the rest is read all the same."""
    report = _Report(source)
    language = tables()
    reader = Reader(language, tokenize(source.text, language), Build(source, report.add), report.complain)
    program = reader.read()
    return program, tuple(sorted(report.found, key=lambda d: d.span.start))


class _Report:
    """Collects diagnostics: one for each line, as a second is mostly an echo of the first."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[Diagnostic] = []
        self._lines: set[int] = set()

    def add(self, diagnostic: Diagnostic) -> None:
        line = diagnostic.span.line
        if len(self.found) < MOST_SHOWN and line not in self._lines:
            self._lines.add(line)
            self.found.append(diagnostic)

    def complain(self, problem: Problem) -> None:
        line = self.source.locate(problem.token.start)[0]
        if len(self.found) < MOST_SHOWN and line not in self._lines:
            self._lines.add(line)
            diagnostic = describe(self.source, problem)
            self._lines.add(diagnostic.span.line)
            self.found.append(diagnostic)
