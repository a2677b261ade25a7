"""Tensors of one number, and changes of the number type."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.fx

from implicit_dsl.translation.regrouping import axis_of
from implicit_dsl.translation.site import Rule, Site, known
from implicit_dsl.translation.values import Value


def _filled(site: Site, number: float) -> Value:
    """One number in the shape of the result, for any batch."""
    value = known(number)
    assert value.constant is not None
    held = value.constant.to(site.node.meta["val"].dtype)
    return replace(value, axes=tuple(axis_of(one) for one in site.sizes), constant=held)


def zeros(site: Site, *_: object, **__: object) -> Value:
    return _filled(site, 0)


def ones(site: Site, *_: object, **__: object) -> Value:
    return _filled(site, 1)


def full(site: Site, size: object, value: float, *_: object, **__: object) -> Value:
    return _filled(site, value)


def cast(site: Site, x: Value, *_: object, **__: object) -> Value:
    """The same numbers; of known ones in another type, of values in their own."""
    wanted = site.node.meta["val"].dtype
    if x.folded and x.constant is not None:
        return replace(x, constant=x.constant.to(wanted))
    source = site.node.args[0]
    given = source.meta["val"].dtype if isinstance(source, torch.fx.Node) else wanted
    if given != wanted and not (given is torch.bool and wanted.is_floating_point):
        raise site.refuse(
            f"it makes {wanted} of {given}, and a program has one type of numbers",
            "leave the cast out, and move the whole module to the type: `module.to(dtype)`",
        )
    return x


def detach(site: Site, x: Value) -> Value:
    if x.folded:
        return x
    raise site.refuse("it cuts the gradient, and every value of a program has its own", "leave it out")


RULES: dict[str, Rule] = {
    "aten.zeros.default": zeros,
    "aten.zeros_like.default": zeros,
    "aten.new_zeros.default": zeros,
    "aten.ones.default": ones,
    "aten.ones_like.default": ones,
    "aten.new_ones.default": ones,
    "aten.full.default": full,
    "aten.full_like.default": full,
    "aten.new_full.default": lambda site, x, size, value, *_: _filled(site, value),
    "aten.fill.Scalar": lambda site, x, value: _filled(site, value),
    "aten.zero.default": zeros,
    "aten.to.dtype": cast,
    "aten.to.device": cast,
    "aten.to.dtype_layout": cast,
    "aten.to.other": cast,
    "aten._to_copy.default": cast,
    "aten.type_as.default": cast,
    "aten.detach.default": detach,
}
