"""Columns of text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from implicit_dsl.cli.messages import dim

_GAP = 2
_SHORTEST = 12  # columns that are left of a long cell
WIDTH = 100  # of text that goes to a file


def table(rows: Sequence[Sequence[str]], header: Sequence[str], right: str = "", long: str = "") -> str:
    """Rows in columns below a header; columns named in `right` are flush right, empty ones left out.

    Where the terminal is too narrow, cells of the columns in `long` are cut first, in that order.
    """
    kept = [at for at in range(len(header)) if any(row[at] for row in rows)]
    names = [header[at] for at in kept]
    cells = [[printable(row[at]) for at in kept] for row in rows]
    widths = [max(map(columns, column)) for column in zip(names, *cells)] if rows else []
    most = _terminal_width()
    for name in long.split() if most else ():
        excess = sum(widths) + _GAP * len(widths) - most
        if excess > 0 and name in names:
            at = names.index(name)
            widths[at] = max(min(widths[at], _SHORTEST), widths[at] - excess)
            cells = [[*row[:at], _cut(row[at], widths[at]), *row[at + 1 :]] for row in cells]
    flush = [name in right.split() for name in names]
    lines = [_line(row, widths, flush) for row in (names, *cells)]
    if most:
        lines = [_cut(line, most) for line in lines]
    return "\n".join((dim(lines[0]), *lines[1:]))


def _line(row: Sequence[str], widths: Sequence[int], flush: Sequence[bool]) -> str:
    padded = []
    for cell, width, to_right in zip(row, widths, flush):
        blank = " " * (width - columns(cell))
        padded.append(blank + cell if to_right else cell + blank)
    return (" " * _GAP + (" " * _GAP).join(padded)).rstrip()


def printable(text: str) -> str:
    """Text of the user on one line, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)


def _cut(line: str, most: int) -> str:
    if columns(line) <= most:
        return line
    while columns(line) >= most:
        line = line[:-1]
    return line.rstrip(" …") + "…"


def width() -> int:
    """The columns that text is wrapped to."""
    return _terminal_width() or WIDTH


def _terminal_width() -> int:
    """The width of the terminal, or 0 where output goes to a file: there nothing is cut."""
    if sys.stdout is None or not sys.stdout.isatty():
        return 0
    import shutil

    return shutil.get_terminal_size().columns
