"""The layout of a spy plot: one sheet, which SVG and PNG draw alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from implicit_dsl.pictures.colours import MUTED, RULE, SOLID
from implicit_dsl.pictures.lettering import clean, grouped, shorten, width
from implicit_dsl.pictures.raster import Axis, axes
from implicit_dsl.pictures.spacing import spread
from implicit_dsl.pictures.spy import Blocks, Spy

TITLE, CAPTION, LABEL, SMALLEST = 28, 20, 20, 12  # sizes of text in pixels
PAD = 32
LEADER = 34  # from a label to the matrix
LONGEST_NAME = 24
LONGEST_TITLE = 72
LINE = 1.3  # from one line of text to the next, in sizes
MANY_RULES = 40  # from here on they are drawn fainter
CLOSEST_RULES = 8  # boundaries closer than this would shade the picture

Leader: TypeAlias = tuple[tuple[float, float], ...]  # from a label to its block
Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Text:
    """Text in parts of different strength. (x, y) is on its baseline, at `anchor`: start, middle or end."""

    x: float
    y: float
    parts: tuple[tuple[str, float], ...]
    size: int
    anchor: str = "start"
    bold: bool = False
    upright: bool = False  # turned to read from bottom to top

    @property
    def extent(self) -> float:
        """No less than its width in any usual font."""
        return sum(width(part, self.size, self.bold) for part, _ in self.parts)

    @property
    def box(self) -> Box:
        """What it may cover: left, top, right, bottom."""
        before = {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * self.extent
        after, above, below = self.extent - before, 0.8 * self.size, 0.22 * self.size
        if self.upright:
            return (self.x - above, self.y - after, self.x + below, self.y + before)
        return (self.x - before, self.y - above, self.x + after, self.y + below)


@dataclass(frozen=True, slots=True)
class Sheet:
    """All that is drawn, in pixels, apart from the entries; these fill `left`, `top` and on."""

    width: int
    height: int
    left: int
    top: int
    rows: Axis
    cols: Axis
    title: Text
    caption: Text
    labels: tuple[Text, ...]
    leaders: tuple[Leader, ...]
    row_rules: tuple[int, ...]  # where row blocks begin, in pixels below `top`
    col_rules: tuple[int, ...]
    rule: float  # the strength of these rules
    row_split: int | None  # where A ends and C begins
    col_split: int | None  # where A ends and B begins
    loops: tuple[tuple[int, int, int, int], ...]  # left, top, width and height of each, from `left`, `top`


@dataclass(frozen=True, slots=True)
class _Tag:
    """The label of a block: `centre` is that of the block, `place` that of the label, along the axis."""

    name: str
    size: str
    centre: float
    place: float
    font: int


@dataclass(frozen=True, slots=True)
class _Margin:
    """The labels along one axis."""

    tags: tuple[_Tag, ...]
    stacked: bool  # the size under the name, side by side; otherwise one line of text each
    omitted: int

    @property
    def depth(self) -> float:
        """How far the labels reach away from the matrix, without the leaders."""
        if self.stacked:
            return LINE * 2 * LABEL
        return max((width(f"{tag.name}  {tag.size}", tag.font) for tag in self.tags), default=0.0)

    @property
    def end(self) -> float:
        """How far they reach along the axis."""
        if not self.tags:
            return 0.0
        last = self.tags[-1]
        return last.place + (_stack(last.name, last.size) if self.stacked else LINE * last.font) / 2


def _stack(name: str, size: str) -> float:
    return max(width(name, LABEL), width(size, LABEL)) + LABEL * 0.7


def _margin(blocks: Blocks, axis: Axis, may_stack: bool) -> _Margin:
    """Labels for as many blocks as can be read, the largest first, none over another."""
    room = max(axis.length, 10 * LABEL)
    fitting = int(room / (LINE * SMALLEST))
    kept = set(sorted(range(len(blocks)), key=lambda i: (-blocks[i][1], _scattered(i)))[:fitting])
    names, sizes, centres, start = [], [], [], 0
    for index, (name, size) in enumerate(blocks):
        if index in kept:
            names.append(shorten(clean(name), LONGEST_NAME))
            sizes.append(str(size))
            centres.append((axis.edge(start) + axis.edge(start + size)) / 2)
        start += size
    stacks = [_stack(*pair) for pair in zip(names, sizes)]
    stacked = may_stack and (len(kept) == 1 or sum(stacks) <= axis.length + 2 * LABEL)
    font = LABEL if stacked else max(SMALLEST, min(LABEL, int(room / (LINE * max(1, len(kept))))))
    extents = stacks if stacked else [LINE * font] * len(kept)
    places = spread(centres, extents, lowest=-LABEL / 2, highest=axis.length + LABEL / 2)
    tags = tuple(_Tag(*each, font) for each in zip(names, sizes, centres, places))
    return _Margin(tags, stacked, len(blocks) - len(kept))


def _scattered(index: int) -> int:
    """Its bits in reverse: the first few indices in this order lie all over the axis."""
    return int(f"{index:032b}"[::-1], 2)


def _rules(blocks: Blocks, axis: Axis) -> tuple[int, ...]:
    """Where blocks begin, except at the frame and too close to one another."""
    shown, start = [0], 0
    for _, size in blocks:
        start += size
        if shown[-1] + CLOSEST_RULES <= axis.edge(start) <= axis.length - CLOSEST_RULES:
            shown.append(axis.edge(start))
    return tuple(shown[1:])


def _split(blocks: Blocks, first: int, axis: Axis) -> int | None:
    if not 0 < first < len(blocks):
        return None
    return axis.edge(sum(size for _, size in blocks[:first]))


def _left_labels(margin: _Margin, left: int, top: int) -> tuple[list[Text], list[Leader]]:
    texts: list[Text] = []
    leaders: list[Leader] = []
    for tag in margin.tags:
        y = top + tag.place
        parts = ((f"{tag.name}  ", SOLID), (tag.size, MUTED))
        texts.append(Text(left - LEADER, round(y + 0.36 * tag.font, 1), parts, tag.font, "end"))
        centre = top + tag.centre
        leaders.append(
            ((left - LEADER + 6, y), (left - LEADER + 11, y), (left - 4, centre), (left - 1, centre))
        )
    return texts, leaders


def _top_labels(margin: _Margin, left: int, top: int) -> tuple[list[Text], list[Leader]]:
    texts: list[Text] = []
    leaders: list[Leader] = []
    for tag in margin.tags:
        x = left + tag.place
        if margin.stacked:
            base = top - LEADER - 0.2 * LABEL
            texts.append(Text(round(x, 1), base - LINE * LABEL, ((tag.name, SOLID),), LABEL, "middle"))
            texts.append(Text(round(x, 1), base, ((tag.size, MUTED),), LABEL, "middle"))
        else:
            parts = ((f"{tag.name}  ", SOLID), (tag.size, MUTED))
            texts.append(Text(round(x + 0.36 * tag.font, 1), top - LEADER, parts, tag.font, upright=True))
        centre = left + tag.centre
        leaders.append(((x, top - LEADER + 6), (x, top - LEADER + 11), (centre, top - 4), (centre, top - 1)))
    return texts, leaders


def caption(spy: Spy, rows: Axis, cols: Axis, omitted: int = 0, marked: str = "outlined") -> str:
    """The numbers that the picture stands for, where it is not to scale, and how loops are marked."""
    if spy.n_rows == spy.n_cols:
        size = f"n = {grouped(spy.n_rows)}"
    else:
        size = f"{grouped(spy.n_rows)} × {grouped(spy.n_cols)}"
    entries = f"{grouped(len(spy.rows))} {'entry' if len(spy.rows) == 1 else 'entries'}"
    said = [size, entries, f"density {100 * spy.density:.3g} %"]
    stretch = (rows.length * spy.n_cols) / max(1, cols.length * spy.n_rows)
    if min(spy.n_rows, spy.n_cols) and not 0.9 < stretch < 1.1:
        said.append("axes scaled")
    if spy.note:
        said.append(spy.note)
    if spy.loops:
        said.append(f"{len(spy.loops)} loop{'s' if len(spy.loops) > 1 else ''} {marked}")
    if omitted:
        said.append(f"{omitted} small blocks not named")
    return "  ·  ".join(said)


def lay_out(spy: Spy) -> Sheet:
    """Place everything: labels where their blocks are as far as they fit, the sheet as large as it needs."""
    rows, cols = axes(spy.n_rows, spy.n_cols)
    beside, above = _margin(spy.row_blocks, rows, False), _margin(spy.col_blocks, cols, True)
    left = PAD + round(beside.depth) + (LEADER if beside.tags else 0)
    top = PAD + round(TITLE * 1.9) + round(above.depth) + (LEADER if above.tags else 0)
    title = Text(PAD, PAD + TITLE, ((shorten(clean(spy.title), LONGEST_TITLE), SOLID),), TITLE, bold=True)
    base = top + max(rows.length, round(beside.end)) + 2 * CAPTION
    words = caption(spy, rows, cols, max(beside.omitted, above.omitted))
    foot = Text(PAD, base, ((words, MUTED),), CAPTION)
    right = max(left + max(cols.length, round(above.end)), PAD + round(max(title.extent, foot.extent)))
    besides, lines = _left_labels(beside, left, top)
    aboves, more = _top_labels(above, left, top)
    row_rules, col_rules = _rules(spy.row_blocks, rows), _rules(spy.col_blocks, cols)
    return Sheet(
        right + PAD,
        base + PAD,
        left,
        top,
        rows,
        cols,
        title,
        foot,
        (*besides, *aboves),
        (*lines, *more),
        row_rules,
        col_rules,
        RULE if len(row_rules) + len(col_rules) < MANY_RULES else RULE / 2,
        _split(spy.row_blocks, spy.quadrants[0], rows),
        _split(spy.col_blocks, spy.quadrants[1], cols),
        tuple(_box(rows, cols, loop) for loop in spy.loops),
    )


def _box(rows: Axis, cols: Axis, loop: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    first, last, left, right = rows.edge(loop[0]), rows.edge(loop[1]), cols.edge(loop[2]), cols.edge(loop[3])
    return left, first, right - left, last - first
