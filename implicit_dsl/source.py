"""Where text came from: a `Source` is a named text, a `Span` a stretch of it."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple


class Source:
    """A program text and the name that diagnostics show for it.

    Immutable by convention; compared by identity, so that spans stay cheap to hash.
    `path` is where the text was read from (relative imports start there), or None
    for standard input and for strings. `title` is what comments in generated files call an
    imported file, the same on each machine; it is '' for the program itself.
    """

    __slots__ = ("_starts", "name", "path", "text", "title")

    def __init__(self, text: str, name: str = "<string>", path: str | None = None, title: str = "") -> None:
        self.text = text
        self.name = name
        self.path = path
        self.title = title
        self._starts: list[int] | None = None

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {len(self.text)} characters)"

    def _line_starts(self) -> list[int]:
        if self._starts is None:
            starts, position = [0], self.text.find("\n")
            while position >= 0:
                starts.append(position + 1)
                position = self.text.find("\n", position + 1)
            self._starts = starts
        return self._starts

    def locate(self, offset: int) -> tuple[int, int]:
        """Line and column (both from 1, in code points) of a character offset."""
        starts = self._line_starts()
        line = bisect_right(starts, offset)
        return line, offset - starts[line - 1] + 1

    def line_text(self, line: int, first: int = 0, most: int | None = None) -> str:
        """The text of a line (from 1), without its ending; of a long one `most` characters from `first`."""
        starts = self._line_starts()
        start = starts[line - 1] + first
        end = starts[line] - 1 if line < len(starts) else len(self.text)
        return self.text[start : end if most is None else min(end, start + most)].rstrip("\r")

    def span(self, start: int, end: int) -> Span:
        return Span(self, start, end)


class Span(NamedTuple):
    """Characters `start` up to (not including) `end` of a source."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.source.locate(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.locate(self.start)[1]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    @property
    def where(self) -> str:
        """`file:line:column`, as editors understand it."""
        line, column = self.source.locate(self.start)
        return f"{self.source.name}:{line}:{column}"

    def to(self, other: Span) -> Span:
        """The stretch from the start of this span to the end of `other`."""
        return Span(self.source, self.start, max(self.end, other.end))
