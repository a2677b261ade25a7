"""Matrices with the values of their entries: one colour for each sign, the stronger the larger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.pictures.png import Colour, data_uri, indexed_png
from implicit_dsl.pictures.raster import MOST_CELLS, Axis, axes
from implicit_dsl.pictures.sheet import Sheet, lay_out
from implicit_dsl.pictures.spy import Spy
from implicit_dsl.pictures.spy_svg import framed

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

NEGATIVE, POSITIVE = (29, 78, 216), (194, 65, 12)  # of the accents, also told apart by the colour-blind
SHADES = 24  # of each sign
FAINTEST = 0.16  # an entry that is not zero is seen
_FINEST = (4000, 2800, 2000, 1400)  # cells along the longer side, as many as the size of the file allows
_LARGEST = 1_200_000  # bytes of a picture
_TYPICAL = 0.995  # a few entries that are larger than all others do not make these pale


@dataclass(frozen=True, slots=True)
class Scale:
    """How values become colours: by the square root of |value| ∕ `most`, so that small ones are seen.

    Or else in proportion to it. What is beyond `most` is as strong.
    """

    most: float
    proportional: bool = False

    @staticmethod
    def of(values: np.ndarray, proportional: bool = False) -> Scale:
        """The scale of these values: up to the largest, but for a few that exceed the others."""
        found = np.abs(values[np.isfinite(values) & (values != 0)])
        if not found.size:
            return Scale(1.0, proportional)
        return Scale(float(np.quantile(found, _TYPICAL, method="higher")), proportional)

    def shades(self, values: np.ndarray) -> np.ndarray:
        """The numbers of the colours of values, of the same shape: 0 for zero."""
        with np.errstate(invalid="ignore", over="ignore"):
            strength = np.minimum(np.abs(values) / self.most, 1.0) ** (1.0 if self.proportional else 0.5)
        shade = np.clip(np.ceil(strength * SHADES), 1, SHADES)
        shade = np.where(np.isnan(values), SHADES, shade)  # nan is not to be missed
        return np.where(values == 0, 0, np.where(values < 0, shade, SHADES + shade)).astype(np.uint8)


def palette() -> tuple[Colour, ...]:
    """Nothing for zero, then the shades of negative and of positive values."""
    made: list[Colour] = [(255, 255, 255, 0)]
    for red, green, blue in (NEGATIVE, POSITIVE):
        for shade in range(1, SHADES + 1):
            cover = FAINTEST + (1 - FAINTEST) * (shade - 1) / (SHADES - 1)
            made.append((red, green, blue, round(255 * cover)))
    return tuple(made)


def values_svg(spy: Spy, values: np.ndarray, scale: Scale | None = None) -> str:
    """The picture of a matrix with entries `values` at (spy.rows, spy.cols), as SVG text.

    Where several entries fall into a cell, it shows the largest of them. A matrix of more entries than the
    picture has cells has a second image of finer cells, of the class `fine`, to be shown where the picture
    is enlarged: shrunk, it would lose entries.
    """
    sheet = lay_out(spy)
    entries = ""
    if len(values) and spy.n_rows and spy.n_cols:
        scale = scale or Scale.of(values)
        coarse = (sheet.rows, sheet.cols)
        small = max(axis.cells for axis in coarse) <= MOST_CELLS // 2
        entries = _image(sheet, "cells" if small else "cells coarse", _png(spy, values, scale, coarse))
        fine = _finest(spy, values, scale)
        if fine:
            entries += "\n" + _image(sheet, "cells fine", fine)
    return framed(spy, sheet, entries)


def _image(sheet: Sheet, kind: str, png: bytes) -> str:
    place = f'x="{sheet.left}" y="{sheet.top}" width="{sheet.cols.length}" height="{sheet.rows.length}"'
    return f'<image class="{kind}" {place} preserveAspectRatio="none" href="{data_uri(png)}"/>'


def _finest(spy: Spy, values: np.ndarray, scale: Scale) -> bytes:
    """An image as fine as the limit on its size allows, if that is finer than the picture."""
    for most in _FINEST:
        finer = axes(spy.n_rows, spy.n_cols, min(most, max(spy.n_rows, spy.n_cols)), 1)
        if max(axis.cells for axis in finer) <= MOST_CELLS:
            break
        made = _png(spy, values, scale, finer)
        if len(made) <= _LARGEST:
            return made
    return b""


def _png(spy: Spy, values: np.ndarray, scale: Scale, cells: tuple[Axis, Axis]) -> bytes:
    return indexed_png(scale.shades(_cells(spy, values, *cells)), palette())


def _cells(spy: Spy, values: np.ndarray, rows: Axis, cols: Axis) -> np.ndarray:
    """The largest entry of each cell [rows.cells, cols.cells], with its sign."""
    cells = (rows.cell_of() * cols.cells)[spy.rows] + cols.cell_of()[spy.cols]
    order = np.argsort(np.abs(values), kind="stable")  # the last one written stays
    grid = np.zeros(rows.cells * cols.cells)
    grid[cells[order]] = values[order]
    return grid.reshape(rows.cells, cols.cells)


def heat_png(values: np.ndarray, scale: Scale | None = None) -> bytes:
    """A grid [height, width] of values as a PNG file, one pixel for each."""
    return indexed_png((scale or Scale.of(values)).shades(values), palette())
