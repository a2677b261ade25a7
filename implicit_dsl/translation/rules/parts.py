"""Slices, joins, and what is written into them; padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from implicit_dsl.translation import terms
from implicit_dsl.translation.joining import axis_of_size, joined, picked, ranged, selected, with_axis
from implicit_dsl.translation.regrouping import axis_of, measure
from implicit_dsl.translation.site import Result, Rule, Site, known
from implicit_dsl.translation.values import BATCH, MIXES, Value, length, network_term, seen, whole


def select(site: Site, x: Value, dim: int, at: int) -> Value:
    return selected(x, dim % len(x.axes), at)


def cut(
    site: Site, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """A range of an axis; all of the batch axis is the batch."""
    dim %= len(x.axes)
    if measure(x.axes[dim]) == site.sizes[dim]:
        return x
    if BATCH in x.axes[dim]:
        raise MIXES
    return ranged(x, dim, *slice(start, end, step).indices(length(x.axes[dim])))


def narrow(site: Site, x: Value, dim: int, start: int, count: int) -> Value:
    return cut(site, x, dim, start, start + count)


def split(site: Site, x: Value, sizes: Sequence[int] | int, dim: int = 0) -> Result:
    """Ranges of an axis, one behind the other: of these sizes, or each of this size."""
    dim %= len(x.axes)
    count = length(x.axes[dim])
    if isinstance(sizes, int):
        sizes = [min(sizes, count - at) for at in range(0, count, sizes)]
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    return tuple(ranged(x, dim, start, start + one) for start, one in zip(starts, sizes))


def chunk(site: Site, x: Value, chunks: int, dim: int = 0) -> Result:
    return split(site, x, -(-length(x.axes[dim]) // chunks), dim)


def unbind(site: Site, x: Value, dim: int = 0) -> Result:
    dim %= len(x.axes)
    return tuple(selected(x, dim, at) for at in range(length(x.axes[dim])))


def cat(site: Site, values: Sequence[Value], dim: int = 0) -> Value:
    rank = max(len(one.axes) for one in values)
    kept = [one for one in values if len(one.axes) == rank]  # an empty vector may stand anywhere
    return joined(kept, dim % rank)


def stack(site: Site, values: Sequence[Value], dim: int = 0) -> Value:
    at = dim % (len(values[0].axes) + 1)
    apart = [seen(one, (*one.axes[:at], (), *one.axes[at:])) for one in values]
    made = joined(apart, at)
    return replace(made, parts=tuple(values)) if at == 0 else made


def indexed(site: Site, x: Value, indices: Sequence[Value | None]) -> Value:
    """`x[:, [2, 0, 1]]`: known places of one axis."""
    chosen = [(at, one) for at, one in enumerate(indices) if one is not None]
    if len(chosen) != 1 or len(chosen[0][1].axes) > 1:
        raise site.refuse("it takes entries by lists for several axes", "take them axis by axis")
    return index_select(site, x, *chosen[0])


def index_select(site: Site, x: Value, dim: int, places: Value) -> Value:
    if places.constant is None:
        raise site.refuse("its indices depend on the inputs", "a table of vectors is an nn.Embedding")
    dim %= len(x.axes)
    count, wanted = length(x.axes[dim]), length(places.axes[0]) if places.axes else 1
    listed = places.constant.expand(wanted).tolist()
    made = picked(x, dim, [int(one) % count for one in listed])
    return made if places.axes else seen(made, made.axes[:dim] + made.axes[dim + 1 :])


def scattered(
    site: Site,
    x: Value,
    part: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """x with a range of an axis replaced."""
    dim %= len(x.axes)
    if measure(x.axes[dim]) == measure(part.axes[dim]):
        return part
    count = length(x.axes[dim])
    first, last, step = slice(start, end, step).indices(count)
    if step != 1:
        raise site.refuse("it writes into every second place or so, and not into a range")
    before = [ranged(x, dim, 0, first)] if first else []
    behind = [ranged(x, dim, last, count)] if last < count else []
    return joined([*before, part, *behind], dim)


def scattered_at(site: Site, x: Value, part: Value, dim: int, at: int) -> Value:
    """x with one place of an axis replaced."""
    dim %= len(x.axes)
    at %= length(x.axes[dim])
    return scattered(site, x, seen(part, (*part.axes[:dim], (), *part.axes[dim:])), dim, at, at + 1)


def pad(
    site: Site, x: Value, amounts: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    """`F.pad`: amounts before and behind each axis, the last axis first."""
    last = len(x.axes) - 1
    pairs = {last - at // 2: (amounts[at], amounts[at + 1]) for at in range(0, len(amounts), 2)}
    pairs = {dim: pair for dim, pair in pairs.items() if pair != (0, 0)}
    if any(BATCH in x.axes[dim] for dim in pairs):
        raise MIXES
    return _filled(x, pairs, value or 0) if mode == "constant" else _copied(site, x, pairs, mode)


def _copied(site: Site, x: Value, pairs: dict[int, tuple[int, int]], mode: str) -> Value:
    """By `Pad`, which leaves the first axis as it is."""
    moved = whole(x)
    lead = len(x.axes) - len(moved.stored)
    if lead in pairs or x.axes[:lead] != ((BATCH,),) * lead:
        raise site.refuse("it copies along the first axis behind the batch", "give it an axis of channels")
    places = [pairs.get(at + lead, (0, 0)) for at in range(1, len(moved.stored))]
    before, after = (", ".join(str(pair[at]) for pair in places) for at in (0, 1))
    text = f'Pad([{before}]; after = [{after}], mode = "{mode}")'
    new = tuple(axis_of(one) for one in site.sizes[lead + 1 :])
    return Value(terms.call(text, network_term(moved)), (moved.stored[0], *new), (*x.axes[: lead + 1], *new))


def _filled(x: Value, pairs: dict[int, tuple[int, int]], value: float) -> Value:
    """Known numbers side by side with x; negative amounts are cut off."""
    for dim, (before, after) in pairs.items():
        inner = ranged(x, dim, max(0, -before), length(x.axes[dim]) - max(0, -after))
        edges = [
            replace(known(float(value)), axes=with_axis(inner.axes, dim, axis_of_size(count)))
            if count > 0
            else None
            for count in (before, after)
        ]
        x = joined([one for one in (edges[0], inner, edges[1]) if one is not None], dim)
    return x


RULES: dict[str, Rule] = {
    "aten.select.int": select,
    "aten.slice.Tensor": cut,
    "aten.narrow.default": narrow,
    "aten.split.Tensor": split,
    "aten.split.sizes": split,
    "aten.split_with_sizes.default": split,
    "aten.chunk.default": chunk,
    "aten.unbind.int": unbind,
    "aten.cat.default": cat,
    "aten.concat.default": cat,
    "aten.concatenate.default": cat,
    "aten.stack.default": stack,
    "aten.index.Tensor": indexed,
    "aten.index_select.default": index_select,
    "aten.slice_scatter.default": scattered,
    "aten.select_scatter.default": scattered_at,
    "aten.pad.default": pad,
    "aten.constant_pad_nd.default": lambda site, x, amounts, value=0: pad(
        site, x, amounts, "constant", value
    ),
}
