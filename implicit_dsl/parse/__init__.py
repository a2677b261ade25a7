"""From source text to a Program: every statement that can be read, and what is wrong with the others."""

from __future__ import annotations

from implicit_dsl._collector import collector_at_rest
from implicit_dsl.errors import Diagnostic
from implicit_dsl.parse.build import Build
from implicit_dsl.parse.reader import Reader
from implicit_dsl.parse.report import Report
from implicit_dsl.parse.tables import language
from implicit_dsl.parse.tokens import tokenize
from implicit_dsl.source import Source
from implicit_dsl.syntax import Program

__all__ = ["parse"]


def parse(source: Source) -> tuple[Program, tuple[Diagnostic, ...]]:
    """Read a program. Bad text never raises: it is reported, and the rest is read all the same."""
    report = Report(source)
    tables = language()
    with collector_at_rest():
        tokens = tokenize(source.text, tables)
        program: Program = Reader(tables, tokens, Build(source, report), report).read()
    return program, tuple(sorted(report.found, key=lambda d: d.span.start))
