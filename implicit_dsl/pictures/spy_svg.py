"""A spy plot as SVG."""

from __future__ import annotations

from implicit_dsl.pictures.colours import ACCENTS, LEADER, css
from implicit_dsl.pictures.lettering import markup
from implicit_dsl.pictures.raster import occupied, path, runs
from implicit_dsl.pictures.sheet import Sheet, Text, lay_out
from implicit_dsl.pictures.spy import Spy

FONTS = "'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
STEADY = 'vector-effect="non-scaling-stroke"'  # thin lines stay in sight where the picture is shrunk


def spy_svg(spy: Spy) -> str:
    """The picture as SVG text. The same matrix gives the same bytes."""
    sheet = lay_out(spy)
    found = runs(occupied(spy, sheet.rows, sheet.cols))
    half = "translate(.5 0)" if found.vertical else "translate(0 .5)"
    place = f"translate({sheet.left} {sheet.top}) scale({sheet.cols.pixel} {sheet.rows.pixel}) {half}"
    entries = f'<path id="entries" transform="{place}" fill="none" stroke="{css(1.0)}" d="{path(found)}"/>'
    return framed(spy, sheet, entries)


def framed(spy: Spy, sheet: Sheet, entries: str) -> str:
    """The sheet of a picture as SVG text, with its entries drawn as given."""
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{sheet.width}" height="{sheet.height}" '
            f'viewBox="0 0 {sheet.width} {sheet.height}" role="img" font-family="{FONTS}">',
            f"<title>{markup(spy.title)}</title>",
            f"<desc>{markup(sheet.caption.parts[0][0])}</desc>",
            f'<rect width="{sheet.width}" height="{sheet.height}" rx="8" fill="#fff"/>',
            _lines(sheet),
            entries,
            *(_loop(sheet, box) for box in sheet.loops),
            *map(_text, (sheet.title, *sheet.labels, sheet.caption)),
            "</svg>\n",
        )
    )


def _lines(sheet: Sheet) -> str:
    """Boundaries, leaders and frame. Boundaries lie under the entries, which they must not hide."""
    x, y, w, h = sheet.left, sheet.top, sheet.cols.length, sheet.rows.length
    rules = "".join(f"M{x} {y + at + 0.5}h{w}" for at in sheet.row_rules)
    rules += "".join(f"M{x + at + 0.5} {y}v{h}" for at in sheet.col_rules)
    leaders = "".join("M" + "L".join(f"{px:g} {py:g}" for px, py in line) for line in sheet.leaders)
    split = "" if sheet.row_split is None else f"M{x} {y + sheet.row_split}h{w}"
    split += "" if sheet.col_split is None else f"M{x + sheet.col_split} {y}v{h}"
    drawn = [f'<path d="{rules}" stroke="{css(sheet.rule)}" {STEADY}/>'] if rules else []
    drawn += [f'<path d="{leaders}" fill="none" stroke="{css(LEADER)}" {STEADY}/>'] if leaders else []
    drawn += [f'<path d="{split}" stroke="{css(0.7)}" stroke-width="2"/>'] if split else []
    outline = f'x="{x - 0.5}" y="{y - 0.5}" width="{w + 1}" height="{h + 1}"'
    frame = f'<rect {outline} fill="none" stroke="{css(LEADER)}" {STEADY}/>'
    return "\n".join((*drawn, frame))


def _loop(sheet: Sheet, box: tuple[int, int, int, int]) -> str:
    x, y, width, height = box
    place = f'x="{sheet.left + x - 1.5}" y="{sheet.top + y - 1.5}" width="{width + 3}" height="{height + 3}"'
    return f'<rect {place} rx="3" fill="none" stroke="{ACCENTS[0]}" stroke-width="3"/>'


def _text(text: Text) -> str:
    where = f'x="{text.x:g}" y="{text.y:g}"'
    if text.upright:
        where = f'transform="translate({text.x:g} {text.y:g}) rotate(-90)"'
    anchor = "" if text.anchor == "start" else f' text-anchor="{text.anchor}"'
    weight = ' font-weight="600"' if text.bold else ""
    parts = "".join(f'<tspan fill="{css(tone)}">{markup(part)}</tspan>' for part, tone in text.parts)
    return f'<text {where} font-size="{text.size}"{anchor}{weight} xml:space="preserve">{parts}</text>'
