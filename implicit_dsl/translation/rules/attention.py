"""Attention in one call, and softmax and masks, of which it is written out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.fx

from implicit_dsl.translation import terms
from implicit_dsl.translation.joining import axis_of_size
from implicit_dsl.translation.products import attended, product, turned
from implicit_dsl.translation.scores import both, kept, without
from implicit_dsl.translation.site import Rule, Site
from implicit_dsl.translation.values import (
    Scores,
    Value,
    constant,
    isolated,
    length,
    network_term,
    seen,
    size,
)


def masked_fill(site: Site, x: Value, mask: Value, value: float | Value) -> Value:
    """A number where the mask is true. −∞ is for softmax alone, which makes zeros of it."""
    number = value.number if isinstance(value, Value) and value.uniform else value
    if isinstance(number, Value):
        raise site.refuse("it fills in values that depend on the inputs")
    if x.folded and mask.folded:
        return site.each(terms.add, x, mask, fold=lambda a, m: a.masked_fill(m.bool(), number))
    keep = site.each(
        lambda m: terms.subtract(terms.number(1), m),
        replace(mask, term=None) if mask.constant is not None else mask,
        fold=lambda m: 1 - m.double(),
    )
    if number == -math.inf:
        if x.uniform and x.number == 0:
            return replace(site.each(lambda a, k: k, x, keep), log=True)
        if x.scores is not None and not x.scores.weights:
            return without(x, keep)
        raise site.refuse("it fills in -inf before something else than the softmax of attention")
    drop = site.each(
        lambda k: terms.scaled(number, terms.subtract(terms.number(1), k)),
        keep,
        fold=lambda k: (1 - k) * number,
    )
    return site.each(
        lambda a, k, d: terms.add(terms.multiply(k, a), d), x, keep, drop, fold=lambda a, k, d: k * a + d
    )


def softmax(site: Site, x: Value, dim: int, dtype: object = None) -> Value:
    last = dim % len(x.axes) == len(x.axes) - 1
    if x.log and x.scores is not None and last:
        term = terms.refused(site.refuse("its weights are read, and some keys are left out"))
        return replace(x, term=term, log=False, scores=replace(x.scores, weights=True))
    made = along(site, "softmax", x, dim)
    return replace(made, scores=replace(x.scores, weights=True)) if x.scores is not None and last else made


def log_softmax(site: Site, x: Value, dim: int, dtype: object = None) -> Value:
    return along(site, "log_softmax", x, dim)


def along(site: Site, function: str, x: Value, dim: int) -> Value:
    """An activation along an axis of the tensor."""
    moved, (place,) = isolated(x, [dim])
    settings = "" if place == len(moved.stored) - 1 else f"dim = {place + 1}"
    return Value(terms.call(function, network_term(moved), settings=settings), moved.stored, x.axes)


def glu(site: Site, x: Value, dim: int) -> Value:
    """The first half of an axis times σ of the second."""
    from implicit_dsl.translation.joining import ranged

    dim %= len(x.axes)
    half = length(x.axes[dim]) // 2
    first, second = ranged(x, dim, 0, half), ranged(x, dim, half, 2 * half)
    return site.each(
        lambda a, b: terms.multiply(a, terms.call("sigmoid", b)),
        first,
        second,
        fold=lambda a, b: a * b.sigmoid(),
    )


def attention(
    site: Site,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> Value:
    """`F.scaled_dot_product_attention`."""
    if dropout:
        raise site.refuse("its dropout is on in evaluation", "give `dropout_p` as 0 unless `self.training`")
    if grouped:
        k, v = (_shared(one, q) for one in (k, v))
    scores = Scores(q, k, 1 / math.sqrt(length(q.axes[-1])) if scale is None else scale, weights=True)
    if causal and isinstance(size(q.axes[-2]), str) and q.axes[-2] and size(k.axes[-2]) == "_":
        scores = replace(scores, causal=True)
    elif causal:
        ones = torch.ones(length(q.axes[-2]), length(k.axes[-2]), dtype=torch.float64)
        scores = replace(scores, keep=constant(ones.tril()))
    if mask is not None:
        read = site.node.args[3] if len(site.node.args) > 3 else site.node.kwargs.get("attn_mask")
        keep = mask if is_boolean(read) and not mask.folded else kept(mask)
        if keep is None:
            return _written_out(site, scores, v, mask)
        scores = replace(scores, keep=keep if scores.keep is None else both(scores.keep, keep))
    return attended(site, scores, v)


def _written_out(site: Site, scores: Scores, v: Value, bias: Value) -> Value:
    """With numbers that are added to the scores, of which `attend` has none."""
    if scores.keep is not None:
        raise site.refuse("it is causal and adds numbers to the scores as well")
    raw = product(site, scores.query, turned(scores.key))
    made = site.each(
        lambda x, b: terms.add(terms.scaled(scores.scale, x), b), replace(raw, scores=None), bias
    )
    return product(site, along(site, "softmax", made, -1), v)


def is_boolean(node: object) -> bool:
    """Whether this is a tensor of booleans."""
    made = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
    return isinstance(made, torch.Tensor) and made.dtype is torch.bool


def _shared(x: Value, q: Value) -> Value:
    """Keys or values of fewer heads, each for several heads of queries that follow one another."""
    times = length(q.axes[-3]) // length(x.axes[-3])
    return seen(x, (*x.axes[:-3], (*x.axes[-3], *axis_of_size(times)), *x.axes[-2:]))


RULES: dict[str, Rule] = {
    "aten.scaled_dot_product_attention.default": attention,
    "aten.softmax.int": softmax,
    "aten._softmax.default": lambda site, x, dim, half: softmax(site, x, dim),
    "aten.log_softmax.int": log_softmax,
    "aten._log_softmax.default": lambda site, x, dim, half: log_softmax(site, x, dim),
    "aten.masked_fill.Scalar": masked_fill,
    "aten.masked_fill.Tensor": masked_fill,
    "aten.glu.default": glu,
}
