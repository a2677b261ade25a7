"""Linear bounds of activations on boxes, which is what backward bounds of networks are made of.

On a box of its slots, φ lies between linear functions: z ↦ Σ slope·z + offset for each entry. For an
elementwise φ a line of slope s lies above φ with the offset max φ(z) − s z, and closest to it, on average
over the box, where that plus s times the middle is least: a convex function of s. How φ' runs (`Curve`) says
where the maximum is. (Zhang et al. 2018, CROWN; McCormick 1976 for products.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np

    from implicit_dsl.operators.base import ActivationRule, Operator
    from implicit_dsl.operators.elementwise import Elementwise
else:
    np = lazy_module("numpy")

Slopes: TypeAlias = "Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]"
LIBRARY = 1e-13  # the error of NumPy's and SciPy's functions, absolute and relative, generously
_COARSE, _FINE, _SEARCH = 24, 60, 12  # halvings: of a place, of one that counts, of a slope
_BOXES = 8  # on the way from the middle of a box to its sides
_NARROW = 1e-9  # of a box, relatively: below, a line is a constant


@dataclass(frozen=True)
class Line:
    """A linear function of the slots for each entry of the state: `slope` [batch, k, states], `offset`."""

    slope: np.ndarray
    offset: np.ndarray

    def at(self, read: np.ndarray) -> np.ndarray:
        """Its values [batch, states] for the slots that it reads, [batch, k, states]."""
        return np.asarray((self.slope * read).sum(-2) + self.offset)


@dataclass(frozen=True)
class Lines:
    """below ≤ φ ≤ above: functions of the slots `index` [k, states], flat. The first of each is the closest.

    Where there are two of a side, what lies between them bounds as well.
    """

    index: np.ndarray
    below: tuple[Line, ...]
    above: tuple[Line, ...]

    @property
    def pairs(self) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
        """Those below, and those above."""
        return self.below, self.above

    @cached_property
    def is_entrywise(self) -> bool:
        """Whether each state reads the slot of its own number."""
        return len(self.index) == 1 and bool((self.index[0] == np.arange(self.index.shape[1])).all())

    @cached_property
    def sets(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The slots [sets, places] and the states [sets, n] of sets in which all states read the same slots.

        None if these are not as large as each other, or share a slot.
        """
        places, states = self.index.shape
        if places < 2 or states < 2 or (self.index[:, :1] == self.index).all(0).sum() < 2:
            return None
        read, number = np.unique(self.index, axis=1, return_inverse=True)
        each = np.bincount(number.reshape(-1))
        if len(np.unique(each)) > 1 or len(np.unique(read)) < read.size:
            return None
        return read.T, np.argsort(number.reshape(-1), kind="stable").reshape(len(each), -1)

    @cached_property
    def adding(self) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray] | None, ...]:
        """For each place how values of the states are added up by slot: their order, the slots, their starts.

        None where no slot is read twice.
        """
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None] = []
        for index in self.index:
            order = np.argsort(index, kind="stable")
            slots, starts = np.unique(index[order], return_index=True)
            found.append(None if len(slots) == len(index) else (order, slots, starts))
        return tuple(found)


def flat(lines: tuple[np.ndarray, np.ndarray]) -> Lines:
    """Constants [batch, *target] below and above."""
    low, high = (bound.reshape(len(bound), -1) for bound in lines)
    none = np.zeros((len(low), 0, low.shape[1]))
    return Lines(np.zeros((0, low.shape[1]), np.intp), (Line(none, low),), (Line(none, high),))


def outwards(
    lower: np.ndarray, upper: np.ndarray, least: float, most: float
) -> tuple[np.ndarray, np.ndarray]:
    """Computed bounds, rounded outwards and within what φ can be at all, which also stands for NaN."""
    low = np.maximum(lower - 4 * LIBRARY * (1e-3 + np.abs(lower)), least)
    high = np.minimum(upper + 4 * LIBRARY * (1e-3 + np.abs(upper)), most)
    return np.where(np.isnan(low), least, low), np.where(np.isnan(high), most, high)


