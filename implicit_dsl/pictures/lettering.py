"""Text in pictures: made safe to print, cut to length, and measured without a font.

Names come from source files that nobody vetted, so whatever reaches a picture passes `clean`.
"""

from __future__ import annotations

from unicodedata import east_asian_width
from xml.sax.saxutils import escape

_NARROW = frozenset("iljtfrI.,:;'|!·()[]{} `/\\-\"")
_WIDE = frozenset("mwMW@%—…→")


def clean(text: str) -> str:
    """The text with control, direction-changing and unassigned characters made visible."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shorten(text: str, most: int) -> str:
    """At most `most` characters: the middle is left out, as names differ at their ends."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def markup(text: str) -> str:
    """Text for XML, in content as well as in attributes."""
    return escape(clean(text), {'"': "&quot;", "'": "&#39;"})


def width(text: str, size: float, bold: bool = False) -> float:
    """An upper bound of the width of text, valid for the usual sans-serif fonts.

    The reader's font is unknown, so this follows the widest of them (DejaVu Sans).
    """
    return sum(_em(c) for c in text) * size * (1.09 if bold else 1.0)


def _em(character: str) -> float:
    if character in _NARROW:
        return 0.42
    if character in _WIDE or east_asian_width(character) in "WF":
        return 1.02
    return 0.79 if character.isupper() else 0.65


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def grouped(number: int) -> str:
    """`304 384`: thousands set apart by a space, for a reader of any language."""
    return f"{number:,}".replace(",", " ")
