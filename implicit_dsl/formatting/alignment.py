"""What stands below one another in neighbouring lines: comments, and signs where the source has it so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias

from implicit_dsl.formatting.documents import WIDTH, Row
from implicit_dsl.vocabulary import DECLARATIONS

_BEFORE_COMMENT = 2

Key: TypeAlias = tuple[object, ...] | None


def align(rows: list[Row]) -> None:
    """Widen the blanks before signs and comments, in place. A run whose lines would be too long is left."""
    for run in _runs(rows, _statement):
        if _aligned_in_the_source(run):
            _align_signs(run)
    for run in _runs(rows, _commented):
        _align_comments(run)


def _runs(rows: list[Row], key: Callable[[Row], Key]) -> Iterator[list[Row]]:
    """Neighbours of one key."""
    run: list[Row] = []
    last: Key = None
    for row in rows:
        found = key(row)
        if found is None or found != last:
            yield run
            run = []
        if found is not None:
            run.append(row)
        last = found
    yield run


def _statement(row: Row) -> Key:
    """What lines must have in common for their signs to be aligned."""
    if not row.whole or len(row.signs) != 1:
        return None
    word = row.code.split(" ", 1)[0]
    keyword = word if word in DECLARATIONS else ""
    return row.indent, row.signs[0][0].text, keyword


def _aligned_in_the_source(run: list[Row]) -> bool:
    """Whether the signs of two neighbours stand below one another, and not by chance: behind a wide space."""
    signs = [row.signs[0][0] for row in run]
    return any(one.column == two.column and (one.wide or two.wide) for one, two in pairwise(signs))


def _align_signs(run: list[Row]) -> None:
    column = max(row.signs[0][1] for row in run)
    longest = max(row.indent + len(row.code) + column - row.signs[0][1] for row in run)
    if longest > WIDTH:
        return
    for row in run:
        at = row.signs[0][1]
        row.code = row.code[:at] + " " * (column - at) + row.code[at:]


def _commented(row: Row) -> Key:
    if not row.code or not row.comments or "\n" in "".join((row.code, *row.comments)):
        return None
    return ()


def _align_comments(run: list[Row]) -> None:
    column = max((row.indent + len(row.code) for row in run), default=0) + _BEFORE_COMMENT
    fits = all(column + len(" ".join(row.comments)) <= WIDTH for row in run)
    for row in run:
        if fits:
            row.code += " " * (column - _BEFORE_COMMENT - row.indent - len(row.code))
