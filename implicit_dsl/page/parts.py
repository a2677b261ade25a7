"""What a page is made of: sections of a few kinds of parts, which the template prints one after another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

LARGE = 640  # pixels of a picture beyond which a telephone cannot show it whole

Row: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Short pairs of a name and what it is."""

    kind: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a header; `right` are the numbers of columns that hold numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    header: Row
    rows: tuple[Row, ...]
    right: frozenset[int] = frozenset()
    wide: bool = False  # keeps its lines whole, and scrolls where they do not fit

    def without_empty(self) -> Table:
        """The same without columns that say nothing in any row."""
        kept = [at for at in range(len(self.header)) if any(row[at] for row in self.rows)]
        rows = tuple(tuple(row[at] for at in kept) for row in self.rows)
        right = frozenset(new for new, old in enumerate(kept) if old in self.right)
        return Table(self.caption, tuple(self.header[at] for at in kept), rows, right, self.wide)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence; `tone` is plain, good, bad, or missing, for what has no answer and why."""

    kind: ClassVar[str] = "note"
    text: str
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class Lines:
    """Text that keeps its lines."""

    kind: ClassVar[str] = "lines"
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """How colours stand for values, from `low` to `high`; `signed`: with zero in between."""

    low: str
    high: str
    signed: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG picture, whose text is escaped already.

    `grid` says what lies under a point, if that is known. One that is `zoomed` can be moved and enlarged.
    """

    kind: ClassVar[str] = "figure"
    svg: str
    label: str  # what it shows, for those who do not see it
    caption: str
    zoomed: bool = False
    large: bool = False  # too wide for a telephone: scrolled there rather than shrunk beyond reading
    paper: bool = False  # drawn in the colours of paper, which a dark page turns round
    scale: Scale | None = None
    grid: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """One small picture of pixels among others, as the text of a link to itself."""

    title: str
    href: str
    width: int  # in pixels of the page
    height: int


@dataclass(frozen=True, slots=True)
class Gallery:
    """Small pictures side by side."""

    kind: ClassVar[str] = "gallery"
    pictures: tuple[Picture, ...]
    caption: str
    scale: Scale | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """A program: lines of pieces, each with the class of its highlighting and its text."""

    kind: ClassVar[str] = "code"
    name: str
    lines: tuple[tuple[tuple[str, str], ...], ...]
    shown: bool = True  # or folded


Part: TypeAlias = Facts | Table | Note | Lines | Figure | Gallery | Code


@dataclass(frozen=True, slots=True)
class Section:
    """One heading of the page, what it is about in a sentence or two, and its parts."""

    id: str
    title: str
    about: str
    parts: tuple[Part, ...] = field(default=())
