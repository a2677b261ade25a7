"""Attention that is written out: softmax of a product of queries and keys, times values.

Such a product carries a note (`values.Scores`) of its queries, keys, scale, and of the keys that are left
out, so that the last product can be `attend` of the language. A mask of 0 and −∞ is held as
what it is the logarithm of, 1 and 0 (`Value.log`), as no value of a program may be infinite.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from implicit_dsl.translation import terms
from implicit_dsl.translation.broadcasting import entrywise
from implicit_dsl.translation.values import Value


def scaled(made: Value, a: Value, b: Value | float) -> Value:
    """The product of a and b, with what it leaves of the note if one of them is a number."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Value) and one.scores is not None and not one.scores.weights:
            factor = other if not isinstance(other, Value) else other.number if other.uniform else None
            if factor is not None and one.scores.keep is None:
                return replace(made, scores=replace(one.scores, scale=one.scores.scale * factor))
    return made


def masked(a: Value, b: Value | float) -> Value | None:
    """The sum of a and b, if one of them has a note and the other is a mask of 0 and −∞."""
    for one, mask in ((a, b), (b, a)):
        if isinstance(one, Value) and isinstance(mask, Value) and one.scores and not one.scores.weights:
            keep = kept(mask)
            if keep is not None:
                return without(one, keep)
    return None


def without(x: Value, keep: Value) -> Value:
    """Scores without the keys where `keep` is 0. Nothing but softmax may read them."""
    assert x.scores is not None
    kept_too = keep if x.scores.keep is None else both(x.scores.keep, keep)
    return replace(x, log=True, scores=replace(x.scores, keep=kept_too))


def kept(mask: Value) -> Value | None:
    """1 where a mask is 0, and 0 where it is −∞; None for masks of other numbers. Of booleans, these."""
    if mask.log and mask.scores is None:
        return replace(mask, log=False)
    held = mask.constant
    if held is None or mask.term is not None:
        return None
    if held.dtype is torch.bool:
        return replace(mask, constant=held.double())
    if not bool(((held == 0) | (held == -math.inf)).all()):
        return None
    return replace(mask, constant=(held == 0).double())


def both(a: Value, b: Value) -> Value:
    """1 where both are."""
    return entrywise([a, b], terms.multiply, lambda x, y: x * y)
