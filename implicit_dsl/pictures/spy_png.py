"""A spy plot as PNG, in the same layout as the SVG."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.util import find_spec
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING, Any

from implicit_dsl._lazy import lazy_module
from implicit_dsl.pictures.colours import LEADER, LOOP, tint
from implicit_dsl.pictures.raster import occupied
from implicit_dsl.pictures.sheet import Sheet, Text, lay_out
from implicit_dsl.pictures.spy import Spy

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont
else:
    np = lazy_module("numpy")
    Image = lazy_module("PIL.Image")
    ImageDraw = lazy_module("PIL.ImageDraw")
    ImageFont = lazy_module("PIL.ImageFont")

# Pillow's own font ends with Latin; other characters need a font of the system, if it has one of these.
_SYSTEM_FONTS = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "Helvetica.ttc")
_LOOP_LEVEL = 254  # all but paper; its place in the palette is given to the outline of loops
_PLAIN = {"×": "x", "−": "-"}


def spy_png(spy: Spy) -> bytes:
    """The picture as the bytes of a PNG file. Raises ImportError where Pillow is missing."""
    if find_spec("PIL") is None:
        raise ImportError("drawing PNG needs Pillow: pip install implicitc[png]")
    sheet = lay_out(spy)
    # Everything is a tint of one ink, so that one byte for each pixel will do: 255 is paper.
    canvas = np.full((sheet.height, sheet.width), 255, dtype=np.uint8)
    _lines(canvas, sheet)
    cells = occupied(spy, sheet.rows, sheet.cols)
    if sheet.rows.pixel > 1 or sheet.cols.pixel > 1:
        cells = cells.repeat(sheet.rows.pixel, axis=0).repeat(sheet.cols.pixel, axis=1)
    bottom, right = sheet.top + sheet.rows.length, sheet.left + sheet.cols.length
    canvas[sheet.top : bottom, sheet.left : right][cells] = 0
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for leader in sheet.leaders:
        draw.line([(round(x), round(y)) for x, y in leader], fill=_level(LEADER))
    for text in (sheet.title, *sheet.labels, sheet.caption):
        _text(image, draw, text)
    if sheet.loops:
        image = image.point([255 if level == _LOOP_LEVEL else level for level in range(256)])
        draw = ImageDraw.Draw(image)
        for x, y, width, height in sheet.loops:
            corner = (sheet.left + x - 3, sheet.top + y - 3)
            draw.rectangle(
                (*corner, corner[0] + width + 5, corner[1] + height + 5), outline=_LOOP_LEVEL, width=3
            )
    palette = [channel for level in range(256) for channel in tint(1 - level / 255)]
    palette[3 * _LOOP_LEVEL : 3 * _LOOP_LEVEL + 3] = LOOP
    image.putpalette(palette)
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _level(strength: float) -> int:
    return round(255 * (1 - strength))


def _lines(canvas: np.ndarray, sheet: Sheet) -> None:
    """Boundaries and frame, as whole pixels."""
    x, y, right, bottom = sheet.left, sheet.top, sheet.left + sheet.cols.length, sheet.top + sheet.rows.length
    for at in sheet.row_rules:
        canvas[y + at, x:right] = _level(sheet.rule)
    for at in sheet.col_rules:
        canvas[y:bottom, x + at] = _level(sheet.rule)
    if sheet.row_split is not None:
        canvas[y + sheet.row_split - 1 : y + sheet.row_split + 1, x:right] = _level(0.7)
    if sheet.col_split is not None:
        canvas[y:bottom, x + sheet.col_split - 1 : x + sheet.col_split + 1] = _level(0.7)
    canvas[[y - 1, bottom], x - 1 : right + 1] = _level(LEADER)
    canvas[y - 1 : bottom + 1, [x - 1, right]] = _level(LEADER)


@cache
def _font(size: int, system: bool) -> Any:
    if system:
        for name in _SYSTEM_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _text(image: Image.Image, draw: ImageDraw.ImageDraw, text: Text) -> None:
    if text.upright:
        # Pillow draws along lines only, so upright text is drawn flat and turned.
        height = 2 * text.size
        flat = Image.new("L", (round(text.extent) + 2, height), 255)
        _write(ImageDraw.Draw(flat), 0, text.size * 1.5, text)
        turned = flat.rotate(90, expand=True)
        box = (round(text.x - text.size * 1.5), round(text.y) - turned.height)
        image.paste(0, box, turned.point([255 - level for level in range(256)]))
        return
    total = sum(_length(part, text.size) for part, _ in text.parts)
    start = text.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor] * total
    _write(draw, start, text.y, text)


def _write(draw: ImageDraw.ImageDraw, x: float, y: float, text: Text) -> None:
    x = round(x)  # whole pixels keep the strokes of all pieces alike
    for part, strength in text.parts:
        for piece, foreign in _pieces(part):
            font = _font(text.size, foreign)
            # A second stroke half a pixel aside stands in for the bold cut, which Pillow lacks.
            for shift in (0.0, 0.5) if text.bold else (0.0,):
                draw.text((x + shift, y), piece, font=font, fill=_level(strength), anchor="ls")
            x += round(font.getlength(piece))


def _length(part: str, size: int) -> float:
    return float(sum(_font(size, foreign).getlength(piece) for piece, foreign in _pieces(part)))


def _foreign(character: str) -> bool:
    return character >= "\x7f" and character not in "·…"


@lru_cache(maxsize=1024)
def _pieces(text: str) -> tuple[tuple[str, bool], ...]:
    """The text cut where it changes between Latin and other characters, and whether each piece is other."""
    shown = (_PLAIN.get(c, c) for c in text)
    return tuple(("".join(piece), foreign) for foreign, piece in groupby(shown, _foreign))
