"""Values of one shape: their axes are matched, atom by atom, and what is smaller is repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from implicit_dsl.translation.terms import Form, Term
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Atom,
    Axes,
    Axis,
    Value,
    flat,
    fresh,
    length,
    materialised,
    network_term,
    renamed,
    reshaped,
    term_of,
)


def aligned(values: Sequence[Value]) -> tuple[list[Value], Axes]:
    """Values that are broadcast to one shape, with the same atoms, and the axes of that shape."""
    made: list[Value] = []
    axes: Axes = ()
    for value in values:
        one = fresh(value)
        rank = max(len(axes), len(one.axes))
        axes = ((),) * (rank - len(axes)) + axes
        one = replace(one, axes=((),) * (rank - len(one.axes)) + one.axes)
        for place in range(rank):
            made, axes, one = _matched(made, axes, one, place)
        made.append(one)
    return [replace(value, axes=axes) for value in made], axes


def _matched(made: list[Value], axes: Axes, one: Value, place: int) -> tuple[list[Value], Axes, Value]:
    """The same with one axis in common."""
    mine, theirs = axes[place], one.axes[place]
    if not mine or not theirs:
        return made, (*axes[:place], mine or theirs, *axes[place + 1 :]), one
    split = _refined(mine, theirs)
    if split is None:
        if BATCH in mine or BATCH in theirs:
            raise MIXES
        joined = (Atom(length(mine)),)
        made = [_joined(value, mine, joined) for value in made]
        axes = tuple(joined if axis == mine else axis for axis in axes)
        return made, axes, _joined(one, theirs, joined)
    ours, others = split
    made = [renamed(value, ours) for value in made]
    axes = tuple(tuple(new for atom in axis for new in ours.get(atom, (atom,))) for axis in axes)
    return made, axes, renamed(one, others)


def _refined(mine: Axis, theirs: Axis) -> tuple[dict[Atom, Axis], dict[Atom, Axis]] | None:
    """How to split and rename atoms so that both axes have the same ones, if that can be."""
    ours: dict[Atom, list[Atom]] = {}
    others: dict[Atom, list[Atom]] = {}
    a, b = [(atom, atom.size) for atom in mine], [(atom, atom.size) for atom in theirs]
    while a and b:
        (x, m), (y, n) = a.pop(0), b.pop(0)
        if (x is BATCH) != (y is BATCH):
            return None
        if m == n:
            common = x if x is BATCH else Atom(m)
        elif isinstance(m, str) or isinstance(n, str):
            return None
        elif m % n == 0:
            common = Atom(n)
            a.insert(0, (x, m // n))
        elif n % m == 0:
            common = Atom(m)
            b.insert(0, (y, n // m))
        else:
            return None
        ours.setdefault(x, []).append(common)
        others.setdefault(y, []).append(common)
    if a or b:
        return None
    return {k: tuple(v) for k, v in ours.items()}, {k: tuple(v) for k, v in others.items()}


def _joined(value: Value, old: Axis, new: Axis) -> Value:
    """The same with the atoms of an axis as one."""
    if not set(old) & set(flat(value.stored)):
        return replace(value, axes=tuple(new if axis == old else axis for axis in value.axes))
    rest = tuple((atom,) for atom in flat(value.stored) if atom not in old)
    moved = materialised(value, (*rest, old))
    return replace(
        moved, stored=(*rest, new), axes=tuple(new if axis == old else axis for axis in moved.axes)
    )


def entrywise(values: Sequence[Value], make: Callable[..., Term], fold: Callable[..., torch.Tensor]) -> Value:
    """An operation entry by entry on values that are broadcast, on terms or on known numbers."""
    made, axes = aligned(values)
    needed = {atom for value in made for atom in flat(value.stored)}
    full = [value for value in made if value.stored and set(flat(value.stored)) == needed]
    target = full[0].stored if full else tuple(tuple(a for a in axis if a in needed) for axis in axes)
    target = target if needed or full else ()
    if all(value.folded and not value.log for value in made):
        held = [materialised(value, target if value.stored else ()).constant for value in made]
        return Value(None, target, axes, fold(*held))
    first = full[0].term if full else None
    placed = [_placed(value, target, first) for value in made]
    found = [term_of(value) for value in placed]
    if all(term.is_param or term.form is Form.NUMBER for term in found):  # which would be a matrix
        found = [network_term(value) for value in placed]
    return Value(make(*found), target, axes)


def _placed(value: Value, target: Axes, like: Term | None) -> Value:
    """With the axes of the others; one number is a number, which goes with any shape."""
    if not flat(value.stored) and flat(target):
        return reshaped(value, ())
    return value if not value.stored else materialised(value, target, like)
