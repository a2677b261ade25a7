"""Numbers as they are printed on a page."""

from __future__ import annotations

import math


def number(value: float, digits: int = 4) -> str:
    """`0.3125`, `−1.2e−05`, with a minus sign that lines up."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}g}".replace("-", "−")


def percent(share: float) -> str:
    """`97.5 %`."""
    return f"{100 * share:.1f} %"


def plural(count: int, word: str) -> str:
    """`1 state`, `61,706 parameters`."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
