"""Reshapes: the atoms of a tensor grouped as axes of other sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Atom,
    Axis,
    Misfit,
    Value,
    flat,
    materialised,
    renamed,
)


@dataclass(frozen=True, slots=True)
class Size:
    """A number times free sizes, such as 7 · batch, by their symbols."""

    times: int
    free: tuple[str, ...] = ()

    def __mul__(self, other: Size) -> Size:
        return Size(self.times * other.times, tuple(sorted((*self.free, *other.free))))

    def divides(self, other: Size) -> bool:
        rest = Counter(self.free)
        rest.subtract(other.free)
        return other.times % self.times == 0 and all(count <= 0 for count in rest.values())


ONE = Size(1)


def size_of(traced: Any, batch: str) -> Size:
    """A size of the traced graph; the symbol `batch` of it is that of the batch axis."""
    if isinstance(traced, int):
        return Size(traced)
    times, factors = traced.node.expr.as_coeff_mul()
    named = (BATCH.size if str(factor) == batch else str(factor) for factor in factors)
    return Size(int(times), tuple(sorted(map(str, named))))


def axis_of(size: Size) -> Axis:
    """New atoms of this size."""
    free = tuple(BATCH if symbol == BATCH.size else Atom(symbol) for symbol in size.free)
    return (*free, *((Atom(size.times),) if size.times > 1 else ()))


def measure(axis: Axis) -> Size:
    total = ONE
    for atom in axis:
        total *= Size(atom.size) if isinstance(atom.size, int) else Size(1, (atom.size,))
    return total


def regrouped(value: Value, sizes: Sequence[Size]) -> Value:
    """The tensor reshaped to these sizes, row by row. Raises Misfit where that would tear the batch apart."""
    if [measure(axis) for axis in value.axes] == list(sizes):
        return value
    remaining = list(flat(value.axes))
    axes: list[Axis] = []
    names: dict[Atom, Axis] = {}
    pending = list(sizes)
    while pending:
        if pending[0] == ONE:
            axes.append(())
            pending.pop(0)
            continue
        taken, wanted = [remaining.pop(0)], [pending.pop(0)]
        while (had := measure(tuple(taken))) != (want := _product(wanted)):
            if pending and (want.divides(had) or not remaining):
                wanted.append(pending.pop(0))
            elif remaining:
                taken.append(remaining.pop(0))
            else:
                raise Misfit(f"it makes {had} of {want}")
        split = _split(taken, wanted)
        if split is None:
            return regrouped(_merged(value, tuple(taken)), sizes)
        names.update(split[0])
        axes.extend(split[1])
    return replace(renamed(value, names), axes=tuple(axes), parameter=None, scores=None)


def _product(sizes: Sequence[Size]) -> Size:
    total = ONE
    for one in sizes:
        total *= one
    return total


def _split(taken: list[Atom], wanted: list[Size]) -> tuple[dict[Atom, Axis], list[Axis]] | None:
    """Atoms, split where needed, shared out to axes of these sizes; None if they have to be merged."""
    rest: list[tuple[Atom, int | str]] = [(atom, atom.size) for atom in taken]
    pieces: dict[Atom, list[Atom]] = {atom: [] for atom in taken}
    axes: list[Axis] = []
    for size in wanted:
        times, free, got = size.times, list(size.free), []
        while times > 1 or free:
            atom, left = rest.pop(0)
            if isinstance(left, str):
                if left not in free:
                    return None
                free.remove(left)
                piece = atom
            else:
                part = gcd(times, left)
                if part == 1 or (part < left and part != times):
                    return None
                times //= part
                piece = atom if part == atom.size else Atom(part)
                if part < left:
                    rest.insert(0, (atom, left // part))
            pieces[atom].append(piece)
            got.append(piece)
        axes.append(tuple(got))
    return {atom: tuple(made) for atom, made in pieces.items() if made != [atom]}, axes


def _merged(value: Value, run: Axis) -> Value:
    """The same with a run of atoms as one, moved together in the program."""
    if BATCH in run:
        raise MIXES
    if any(isinstance(atom.size, str) for atom in run):
        raise Misfit("it mixes an axis of free size with others")
    new = Atom(measure(run).times)
    axes = tuple(_replaced(axis, run, new) for axis in value.axes)
    have = flat(value.stored)
    if not set(run) & set(have):  # all of it is repeated
        return replace(value, axes=axes)
    rest = [(atom,) for atom in have if atom not in run]
    at = have.index(run[0]) if run[0] in have else len(rest)
    if have[at : at + len(run)] != run:
        at = len(rest)
    order = (*rest[:at], run, *rest[at:])
    moved = materialised(value, order)
    return replace(moved, stored=(*rest[:at], (new,), *rest[at:]), axes=axes)


def _replaced(axis: Axis, run: Axis, new: Atom) -> Axis:
    """The axis with the run as one atom, which stands where its first was."""
    return tuple(new if atom is run[0] else atom for atom in axis if atom is run[0] or atom not in run)
