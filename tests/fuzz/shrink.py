"""A program with a problem, made small: lines first, then tokens (after Zeller's ddmin)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

_TOKEN = re.compile(rb"\w+|\s+|[^\w\s]")
PATIENCE = 30.0  # seconds


def shrink(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """The smallest part of the program that was found to fail in the same way."""
    end = time.monotonic() + PATIENCE
    small = _fewer(data.splitlines(keepends=True), fails, end)
    return _fewer(_TOKEN.findall(small), fails, end)


def _fewer(pieces: list[bytes], fails: Callable[[bytes], bool], end: float) -> bytes:
    size = max(1, len(pieces) // 2)
    while time.monotonic() < end:
        at, smaller = 0, False
        while at < len(pieces) and time.monotonic() < end:
            rest = pieces[:at] + pieces[at + size :]
            if fails(b"".join(rest)):
                pieces, smaller = rest, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return b"".join(pieces)
