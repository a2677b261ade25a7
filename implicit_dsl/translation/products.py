"""Products of two values, and attention."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from implicit_dsl.translation import terms
from implicit_dsl.translation.broadcasting import aligned
from implicit_dsl.translation.site import Site, known
from implicit_dsl.translation.terms import Term
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Axis,
    Misfit,
    Scores,
    Value,
    flat,
    length,
    materialised,
    network_term,
    renamed,
    seen,
    size,
    term_of,
    without_batch,
)

_MOST_PRODUCTS = 64  # products that are written out one by one


def turned(x: Value) -> Value:
    """The same with its last two axes exchanged."""
    return seen(x, (*x.axes[:-2], x.axes[-1], x.axes[-2])) if len(x.axes) > 1 else x


def product(site: Site, a: Value, b: Value) -> Value:
    """The product of two values, one by one for the axes in front, with a note of it."""
    if len(b.axes) == 2 and BATCH not in flat(b.axes):  # all rows at once
        every = flat(without_batch(a.axes[:-1]))
        made = product(site, replace(a, axes=((BATCH,), every, a.axes[-1])), seen(b, ((), *b.axes)))
        own = {new: (old,) for new, old in zip(made.axes[-2], every, strict=True)}
        return replace(renamed(made, own), axes=(*a.axes[:-1], made.axes[-1]), scores=None)
    if BATCH in a.axes[-1] or BATCH in b.axes[-2] or BATCH in a.axes[-2] or BATCH in b.axes[-1]:
        raise Misfit(
            "it multiplies samples of the batch with one another", "name the batch axis by `batch_axis`"
        )
    matched, axes = aligned([seen(a, (*a.axes, ())), seen(b, (*b.axes[:-2], (), *b.axes[-2:]))])
    lead, (rows, inner, columns) = axes[:-3], axes[-3:]
    here = {atom for one in matched for atom in flat(one.stored)}
    items = tuple(atom for atom in flat(lead) if atom is not BATCH and atom in here)
    front = (items,) if items else ()
    left, right = (
        materialised(one, (*front, *shape)) for one, shape in zip(matched, ((rows, inner), (inner, columns)))
    )
    return Value(
        _products(site, left, right, items),
        (*front, rows, columns),
        (*lead, rows, columns),
        scores=Scores(a, turned(b), 1.0),
    )


def _products(site: Site, left: Value, right: Value, items: Axis) -> Term:
    a, b = network_term(left), network_term(right)
    if not items:
        return terms.call("matmul", a, b)
    count = length(items)
    if count > _MOST_PRODUCTS:
        many = f"it is {count} products for each sample, and at most {_MOST_PRODUCTS} are written out"
        return terms.refused(site.refuse(many))
    rows, columns = size(left.stored[1]), size(right.stored[2])
    one_by_one = (
        terms.call("matmul", terms.index(a, (at, None, None)), terms.index(b, (at, None, None)))
        for at in range(1, count + 1)
    )
    return terms.call("cat", *(terms.reshape(one, 1, rows, columns) for one in one_by_one))


def attended(site: Site, scores: Scores, v: Value) -> Value:
    """softmax(scale · q kᵀ) v, where keys that are not kept are left out: `attend`.

    What stands in front of the last two axes, without the batch, are heads.
    """
    q, k = scores.query, scores.key
    if any(BATCH in axis for one in (q, k, v) for axis in one.axes[-2:]):
        raise MIXES
    keep = scores.keep if scores.keep is not None else known(1)
    shapes = (
        (*q.axes[:-1], (), q.axes[-1], ()),
        (*k.axes[:-2], (), *k.axes[-2:], ()),
        (*v.axes[:-2], (), v.axes[-2], (), v.axes[-1]),
        (*keep.axes, (), ()),
    )
    matched, axes = aligned([seen(one, shape) for one, shape in zip((q, k, v, keep), shapes)])
    lead, (queries, keys, features, width) = axes[:-4], axes[-4:]
    here = {atom for one in matched[:3] for atom in flat(one.stored)}
    heads = tuple(atom for atom in flat(lead) if atom is not BATCH and atom in here)
    wanted = ((queries, (*heads, *features)), (keys, (*heads, *features)), (keys, (*heads, *width)))
    ours, theirs, values = (materialised(one, shape) for one, shape in zip(matched, wanted))
    factor = scores.scale * math.sqrt(length(features))
    query = terms.scaled(1.0 if abs(factor - 1) < 1e-12 else factor, network_term(ours))
    settings = [f"heads = {length(heads)}"] if heads else []
    settings += ["causal = true"] if scores.causal else []
    mask = _mask(site, matched[3], queries, keys, settings)
    inside = (query, network_term(theirs), network_term(values), *mask)
    term = terms.attend(inside, ", ".join(settings))
    return Value(term, (queries, (*heads, *width)), (*lead, queries, width))


def _mask(site: Site, keep: Value, queries: Axis, keys: Axis, settings: list[str]) -> tuple[Term, ...]:
    """The mask of `attend`, if one is needed; a triangle is the setting `causal`."""
    if keep.uniform and keep.number == 1:
        return ()
    here = set(flat(keep.stored))
    if not here <= {*queries, *keys}:
        raise Misfit(
            "its mask is not the same for all heads",
            "a mask [keys] or [queries, keys] for each sample will do",
        )
    whole = (
        materialised(keep, (queries, keys))
        if here & set(queries) or not here
        else materialised(keep, (keys,))
    )
    held = whole.constant if whole.folded else None
    square = held is not None and held.ndim == 2 and held.shape[0] == held.shape[1]
    if held is not None and square and torch.equal(held, torch.ones_like(held).tril()):
        settings.append("causal = true")
        return ()
    return (term_of(whole),)
