"""The colours of all pictures: one ink on paper, its tints, and a few accents that tell ties apart."""

from __future__ import annotations

PAPER = (255, 255, 255)
INK = (20, 33, 66)

SOLID = 1.0
MUTED = 0.66  # still 4.5 : 1 against paper, so that small text can be read
LEADER = 0.42
RULE = 0.2

# Told apart by colour-blind readers too (after Okabe and Ito), dark enough to write with.
ACCENTS = ("#c2410c", "#0e7490", "#a21caf", "#4d7c0f", "#1d4ed8", "#be123c")

LOOP = (194, 65, 12)  # the outline of a loop: the first accent


def tint(strength: float) -> tuple[int, int, int]:
    """Ink thinned to a strength between 0 (paper) and 1."""
    red, green, blue = (round(p + (i - p) * strength) for p, i in zip(PAPER, INK))
    return red, green, blue


def css(strength: float) -> str:
    """The same for SVG, as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*tint(strength))


def outline() -> str:
    """The colour in which loops are outlined."""
    return "#{:02x}{:02x}{:02x}".format(*LOOP)


def accent(number: int) -> str:
    """The colour of a tie; they repeat when there are many."""
    return ACCENTS[number % len(ACCENTS)]
