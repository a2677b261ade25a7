"""Reshapes, transposes and repetitions. Most of them write nothing: see `values`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from implicit_dsl.translation import terms
from implicit_dsl.translation.joining import axis_of_size, joined, ranged
from implicit_dsl.translation.regrouping import ONE, Size, axis_of, measure
from implicit_dsl.translation.site import Rule, Site
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Value,
    isolated,
    length,
    materialised,
    network_term,
    seen,
)


def reshape(site: Site, x: Value, *_: object) -> Value:
    """Everything that keeps the order of entries."""
    return site.shaped(x)


def permute(site: Site, x: Value, dims: Sequence[int]) -> Value:
    return seen(x, tuple(x.axes[dim] for dim in dims))


def transpose(site: Site, x: Value, a: int, b: int) -> Value:
    axes = list(x.axes)
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return seen(x, tuple(axes))


def turned(site: Site, x: Value) -> Value:
    return transpose(site, x, -1, -2) if len(x.axes) > 1 else x


def moved(site: Site, x: Value, sources: Sequence[int], targets: Sequence[int]) -> Value:
    rank = len(x.axes)
    places = {target % rank: source % rank for source, target in zip(sources, targets)}
    rest = iter(at for at in range(rank) if at not in places.values())
    return seen(x, tuple(x.axes[places[at] if at in places else next(rest)] for at in range(rank)))


def expand(site: Site, x: Value, *_: object, **__: object) -> Value:
    """Axes of size 1 are repeated, for which nothing has to be written yet."""
    wanted = site.sizes
    axes = ((),) * (len(wanted) - len(x.axes)) + x.axes
    return seen(x, tuple(axis if axis or one == ONE else axis_of(one) for axis, one in zip(axes, wanted)))


def copied(site: Site, x: Value, source: Value, *_: object) -> Value:
    """What is written over x, in the shape of x."""
    return expand(site, source)


def repeat(site: Site, x: Value, times: Sequence[int]) -> Value:
    """The whole of each axis, some times."""
    wanted = site.sizes
    times = [1] * (len(wanted) - len(times)) + list(times)
    axes = ((),) * (len(wanted) - len(x.axes)) + x.axes
    made = []
    for axis, count, one in zip(axes, times, wanted):
        if axis and measure(axis) != one and BATCH in axis:
            raise MIXES
        made.append(
            (axis if measure(axis) == one else (*axis_of_size(count), *axis)) if axis else axis_of(one)
        )
    return seen(x, tuple(made))


def repeat_interleave(
    site: Site, x: Value, times: int, dim: int | None = None, output_size: object = None
) -> Value:
    """Each entry of an axis, some times."""
    if dim is None:
        raise site.refuse("it repeats entries of all axes as one", "name the axis by `dim`")
    at = dim % len(x.axes)
    if BATCH in x.axes[at]:
        raise MIXES
    return seen(x, (*x.axes[:at], (*x.axes[at], *axis_of_size(times)), *x.axes[at + 1 :]))


def flip(site: Site, x: Value, dims: Sequence[int]) -> Value:
    """`reverse` of the language turns the first axis round."""
    for dim in (one % len(x.axes) for one in dims):
        if BATCH in x.axes[dim]:
            raise MIXES
        if x.axes[dim]:
            apart, (place,) = isolated(x, [dim])
            first, *rest = (place, *(at for at in range(len(apart.stored)) if at != place))
            front = materialised(apart, tuple(apart.stored[at] for at in (first, *rest)))
            x = replace(front, term=terms.call("reverse", network_term(front)), constant=None, parameter=None)
    return x


def roll(site: Site, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    if not dims:
        raise site.refuse("it rolls all entries as one axis", "name the axes by `dims`")
    for shift, dim in zip(shifts, (one % len(x.axes) for one in dims)):
        if BATCH in x.axes[dim]:
            raise MIXES
        count = length(x.axes[dim])
        border = count - shift % count
        if border < count:
            x = joined([ranged(x, dim, border, count), ranged(x, dim, 0, border)], dim)
    return x


def channel_shuffle(site: Site, x: Value, groups: int) -> Value:
    """The channels as a matrix [groups, …], transposed."""
    batch, channels, *rest = site.sizes
    apart = site.shaped(x, (batch, Size(groups), Size(channels.times // groups), *rest))
    return site.shaped(transpose(site, apart, 1, 2))


_KEEPING = (
    "view.default _unsafe_view.default reshape.default flatten.using_ints unflatten.int squeeze.default "
    "squeeze.dim squeeze.dims unsqueeze.default view_as.default reshape_as.default "
    "ravel.default atleast_1d.default atleast_2d.default"
)

RULES: dict[str, Rule] = {
    **{f"aten.{name}": reshape for name in _KEEPING.split()},
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.swapaxes.default": transpose,
    "aten.swapdims.default": transpose,
    "aten.t.default": turned,
    "aten.numpy_T.default": turned,
    "aten.mT.default": turned,
    "aten.matrix_H.default": turned,
    "aten.movedim.intlist": moved,
    "aten.moveaxis.intlist": moved,
    "aten.movedim.int": lambda site, x, a, b: moved(site, x, [a], [b]),
    "aten.moveaxis.int": lambda site, x, a, b: moved(site, x, [a], [b]),
    "aten.expand.default": expand,
    "aten.expand_as.default": expand,
    "aten.broadcast_to.default": expand,
    "aten.copy.default": copied,
    "aten.repeat.default": repeat,
    "aten.tile.default": repeat,
    "aten.repeat_interleave.self_int": repeat_interleave,
    "aten.flip.default": flip,
    "aten.roll.default": roll,
    "aten.channel_shuffle.default": channel_shuffle,
    "aten.native_channel_shuffle.default": channel_shuffle,
}
