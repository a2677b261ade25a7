from __future__ import annotations
from collections.abc import Collection
from typing import NamedTuple
from implicit_dsl.errors import Diagnostic
from implicit_dsl.source import Source
from implicit_dsl.parse.tokens import Token

class Problem(NamedTuple):
    """A token that does not fit, where it stands, and what would have."""

    tokens: list[Token]
    index: int
    token: Token
    expected: Collection[str]

def describe(source: Source, problem: Problem) -> Diagnostic:
    t = problem.token
    return Diagnostic("E0000", f"unexpected {t.kind}", source.span(t.start, t.end))
