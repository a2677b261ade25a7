"""A spy plot for the terminal, eight dots to a character."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.pictures.lettering import clean, columns, shorten
from implicit_dsl.pictures.raster import Axis, axes, occupied
from implicit_dsl.pictures.sheet import caption
from implicit_dsl.pictures.spacing import spread
from implicit_dsl.pictures.spy import Blocks, Spy

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column in a character
LONGEST_NAME = 16


def spy_text(spy: Spy, columns_wide: int = 80) -> str:
    """The picture in braille characters, framed, with the names of the row blocks at their left."""
    names = [f"{shorten(clean(name), LONGEST_NAME)} {size}" for name, size in spy.row_blocks]
    gutter = max(map(columns, names), default=0)
    dots = 2 * max(4, columns_wide - gutter - 3)
    rows, cols = axes(spy.n_rows, spy.n_cols, most=dots, largest=1)
    lines = _braille(occupied(spy, rows, cols))
    labels = _labels(names, spy.row_blocks, rows, len(lines))
    edge = "─" * len(lines[0])
    marks = _marks(spy, rows, len(lines))
    framed = [
        f"{' ' * (gutter - columns(label))}{label} {mark['┤' if label else '│']}{line}{mark['│']}"
        for label, line, mark in zip(labels, lines, marks)
    ]
    blank = " " * (gutter + 1)
    return "\n".join(
        (
            clean(spy.title),
            f"{blank}┌{edge}┐",
            *framed,
            f"{blank}└{edge}┘",
            blank + caption(spy, rows, cols, marked="at the rows ┃"),
            "",
        )
    )


def _braille(grid: np.ndarray) -> list[str]:
    height, width = -(-grid.shape[0] // 4), -(-grid.shape[1] // 2)
    padded = np.zeros((4 * height, 2 * width), dtype=np.int64)
    padded[: grid.shape[0], : grid.shape[1]] = grid
    codes = np.full((height, width), BRAILLE)
    for row, pair in enumerate(DOTS):
        for column, dot in enumerate(pair):
            codes += padded[row::4, column::2] * dot
    return ["".join(map(chr, line)) for line in codes.tolist()]


def _labels(names: list[str], blocks: Blocks, axis: Axis, lines: int) -> list[str]:
    """One label at most for each line of text, the largest blocks first."""
    kept = sorted(sorted(range(len(blocks)), key=lambda i: (-blocks[i][1], i))[:lines])
    starts = [sum(size for _, size in blocks[:i]) for i in kept]
    dots = 4 * axis.pixel  # of a line of text
    middles = [(axis.edge(s) + axis.edge(s + blocks[i][1])) / 2 // dots for s, i in zip(starts, kept)]
    shown = [""] * lines
    for index, place in zip(kept, spread(middles, [1.0] * len(kept), None, -0.5, lines - 0.5)):
        shown[_free(shown, round(place))] = names[index]
    return shown


def _marks(spy: Spy, axis: Axis, lines: int) -> list[dict[str, str]]:
    """What the frame is drawn with at each line of text: heavily at the rows of a loop."""
    dots = 4 * axis.pixel
    heavy = {
        line
        for first, behind, _, _ in spy.loops
        for line in range(axis.edge(first) // dots, -(-axis.edge(behind) // dots))
    }
    light, bold = {"┤": "┤", "│": "│"}, {"┤": "┨", "│": "┃"}
    return [bold if line in heavy else light for line in range(lines)]


def _free(shown: list[str], line: int) -> int:
    """The line, or the next one that rounding has left free."""
    while shown[line]:
        line += 1
    return line
