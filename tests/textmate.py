"""TextMate grammars, applied line by line as editors do: what tests need of them, with Python's `re`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """A stretch of text and its innermost scope; '' if the grammar says nothing about it."""

    text: str
    scope: str


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def pieces(grammar: dict[str, Any], text: str) -> list[Piece]:
    """The text, cut where scopes change."""
    stack: list[dict[str, Any]] = []
    return [piece for line in text.split("\n") for piece in _line(grammar, stack, line) if piece.text]


def _line(grammar: dict[str, Any], stack: list[dict[str, Any]], line: str) -> Iterator[Piece]:
    at = 0
    while True:
        scope = stack[-1]["name"] if stack else ""
        rules = stack[-1].get("patterns", []) if stack else grammar["patterns"]
        found = [(_compiled(rule.get("match") or rule["begin"]).search(line, at), rule) for rule in rules]
        matches = [(match, rule) for match, rule in found if match]
        end = _compiled(stack[-1]["end"]).search(line, at) if stack else None
        first = min((match.start() for match, _ in matches), default=len(line) + 1)
        if end and end.start() <= first:
            yield Piece(line[at : end.start()], scope)
            yield Piece(end[0], scope)
            stack.pop()
            at = end.end()
            continue
        if not matches:
            yield Piece(line[at:], scope)
            return
        match, rule = next(one for one in matches if one[0].start() == first)
        yield Piece(line[at : match.start()], scope)
        if "begin" in rule:
            yield Piece(match[0], rule["name"])
            stack.append(rule)
        else:
            yield from _captured(match, rule)
        assert match.end() > at or match.start() > at, f"`{match.re.pattern}` takes nothing"
        at = match.end()


def _captured(match: re.Match[str], rule: dict[str, Any]) -> Iterator[Piece]:
    at = match.start()
    for number, capture in sorted(rule.get("captures", {}).items()):
        start, end = match.span(int(number))
        yield Piece(match.string[at:start], rule.get("name", ""))
        yield Piece(match.string[start:end], capture["name"])
        at = end
    yield Piece(match.string[at : match.end()], rule.get("name", ""))
