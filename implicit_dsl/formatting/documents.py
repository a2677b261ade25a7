"""Text with places where it may be broken, and the choice of these for a line width.

After Wadler's "A prettier printer" (2003), as Prettier builds upon it: a group stands on one line if it
fits, or else is broken at all of its own places. Nothing here knows the language. A document
is a string or one of the classes below; it is made from the inside to the outside and drawn with a stack of
our own, so that deep nesting costs no recursion.

A comment is kept until the line ends, wherever that is: it can make no code a part of itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

WIDTH = 110
INDENT = 4


@dataclass(frozen=True, slots=True)
class Break:
    """A place for a line break; `flat` is what stands there without one.

    `always`: the line ends here. `closing`: the next line is further out than comments ahead of it.
    """

    flat: str = " "
    always: bool = False
    closing: bool = False


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment inside a statement, at the end of a line or on lines of its own."""

    text: str
    own_line: bool


@dataclass(frozen=True, slots=True)
class Inline:
    """A block comment ahead of the next text; at the end of the line if there are others already."""

    text: str


@dataclass(frozen=True, slots=True)
class Sign:
    """The `=` or `~` of a statement, and its column in the source if it stands there after a wide space."""

    text: str
    column: int
    wide: bool


@dataclass(frozen=True, slots=True)
class IfBroken:
    """Text that stands only where the group around it is broken."""

    text: str


class Compound:
    """Several documents.

    `forced` says that a line must end within, `commented` that one must end just behind, for a comment;
    `silent` are those without any text.
    """

    __slots__ = ("commented", "forced", "parts", "silent")

    def __init__(self, parts: Iterable[Document]) -> None:
        self.parts = tuple(parts)
        self.forced = self.commented = False
        self.silent = True
        for part in self.parts:
            if isinstance(part, Comment):
                self.commented = True
            elif isinstance(part, Compound) and part.silent:
                self.commented |= part.commented
            elif part != "":
                inner = part if isinstance(part, Compound) else None
                always = isinstance(part, Break) and part.always
                self.forced |= self.commented or always or bool(inner and inner.forced)
                self.commented = bool(inner and inner.commented)
                self.silent = False


class Group(Compound):
    """On one line if it fits."""

    __slots__ = ()


class Indented(Compound):
    """Lines that begin within are indented by `columns` more."""

    __slots__ = ("columns",)

    def __init__(self, parts: Iterable[Document], columns: int = INDENT) -> None:
        super().__init__(parts)
        self.columns = columns


Document: TypeAlias = str | Break | Comment | Inline | Sign | IfBroken | Compound

SOFT, LINE, HARD, CLOSING = Break(""), Break(), Break("", always=True), Break("", closing=True)


@dataclass(slots=True)
class Row:
    """One line of the result: code, then comments. A block comment may hold line breaks."""

    indent: int
    code: str = ""
    comments: list[str] = field(default_factory=list)
    whole: bool = False  # whether it is a whole statement
    signs: list[tuple[Sign, int]] = field(default_factory=list)  # and where in the code they begin


@dataclass(slots=True)
class _Canvas:
    rows: list[Row]
    pending: list[Comment] = field(default_factory=list)

    def text(self, text: str) -> None:
        self.rows[-1].code += text

    @property
    def column(self) -> int:
        row = self.rows[-1]
        return row.indent + len(row.code)

    def end_line(self, indent: int) -> None:
        """Write the comments that wait for it, those on lines of their own with an indentation."""
        row = self.rows[-1]
        row.code = row.code.rstrip(" ")
        for comment in self.pending:
            if comment.own_line or not add_comment(self.rows[-1], comment.text):
                self.rows.append(Row(indent, comments=[comment.text]))
        self.pending.clear()


def add_comment(row: Row, text: str) -> bool:
    """Put a comment at the end of a row; whether it could be: nothing can stand behind `# …`."""
    if row.comments and not row.comments[-1].startswith("#="):
        return False
    row.comments.append(text)
    return True


def render(document: Document, indent: int, behind: int) -> list[Row]:
    """The lines of a document that begins at the column `indent`. Comments left over stand at `behind`."""
    canvas = _Canvas([Row(indent)])
    stack: list[tuple[int, bool, Document]] = [(indent, False, document)]
    while stack:
        margin, flat, part = stack.pop()
        match part:
            case str():
                canvas.text(part)
            case Break(text, always, closing):
                if flat and not always:
                    canvas.text(text)
                else:
                    canvas.end_line(margin + INDENT if closing else margin)
                    canvas.rows.append(Row(margin))
            case Comment():
                canvas.pending.append(part)
            case Inline(text):
                if canvas.pending:
                    canvas.pending.append(Comment(text, False))
                else:
                    canvas.text(f"{text} ")
            case Sign():
                row = canvas.rows[-1]
                row.signs.append((part, len(row.code)))
                canvas.text(part.text)
            case IfBroken(text):
                if not flat:
                    canvas.text(text)
            case Indented():
                stack += [(margin + part.columns, flat, one) for one in reversed(part.parts)]
            case Group():
                flat = flat or (not part.forced and _fits(part, WIDTH - canvas.column, stack))
                stack += [(margin, flat, one) for one in reversed(part.parts)]
            case Compound():
                stack += [(margin, flat, one) for one in reversed(part.parts)]
    canvas.end_line(behind)
    return canvas.rows


def _fits(group: Group, room: int, behind: list[tuple[int, bool, Document]]) -> bool:
    """Whether a group and what follows, up to the next place for a break, fits into the room."""
    stack: list[tuple[bool, Document]] = [(True, group)]
    index = len(behind)
    while room >= 0:
        if not stack:
            if not index:
                return True
            index -= 1
            _, flat, part = behind[index]
        else:
            flat, part = stack.pop()
        match part:
            case str():
                room -= len(part)
            case Sign(text):
                room -= len(text)
            case Inline(text):
                room -= len(text) + 1
            case Break(text, always):
                if always or not flat:
                    return True
                room -= len(text)
            case IfBroken(text):
                room -= 0 if flat else len(text)
            case Comment():
                pass
            case Compound():
                flat = flat and not part.forced
                stack += [(flat, one) for one in reversed(part.parts)]
    return False