def image(
    rule: ActivationRule, operator: Operator, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`ActivationRule.image` from the range, the majorant, and whether φ is monotone."""
    low, high = rule.range(operator) or (-np.inf, np.inf)
    if rule.monotone(operator):
        return outwards(rule.reference(operator, lower), rule.reference(operator, upper), low, high)
    middle = (lower + upper) / 2
    # what rounding makes of the value is what slightly other slots make of it
    size = np.abs(middle).reshape(len(middle), -1).sum(1)
    pad = 1e-15 * (4 + size).reshape(-1, *[1] * (middle.ndim - 1))
    half = np.maximum(upper - middle, middle - lower) + pad
    with np.errstate(all="ignore"):
        moved = rule.majorant_on(operator, half, lower - pad, upper + pad)
        value = rule.reference(operator, middle)
    return outwards(value - moved, value + moved, low, high)


def entrywise(below: tuple[Line, ...], above: tuple[Line, ...]) -> Lines:
    """Lines of which each reads the slot of its own entry."""
    return Lines(np.arange(below[0].offset.shape[1])[None], below, above)


def line(slope: np.ndarray, offset: np.ndarray) -> Line:
    """A line of each entry's own slot, from arrays [batch, states]."""
    return Line(slope[:, None], offset)


def relu_lines(lower: np.ndarray, upper: np.ndarray) -> Lines:
    """Of max(z, 0) on [batch, states]: the chord above, 0 and z below."""
    dead, open_ = upper <= 0, lower >= 0
    width = np.where(dead | open_, 1.0, upper - lower)
    chord = np.where(open_, 1.0, np.where(dead, 0.0, upper / width))
    slack = (4 * LIBRARY) * (np.abs(lower) + np.abs(upper))
    above = line(chord, np.where(dead | open_, 0.0, -chord * lower + slack))
    near = np.where(open_, 1.0, np.where(dead, 0.0, upper > -lower).astype(float))
    far = np.where(dead | open_, near, 1 - near)
    zero = np.zeros_like(lower)
    return entrywise((line(near, zero), line(far, zero)), (above,))


class Excess:
    """φ(z) − s z on intervals [lower, upper] of arrays of one shape; between `turns`, φ' is monotone."""

    def __init__(
        self,
        rule: Elementwise,
        operator: Operator,
        turns: Sequence[float],
        lower: np.ndarray,
        upper: np.ndarray,
    ) -> None:
        self._rule, self._operator = rule, operator
        self.lower, self.upper = lower, upper
        cuts = [lower, *(np.clip(point, lower, upper) for point in turns), upper]
        self._pieces = list(pairwise(cuts))

    def value(self, z: np.ndarray) -> np.ndarray:
        return self._rule.reference(self._operator, z)

    def derivative(self, z: np.ndarray) -> np.ndarray:
        return self._rule.derivative(self._operator, z)

    def place(self, slope: np.ndarray, sign: float) -> np.ndarray:
        """Where sign·(φ(z) − s z) is largest, about."""
        best, place = np.full_like(self.lower, -np.inf), self.lower
        for a, b in self._ends(slope, _COARSE):
            for z in (a, b):
                found = sign * (self.value(z) - slope * z)
                place, best = np.where(found > best, z, place), np.maximum(best, found)
        return place

    def largest(self, slope: np.ndarray, sign: float) -> np.ndarray:
        """An upper bound of sign·(φ(z) − s z), from intervals in which it is monotone but for one place."""
        best = np.full_like(self.lower, -np.inf)
        for a, b in self._ends(slope, _FINE):
            steep = np.maximum(np.abs(self.derivative(a) - slope), np.abs(self.derivative(b) - slope))
            values = [self.value(z) for z in (a, b)]
            sizes = 1 + np.maximum(*map(np.abs, values)) + np.abs(slope) * np.maximum(np.abs(a), np.abs(b))
            ends = np.maximum(*(sign * (value - slope * z) for value, z in zip(values, (a, b))))
            best = np.maximum(best, ends + steep * (b - a) + 4 * LIBRARY * sizes)
        return best

    def _ends(self, slope: np.ndarray, halvings: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Intervals whose ends are all places of extremes but for what lies within the intervals.

        Between turning points φ' is monotone, so that φ' − s has one change of sign at most: the interval
        around it is halved. What is left of the piece on its sides has its extremes at their ends.
        """
        found = []
        for start, end in self._pieces:
            inner = (end - start) * 2.0**-40
            a, b = start, end
            rising = self.derivative(b - inner) >= self.derivative(a + inner)
            for _ in range(halvings):
                middle = (a + b) / 2
                over = (self.derivative(middle) > slope) == rising
                a, b = np.where(over, a, middle), np.where(over, middle, b)
            found += [(start, start), (a, b), (end, end)]
        return found


def curved_lines(
    rule: Elementwise, operator: Operator, turns: Sequence[float], lower: np.ndarray, upper: np.ndarray
) -> Lines:
    """Of an elementwise φ on [batch, states]: the closest on average, and the chord."""
    excess = Excess(rule, operator, turns, lower, upper)
    narrow = upper - lower <= _NARROW * (1 + np.abs(lower) + np.abs(upper))
    width = np.where(narrow, 1.0, upper - lower)
    chord = np.where(narrow, 0.0, (excess.value(upper) - excess.value(lower)) / width)
    middle = (lower + upper) / 2
    made = []
    for sign in (1.0, -1.0):
        slope = np.where(narrow, 0.0, _closest(excess, chord, middle, sign))
        lines = [line(s, sign * excess.largest(s, sign)) for s in (slope, chord)]
        heights = [sign * (one.slope[:, 0] * middle + one.offset) for one in lines]
        first = heights[0] <= heights[1]
        made.append(tuple(either(first, *pair) for pair in ((lines[0], lines[1]), (lines[1], lines[0]))))
    above, below = made
    return entrywise(below, above)


def or_constants(lines: Lines, known: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> Lines:
    """Lines of which some are not `known` [batch, states], or no numbers: there the ends of the image."""
    sides = []
    for some, end in zip((lines.below, lines.above), ends):
        constant = end.reshape(len(end), -1)
        made = []
        for one in some:
            usable = known & np.isfinite(one.slope).all(1) & np.isfinite(one.offset)
            slope = np.where(usable[:, None], one.slope, 0.0)
            made.append(Line(slope, np.where(usable, one.offset, constant)))
        sides.append(tuple(made))
    return Lines(lines.index, *sides)


def either(first: np.ndarray, one: Line, other: Line) -> Line:
    """One line for the states that are `first` [batch, states], and another for the rest."""
    return Line(
        np.where(first[:, None], one.slope, other.slope), np.where(first, one.offset, other.offset)
    )  # fmt: skip


def _closest(excess: Excess, chord: np.ndarray, middle: np.ndarray, sign: float) -> np.ndarray:
    """The slope of the line that is closest on average: it touches in the middle, or on both sides.

    Where it touches right of the middle, one with a larger slope is closer above, and a smaller one below.
    """
    reach = np.maximum.reduce([np.abs(excess.derivative(z)) for z in (excess.lower, middle, excess.upper)])
    low, high = chord - 2 * reach - 1e-3, chord + 2 * reach + 1e-3
    for _ in range(_SEARCH):
        slope = (low + high) / 2
        right = (excess.place(slope, sign) > middle) == (sign > 0)
        low, high = np.where(right, slope, low), np.where(right, high, slope)
    return np.asarray((low + high) / 2)


def mean_slopes(slopes: Slopes, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the mean derivative on the way from the middle of a box to any of its points.

    `slopes` bounds the derivatives on a box. A share t of the way lies in the box with sides t times as long,
    so that the mean of their bounds on boxes that grow in steps is closer than those on the whole box.
    """
    middle, half = (lower + upper) / 2, (upper - lower) / 2 * (1 + 4 * LIBRARY)
    least = most = np.zeros(1)
    for number in range(1, _BOXES):
        room = number / _BOXES * half
        low, high = slopes(middle - room, middle + room)
        least, most = least + low / _BOXES, most + high / _BOXES
    low, high = slopes(lower, upper)
    return least + low / _BOXES, most + high / _BOXES


def secant_lines(
    value: np.ndarray, least: np.ndarray, most: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> Lines:
    """From φ in the middle and bounds of φ' on the box, all [batch, states], by the mean value theorem.

    φ(z) ≤ φ(m) + (slope of the chord of z ↦ max (least (z − m), most (z − m))) and so below.
    """
    half = (upper - lower) / 2
    slope, spread = (least + most) / 2, (most - least) / 2
    middle = (lower + upper) / 2
    slack = 8 * LIBRARY * (1 + np.abs(value) + (np.abs(slope) + spread) * (np.abs(middle) + half))
    reach = spread * half * (1 + 8 * LIBRARY) + slack
    centre = value - slope * middle
    return entrywise((line(slope, centre - reach),), (line(slope, centre + reach),))


def product_lines(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], index: np.ndarray
) -> Lines:
    """McCormick's bounds of Σ a·b: arrays [batch, m, states], and `index` [2, m, states] of a and of b."""
    (al, au), (bl, bu) = a, b
    size = np.maximum(np.abs(al), np.abs(au)) * np.maximum(np.abs(bl), np.abs(bu))
    slack = 16 * LIBRARY * (1 + size).sum(1)

    def made(x: np.ndarray, y: np.ndarray, sign: float) -> Line:
        """y a + x b − x y."""
        return Line(np.concatenate((y, x), 1), -(x * y).sum(1) + sign * slack)

    flat_index = index.reshape(-1, index.shape[-1])
    below, above = (made(al, bl, -1), made(au, bu, -1)), (made(au, bl, 1), made(al, bu, 1))
    return Lines(flat_index, below, above)


def largest_lines(index: np.ndarray, inside: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> Lines:
    """Of the largest of several slots: `index` and `inside` [k, states], the boxes [batch, k, states].

    Below, each of the slots: the one that is largest at least, or in the middle. Above, with the slot j that
    can be largest and the most M that the others can be: max ≤ max (z_j, M), which has a chord.
    """
    lower, upper = np.where(inside, lower, -np.inf), np.where(inside, upper, -np.inf)
    taps = np.arange(len(index))[:, None]

    def chosen(values: np.ndarray) -> np.ndarray:
        return np.asarray(taps == values.argmax(1)[:, None])

    with np.errstate(invalid="ignore"):
        middle = np.where(inside, (lower + upper) / 2, -np.inf)
    zero = np.zeros((len(lower), lower.shape[2]))
    below = tuple(Line(chosen(values).astype(float), zero) for values in (lower, middle))
    winner = chosen(upper)
    others = np.where(winner, -np.inf, upper).max(1)
    low, high = (np.where(winner, bound, 0.0).sum(1) for bound in (lower, upper))
    alone = others <= low
    most = np.where(alone, low, others)
    width = np.where(alone | (high <= low), 1.0, high - low)
    slope = np.where(alone, 1.0, np.maximum(high - most, 0.0) / width)
    slack = 8 * LIBRARY * (np.abs(low) + np.abs(high) + np.abs(most))
    offset = np.where(alone, 0.0, most - slope * low + slack)
    return Lines(index, below, (Line(np.where(winner, slope[:, None], 0.0), offset),))


def mirrored(lines: Lines) -> Lines:
    """Of z ↦ −φ(−z), from those of φ on the mirrored box."""

    def turned(some: tuple[Line, ...]) -> tuple[Line, ...]:
        return tuple(Line(one.slope, -one.offset) for one in some)

    return Lines(lines.index, turned(lines.above), turned(lines.below))


def side_by_side(first: Lines, second: Lines) -> Lines:
    """Of two parts of a state, one after the other, that read equally many slots."""

    def joined(some: tuple[Line, ...], others: tuple[Line, ...]) -> tuple[Line, ...]:
        most = max(len(some), len(others))
        pairs = zip(some + some[-1:] * (most - len(some)), others + others[-1:] * (most - len(others)))
        return tuple(
            Line(np.concatenate((a.slope, b.slope), 2), np.concatenate((a.offset, b.offset), 1))
            for a, b in pairs
        )

    index = np.concatenate((first.index, second.index), 1)
    return Lines(index, joined(first.below, second.below), joined(first.above, second.above))
