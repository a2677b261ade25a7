"""Values side by side, and parts of them: what moves entries along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from implicit_dsl.translation import terms
from implicit_dsl.translation.broadcasting import aligned
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Atom,
    Axes,
    Axis,
    Misfit,
    Value,
    flat,
    isolated,
    length,
    materialised,
    network_term,
    seen,
    size,
    without_batch,
)


def axis_of_size(count: int) -> Axis:
    return (Atom(count),) if count > 1 else ()


def with_axis(axes: Axes, at: int, axis: Axis) -> Axes:
    """The axes with another one in the place `at`."""
    return (*axes[:at], axis, *axes[at + 1 :])


def joined(values: Sequence[Value], dim: int) -> Value:
    """`torch.cat` along an axis of the tensors."""
    if any(BATCH in one.axes[dim] for one in values):
        raise MIXES
    values = [one for one in values if length(one.axes[dim])]
    if len(values) == 1:
        return values[0]
    rank, count = len(values[0].axes), len(values)
    # an axis of its own for what each brings along `dim`; the others are the same for all
    spread = [
        replace(
            one,
            axes=(*with_axis(one.axes, dim, ()), *(one.axes[dim] if k == at else () for k in range(count))),
        )
        for at, one in enumerate(values)
    ]
    matched, axes = aligned(spread)
    common, own = axes[:rank], axes[rank:]
    needed = {a for one in matched for a in flat(one.stored)} - set(flat(own))
    lead, rest = (
        tuple(tuple(a for a in axis if a in needed) for axis in without_batch(part))
        for part in (common[:dim], common[dim + 1 :])
    )
    parts = [materialised(one, (*lead, own[at], *rest)) for at, one in enumerate(matched)]
    new = axis_of_size(sum(length(axis) for axis in own))
    stored, result = (*lead, new, *rest), with_axis(common, dim, new)
    if all(one.folded for one in parts):
        held = [one.constant for one in parts if one.constant is not None]
        return Value(None, stored, result, torch.cat(held, len(lead)))
    settings = f"dim = {len(lead) + 1}" if lead else ""
    return Value(terms.call("cat", *map(network_term, parts), settings=settings), stored, result)


def ranged(x: Value, dim: int, first: int, last: int, step: int = 1) -> Value:
    """The places first, first + step, … before `last` of an axis, counted from 0."""
    chosen = range(first, last, step)
    if len(chosen) == length(x.axes[dim]):
        return x
    if not chosen:
        raise Misfit("it takes nothing of an axis, and values of the language are not empty")
    new = axis_of_size(len(chosen))
    axes = with_axis(x.axes, dim, new)
    if not set(x.axes[dim]) & set(flat(x.stored)):
        return seen(x, axes)
    place, rest = _in_front(x, dim) if step == 1 else (None, ())
    if place is not None:  # of an axis [3, 8] that is one, the second of 3 are the places 9 to 16
        inner = length(rest)
        return _cut(x, place, range(first * inner, last * inner), (*new, *rest), axes)
    moved, (place,) = isolated(x, [dim])
    return _cut(moved, place, chosen, new, axes)


def selected(x: Value, dim: int, at: int) -> Value:
    """One place of an axis, which goes away."""
    if dim == 0 and x.parts:
        return x.parts[at]
    rest = x.axes[:dim] + x.axes[dim + 1 :]
    if BATCH in x.axes[dim]:
        raise MIXES
    if not set(x.axes[dim]) & set(flat(x.stored)):  # of size 1, or the same everywhere
        return seen(x, rest)
    if isinstance(size(x.axes[dim]), str):
        return _last(x, dim, at, rest)
    if _in_front(x, dim)[0] is not None:
        at %= length(x.axes[dim])
        return seen(ranged(x, dim, at, at + 1), rest)
    moved, (place,) = isolated(x, [dim])
    chosen = at % length(moved.stored[place])
    term, held = moved.term, moved.constant
    if term is not None:
        term = terms.index(term, [chosen + 1 if k == place else None for k in range(len(moved.stored))])
    stored = moved.stored[:place] + moved.stored[place + 1 :]
    return Value(term, stored, rest, None if held is None else held.select(place, chosen))


def _last(x: Value, dim: int, at: int, axes: Axes) -> Value:
    """The last place of an axis of free size; others cannot be told."""
    if at != -1:
        raise Misfit("it takes a place of an axis that is free, and only the last one can be taken")
    moved, (place,) = isolated(x, [dim])
    others = moved.stored[:place] + moved.stored[place + 1 :]
    first = materialised(moved, (moved.stored[place], *others))
    return Value(terms.call("last", network_term(first)), others, axes)


def _in_front(x: Value, dim: int) -> tuple[int | None, Axis]:
    """The axis of the program that begins with this axis of the tensor, and what follows in it."""
    wanted = x.axes[dim]
    for place, axis in enumerate(x.stored):
        if wanted and len(axis) > len(wanted) and axis[: len(wanted)] == wanted:
            return place, axis[len(wanted) :]
    return None, ()


def _cut(x: Value, place: int, chosen: range, new: Axis, axes: Axes) -> Value:
    """Some places of an axis of the program."""
    term, held = x.term, x.constant
    if term is not None:
        first, last, step = chosen[0] + 1, chosen[-1] + 1, chosen.step
        ends = (first, last) if step == 1 else (first, step, last)
        term = terms.index(term, [ends if at == place else None for at in range(len(x.stored))])
    if held is not None:
        held = held.index_select(place, torch.tensor(list(chosen), device=held.device))
    return Value(term, with_axis(x.stored, place, new), axes, held)


def picked(x: Value, dim: int, places: Sequence[int], most: int = 256) -> Value:
    """Some places of an axis, by as few ranges as give them."""
    runs: list[list[int]] = []
    for at in places:
        if runs and runs[-1][1] == at:
            runs[-1][1] = at + 1
        else:
            runs.append([at, at + 1])
    if len(runs) > most:
        raise Misfit(f"it picks {len(runs)} separate places, and at most {most} are written out")
    return joined([ranged(x, dim, first, last) for first, last in runs], dim)
