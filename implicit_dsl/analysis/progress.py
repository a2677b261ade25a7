"""A line on the terminal that says how many samples are done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = bool | Callable[[int, int], None] | None
_WIDTH = 24


@contextmanager
def shown(progress: Progress, samples: int) -> Iterator[Callable[[int], None]]:
    """What to call with the number of samples done: by default it draws a bar, on a terminal only."""
    if callable(progress):
        call = progress
        yield lambda done: call(done, samples)
        return
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda done: None
        return

    def draw(done: int) -> None:
        filled = round(_WIDTH * done / max(1, samples))
        bar = "#" * filled + "." * (_WIDTH - filled)
        print(f"\rcertify [{bar}] {done}/{samples}", end="", file=sys.stderr, flush=True)

    try:
        draw(0)
        yield draw
    finally:
        print(file=sys.stderr)
