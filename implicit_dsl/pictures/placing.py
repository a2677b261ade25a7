"""Where the boxes and lines of a layered network lie, in pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from implicit_dsl.pictures.layers import Layers
from implicit_dsl.pictures.spacing import spread

GAP = 28  # between neighbours in a layer
BEND = (20.0, 54.0)  # between layers, where lines go aside: at least and at most
SLOPE = 0.14  # how much higher a bend is for each pixel that its line goes aside
ROUNDS = 80
STRAIGHT = 4.0  # how much more two stand-ins of a line pull at each other than a block and a line


@dataclass(frozen=True, slots=True)
class Places:
    """The centre of each cell, and the bands of the layers: (top, bottom)."""

    x: dict[int, float]
    y: dict[int, float]
    bands: tuple[tuple[float, float], ...]
    width: float
    height: float


def place(layers: Layers, nodes: int, widths: Sequence[float], heights: Sequence[float]) -> Places:
    """Centres for cells of given sizes: each near its neighbours above and below, none over another."""
    x = _straightened(layers, widths, _columns(layers, nodes, widths))
    left = min((x[cell] - widths[cell] / 2 for cell in x), default=0.0)
    right = max((x[cell] + widths[cell] / 2 for cell in x), default=0.0)
    x = {cell: round(at - left, 1) for cell, at in x.items()}
    aside = [0.0] * len(layers.layers)  # the widest step of a line from the layer above
    for line in layers.lines:
        for upper, lower in pairwise(line.cells):
            at = layers.layer_of[lower]
            aside[at] = max(aside[at], abs(x[upper] - x[lower]))
    bands: list[tuple[float, float]] = []
    for layer, step in zip(layers.layers, aside):
        low, high = BEND
        top = bands[-1][1] + round(min(high, low + SLOPE * step)) if bands else 0.0
        bands.append((top, top + max(heights[cell] for cell in layer)))
    y = {cell: sum(bands[at]) / 2 for cell, at in layers.layer_of.items()}
    return Places(x, y, tuple(bands), right - left, bands[-1][1] if bands else 0.0)


def _columns(layers: Layers, nodes: int, widths: Sequence[float]) -> dict[int, float]:
    """Centres along the layers, by letting each layer in turn follow those around it."""
    pulls = _pulls(layers, nodes)
    order = [(layer, [widths[cell] + GAP for cell in layer]) for layer in layers.layers]
    x: dict[int, float] = {}
    for layer, extents in order:
        x.update(zip(layer, spread([0.0] * len(layer), extents)))
    for turn in range(ROUNDS):
        # Down, up, and so on. The first turns look only where they come from, which moves
        # whole branches at once; the later ones look both ways, which evens things out.
        both, down = turn >= ROUNDS // 4, turn % 2 == 0
        for layer, extents in order if down else reversed(order):
            wanted, weights = [], []
            for cell in layer:
                near = [
                    (x[other], strength)
                    for other, strength in pulls[cell]
                    if both or (layers.layer_of[other] < layers.layer_of[cell]) == down
                ]
                total = sum(strength for _, strength in near)
                wanted.append(sum(at * strength for at, strength in near) / total if near else x[cell])
                weights.append(total or 0.01)
            x.update(zip(layer, spread(wanted, extents, weights)))
    return x


def _pulls(layers: Layers, nodes: int) -> dict[int, list[tuple[int, float]]]:
    """What each cell wants to be near, and how much.

    A block shares its pull among its lines, so that a label stands in line with the block
    that has no other line, and not between that one and a busy one.
    """
    pulls: dict[int, list[tuple[int, float]]] = {cell: [] for cell in layers.layer_of}
    lines = _lines_at(layers)
    for line in layers.lines:
        for upper, lower in pairwise(line.cells):
            shares = [lines[cell, side] for side, cell in ((0, upper), (1, lower)) if cell < nodes]
            strength = 1 / max(shares) if shares else STRAIGHT
            pulls[upper].append((lower, strength))
            pulls[lower].append((upper, strength))
    return pulls


def _lines_at(layers: Layers) -> Counter[tuple[int, int]]:
    """How many lines each block has below (0) and above (1) it."""
    return Counter((line.cells[-side], side) for line in layers.lines for side in (0, 1))


def _straightened(layers: Layers, widths: Sequence[float], x: dict[int, float]) -> dict[int, float]:
    """The same with the stand-ins of each line on one vertical, for as long as their neighbours allow it.

    If possible, that is the vertical of a block at its end that has no other line on that side.
    """
    x, lines = dict(x), _lines_at(layers)
    beside = {right: left for layer in layers.layers for left, right in pairwise(layer)}
    after = {left: right for right, left in beside.items()}

    def free(cell: int) -> tuple[float, float]:
        left, right = beside.get(cell), after.get(cell)
        low = float("-inf") if left is None else x[left] + (widths[left] + widths[cell]) / 2 + GAP
        high = float("inf") if right is None else x[right] - (widths[right] + widths[cell]) / 2 - GAP
        return low, high

    for line in sorted(layers.lines, key=lambda line: -len(line.cells)):
        alone = [x[line.cells[-side]] for side in (1, 0) if lines[line.cells[-side], side] == 1]
        rest = line.cells[1:-1]
        while rest:
            low, high, length = *free(rest[0]), 1
            for cell in rest[1:]:
                least, most = free(cell)
                if max(low, least) > min(high, most):
                    break
                low, high, length = max(low, least), min(high, most), length + 1
            together, rest = rest[:length], rest[length:]
            wanted = alone[0] if alone else sum(x[cell] for cell in together) / length
            if low <= high:
                x.update(dict.fromkeys(together, min(max(wanted, low), high)))
    return x
