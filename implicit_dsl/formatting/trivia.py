"""What stands between two tokens: comments, and the ends of lines."""

from __future__ import annotations

import re
from typing import NamedTuple

# Between tokens there is nothing else but blanks, and `;` between statements.
_PIECE = re.compile(r"#=[\s\S]*?=#|#[^\r\n]*|\r\n?|\n")


class Remark(NamedTuple):
    """A comment and how it stands: after how many ends of lines, and at which column (from 0)."""

    text: str
    lines_before: int
    column: int

    @property
    def multiline(self) -> bool:
        return "\n" in self.text


class Gap(NamedTuple):
    """The comments between two tokens, and the ends of lines behind the last of them."""

    remarks: tuple[Remark, ...]
    lines_after: int

    def split(self) -> tuple[tuple[Remark, ...], tuple[Remark, ...]]:
        """The comments that end or fill lines, and those that stand before the next token in its line."""
        count = 0
        if not self.lines_after:
            for remark in reversed(self.remarks):
                if remark.multiline or remark.text[1:2] != "=":
                    break
                count += 1
                if remark.lines_before:
                    break
        keep = len(self.remarks) - count
        return self.remarks[:keep], self.remarks[keep:]


NOTHING = Gap((), 0)


def gap(text: str, start: int, end: int) -> Gap:
    """What stands from `start` to `end`, where a token ends and the next begins."""
    remarks: list[Remark] = []
    lines = 0
    for match in _PIECE.finditer(text, start, end):
        piece = match[0]
        if piece[0] == "#":
            remarks.append(Remark(_tidy(piece), lines, column_of(text, match.start())))
            lines = 0
        else:
            lines += 1
    return Gap(tuple(remarks), lines)


def column_of(text: str, offset: int) -> int:
    """How many characters stand before it in its line."""
    return offset - 1 - max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset))


def _tidy(comment: str) -> str:
    """Without blanks at the ends of lines, and with line ends of one kind."""
    return "\n".join(line.rstrip() for line in re.split(r"\r\n?|\n", comment))


def shifted(text: str, columns: int) -> str:
    """A comment over several lines, all but the first moved to the right, or left as far as they can."""
    first, *rest = text.split("\n")
    if columns > 0:
        moved = [" " * columns + line if line else line for line in rest]
    else:
        moved = [line[min(-columns, len(line) - len(line.lstrip(" "))) :] for line in rest]
    return "\n".join([first, *moved])
