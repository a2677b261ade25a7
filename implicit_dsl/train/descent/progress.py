"""A line on the terminal that says how far a fit is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from implicit_dsl.train.descent.history import Sweep

Progress: TypeAlias = bool | Callable[[Sweep], None] | None

_WIDTH = 24


@contextmanager
def shown(progress: Progress, sweeps: int) -> Iterator[Callable[[Sweep], None]]:
    """What to call after each sweep: the caller's function, or a bar on stderr, by default on a terminal."""
    if callable(progress):
        yield progress
        return
    wanted = sys.stderr.isatty() if progress is None else progress
    if not wanted:
        yield lambda sweep: None
        return

    def draw(sweep: Sweep) -> None:
        done = round(_WIDTH * sweep.number / max(1, sweeps))
        loss = "" if sweep.loss is None else f"  loss {sweep.loss:.5g}"
        text = f"\rbcd [{'#' * done}{'.' * (_WIDTH - done)}] {sweep.number}/{sweeps}{loss}"
        print(f"{text:<70}", end="", file=sys.stderr, flush=True)

    try:
        yield draw
    finally:
        print(file=sys.stderr)


__all__ = ["Progress", "shown"]
