"""Sums, means and maxima over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from implicit_dsl.translation import terms
from implicit_dsl.translation.joining import axis_of_size
from implicit_dsl.translation.rules.linear import applied
from implicit_dsl.translation.site import Result, Rule, Site, unread
from implicit_dsl.translation.terms import Declaration
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Axes,
    Misfit,
    Value,
    isolated,
    length,
    network_term,
    seen,
)


def _axes_of(value: Value, dims: Sequence[int] | int | None) -> list[int]:
    """The axes of the tensor, all of them if none are named."""
    chosen = [dims] if isinstance(dims, int) else list(dims or range(len(value.axes)))
    return sorted(dim % max(1, len(value.axes)) for dim in chosen) if value.axes else []


def _left(value: Value, dims: Sequence[int], keep: bool) -> Axes:
    """The axes of the tensor behind a reduction."""
    if keep:
        return tuple(() if at in dims else axis for at, axis in enumerate(value.axes))
    return tuple(axis for at, axis in enumerate(value.axes) if at not in dims)


def _reduced(x: Value, dims: Sequence[int], keep: bool, function: str) -> Value:
    """`mean` or `sum` of the language."""
    moved, places = isolated(x, dims)
    if not places:
        return seen(x, _left(x, dims, keep))
    term = network_term(moved)
    if len(places) == len(moved.stored):
        term = terms.call(function, term)
    else:
        listed = [terms.number(place + 1).text for place in sorted(places)]
        dim = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
        term = terms.call(function, term, settings=f"dim = {dim}")
    stored = tuple(axis for at, axis in enumerate(moved.stored) if at not in places)
    return Value(term, stored, _left(x, dims, keep))


def mean(site: Site, x: Value, dims: Sequence[int] | None, keep: bool, dtype: object) -> Value:
    return _reduced(x, _axes_of(x, dims), keep, "mean")


def total(site: Site, x: Value, dims: Sequence[int] | None, keep: bool, dtype: object) -> Value:
    return _reduced(x, _axes_of(x, dims), keep, "sum")


def largest(site: Site, x: Value, dims: Sequence[int] | int | None = None, keep: bool = False) -> Value:
    """By `maxout`, of all neighbours along an axis."""
    chosen = _axes_of(x, dims)
    made = x
    for dim in chosen:
        moved, (place,) = isolated(made, [dim])
        pieces = length(moved.stored[place])
        term = network_term(moved)
        if pieces > 1:
            term = terms.call("maxout", term, settings=f"pieces = {pieces}, dim = {place + 1}")
        stored = tuple(() if at == place else axis for at, axis in enumerate(moved.stored))
        made = Value(term, stored, tuple(() if at == dim else axis for at, axis in enumerate(made.axes)))
    return seen(made, _left(made, chosen, keep))


def _negative(site: Site, x: Value) -> Value:
    return site.each(terms.minus, x, fold=torch.neg)


def smallest(site: Site, x: Value, dims: Sequence[int] | int | None = None, keep: bool = False) -> Value:
    return _negative(site, largest(site, _negative(site, x), dims, keep))


def largest_with_places(site: Site, x: Value, dim: int, keep: bool) -> Result:
    return largest(site, x, dim, keep), unread(site)


def smallest_with_places(site: Site, x: Value, dim: int, keep: bool) -> Result:
    return smallest(site, x, dim, keep), unread(site)


def _unknown(*_: object) -> torch.Tensor:
    raise Misfit("it is computed of one number for each sample, which is the same for all")


def variance(site: Site, x: Value, dims: Sequence[int] | None, correction: float | None, keep: bool) -> Value:
    """The mean square of the distances to the mean."""
    chosen = _axes_of(x, dims)
    centred = site.each(terms.subtract, x, _reduced(x, chosen, True, "mean"), fold=_unknown)
    count = math.prod(length(x.axes[dim]) for dim in chosen)
    rest = count - (1 if correction is None else correction)
    squares = site.each(partial(terms.power, b=terms.number(2)), centred, fold=_unknown)
    return site.each(partial(terms.scaled, 1 / rest), _reduced(squares, chosen, keep, "sum"), fold=_unknown)


def deviation(
    site: Site, x: Value, dims: Sequence[int] | None, correction: float | None, keep: bool
) -> Value:
    return site.each(partial(terms.call, "sqrt"), variance(site, x, dims, correction, keep), fold=_unknown)


def norm(site: Site, x: Value, order: float, dims: Sequence[int] | None, keep: bool, dtype: object) -> Value:
    chosen = _axes_of(x, dims)
    sizes = site.each(partial(terms.call, "abs"), x, fold=_unknown)
    if order == 1:
        return _reduced(sizes, chosen, keep, "sum")
    if order == math.inf:
        return largest(site, sizes, chosen, keep)
    if order != 2:
        raise site.refuse(f"norms of order {order} are not in the language", "orders are 1, 2 and inf")
    squares = site.each(partial(terms.power, b=terms.number(2)), x, fold=_unknown)
    return site.each(partial(terms.call, "sqrt"), _reduced(squares, chosen, keep, "sum"), fold=_unknown)


def cumulated(site: Site, x: Value, dim: int, dtype: object = None) -> Value:
    """Sums of all that stand before and at a place: a triangle of ones, applied."""
    dim %= len(x.axes)
    count = length(x.axes[dim])
    if BATCH in x.axes[dim]:
        raise MIXES
    ones = f"fixed([[ifelse(j <= i, 1, 0) for j in 1:{count}] for i in 1:{count}])"
    triangle = terms.name(Declaration("param", "triangle", f"[{count}, {count}] = {ones}"))
    order = [*(at for at in range(len(x.axes)) if at != dim), dim]
    made = applied(triangle, seen(x, tuple(x.axes[at] for at in order)), axis_of_size(count))
    return seen(made, tuple(made.axes[order.index(at)] for at in range(len(order))))


def cosine(site: Site, a: Value, b: Value, dim: int = 1, eps: float = 1e-8) -> Value:
    """The product of two directions: Σ a b ÷ (max(|a|, eps) · max(|b|, eps))."""
    parts = []
    for one in (a, b):
        long = norm(site, one, 2, [dim], True, None)
        safe = site.each(lambda z: terms.call("max", z, terms.number(eps)), long, fold=_unknown)
        parts.append(site.each(terms.divide, one, safe, fold=_unknown))
    product = site.each(terms.multiply, *parts, fold=_unknown)
    return _reduced(product, [dim % len(product.axes)], False, "sum")


def log_of_sum(site: Site, x: Value, dims: Sequence[int], keep: bool) -> Value:
    """x₁ − log_softmax(x)₁, for one axis."""
    (dim,) = _axes_of(x, dims) if len(dims) == 1 else (None,)
    if dim is None:
        raise site.refuse("it is over several axes", "flatten them before")
    moved, (place,) = isolated(x, [dim])
    inner = network_term(moved)
    logs = terms.call("log_softmax", inner, settings=f"dim = {place + 1}")
    first = [1 if at == place else None for at in range(len(moved.stored))]
    term = terms.subtract(terms.index(inner, first), terms.index(logs, first))
    stored = tuple(axis for at, axis in enumerate(moved.stored) if at != place)
    return Value(term, stored, _left(x, [dim], keep))


RULES: dict[str, Rule] = {
    "aten.mean.dim": mean,
    "aten.mean.default": lambda site, x, dtype: mean(site, x, None, False, dtype),
    "aten.sum.dim_IntList": total,
    "aten.sum.default": lambda site, x, dtype: total(site, x, None, False, dtype),
    "aten.amax.default": largest,
    "aten.amin.default": smallest,
    "aten.max.default": largest,
    "aten.min.default": smallest,
    "aten.max.dim": largest_with_places,
    "aten.min.dim": smallest_with_places,
    "aten.var.correction": variance,
    "aten.std.correction": deviation,
    "aten.var.dim": lambda site, x, dims, unbiased, keep: variance(site, x, dims, float(unbiased), keep),
    "aten.std.dim": lambda site, x, dims, unbiased, keep: deviation(site, x, dims, float(unbiased), keep),
    "aten.var.default": lambda site, x, unbiased: variance(site, x, None, float(unbiased), False),
    "aten.std.default": lambda site, x, unbiased: deviation(site, x, None, float(unbiased), False),
    "aten.linalg_vector_norm.default": norm,
    "aten.logsumexp.default": log_of_sum,
    "aten.cumsum.default": cumulated,
    "aten.cosine_similarity.default": cosine,
}
