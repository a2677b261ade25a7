"""PNG files of few colours, written without a library: a grid of numbers of colours, and the colours."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Colour: TypeAlias = tuple[int, int, int, int]  # red, green, blue, and how much they cover; each up to 255

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_INDEXED = 3  # the colour type of pixels that are numbers of a palette
MOST_COLOURS = 256


def indexed_png(grid: np.ndarray, palette: Sequence[Colour]) -> bytes:
    """The grid [height, width] of numbers below len(palette) as a PNG file (ISO/IEC 15948).

    Raises ValueError for a grid that is empty, or for more than 256 colours.
    """
    height, width = grid.shape
    if not grid.size:
        raise ValueError(f"a picture of {height} × {width} pixels cannot be written")
    if not 1 <= len(palette) <= MOST_COLOURS or not 0 <= int(grid.min()) <= int(grid.max()) < len(palette):
        raise ValueError(f"the grid holds numbers up to {int(grid.max())}, of {len(palette)} colours")
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # each begins with the number of its filter
    lines[:, 1:] = grid
    colours = np.array(palette, dtype=np.uint8)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0)),
            _chunk(b"PLTE", colours[:, :3].tobytes()),
            _chunk(b"tRNS", colours[:, 3].tobytes()),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(png: bytes) -> str:
    """The file as text for `href` and `src`, so that a page needs no other file."""
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"
