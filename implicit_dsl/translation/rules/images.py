"""Layers on channels and the axes behind them: convolutions, pooling, resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from implicit_dsl.translation import terms
from implicit_dsl.translation.regrouping import measure
from implicit_dsl.translation.site import Result, Rule, Site, unread
from implicit_dsl.translation.terms import Term
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Misfit,
    Value,
    flat,
    length,
    materialised,
    network_term,
    size,
)

_MOST_ITEMS = 64  # applications to parts of a sample that are written out one by one


def per_sample(
    site: Site, x: Value, rank: int, make: Callable[[Term], Term], given: int | None = None
) -> Value:
    """An operator on the last `rank` axes, which gives as many, or `given`.

    What stands before them is the batch; other axes there, such as time, are written out one by one.
    """
    outer, inner = x.axes[: len(x.axes) - rank], x.axes[len(x.axes) - rank :]
    if any(BATCH in axis for axis in inner):
        raise MIXES
    here = {*flat(x.stored), *flat(inner)}
    items = tuple(atom for atom in flat(outer) if atom is not BATCH and atom in here)
    new = site.new_axes(rank if given is None else given)
    if not items:
        return Value(make(network_term(materialised(x, inner))), new, (*outer, *new))
    count = length(items)
    if count > _MOST_ITEMS:
        raise Misfit(f"it is applied to {count} parts of a sample, and at most {_MOST_ITEMS} are written out")
    whole = network_term(materialised(x, (items, *inner)))
    shape = [size(axis) for axis in new]
    parts = (make(terms.index(whole, (at, *(None,) * rank))) for at in range(1, count + 1))
    term = terms.call("cat", *(terms.reshape(part, 1, *shape) for part in parts))
    return Value(term, (items, *new), (*outer, *new))


def listed(numbers: Sequence[int] | int) -> str:
    """`3`, or `[3, 1]` where the axes differ."""
    if isinstance(numbers, int):
        return str(numbers)
    return str(numbers[0]) if len(set(numbers)) == 1 else f"[{', '.join(map(str, numbers))}]"


def _settings(**given: tuple[str, str]) -> str:
    """Settings by their names: what is wanted, and what need not be said."""
    said = [f"{name} = {wanted}" for name, (wanted, unsaid) in given.items() if wanted != unsaid]
    return "; " + ", ".join(said) if said else ""


def convolution(
    site: Site,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    if padding == "valid":
        padding = (0,)
    settings = _settings(
        stride=(listed(stride), "1"),
        pad=(f'"{padding}"' if isinstance(padding, str) else listed(padding), "0"),
        dilation=(listed(dilation), "1"),
        groups=(str(groups), "1"),
        bias=("true" if bias is not None else "false", "true"),
    )
    width, kernel = length(weight.axes[0]), listed([length(axis) for axis in weight.axes[2:]])
    layer = _held(site, f"Conv({width}, {kernel}{settings})", weight, bias)
    return per_sample(site, x, len(weight.axes) - 1, partial(terms.times, layer))


def transposed_convolution(
    site: Site,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Value:
    settings = _settings(
        stride=(listed(stride), "1"),
        pad=(listed(padding), "0"),
        output_pad=(listed(output_padding), "0"),
        dilation=(listed(dilation), "1"),
        groups=(str(groups), "1"),
        bias=("true" if bias is not None else "false", "true"),
    )
    width, kernel = length(weight.axes[1]) * groups, listed([length(axis) for axis in weight.axes[2:]])
    layer = _held(site, f"ConvTranspose({width}, {kernel}{settings})", weight, bias)
    return per_sample(site, x, len(weight.axes) - 1, partial(terms.times, layer))


def _held(site: Site, text: str, weight: Value, bias: Value | None) -> Term:
    layer = site.layer(text, {"weight": weight, "bias": bias})
    if layer is None:
        raise site.refuse(
            "its weight or bias is no parameter of its own: it is computed, or used in another way as well",
            "remove parametrizations (`torch.nn.utils.parametrize.remove_parametrizations`), and give each "
            "convolution that differs tensors of its own",
        )
    return layer


def _pooled(site: Site, x: Value, text: str, rank: int, linear: bool) -> Value:
    """A pooling over the last `rank` axes and the channels before them."""
    if len(x.axes) <= rank + 1 and BATCH not in x.axes[0]:
        raise site.refuse("its input has no batch axis")
    return per_sample(site, x, rank + 1, partial(terms.call, text))


def _window(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> str:
    settings = _settings(stride=(listed(stride or kernel), listed(kernel)), pad=(listed(padding), "0"))
    return f"{listed(kernel)}{settings}"


def _no_ceiling(
    site: Site, x: Value, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> None:
    """Refuses windows that go beyond the end, which `ceil_mode` allows."""
    rank = len(site.sizes) - len(x.axes) + len(x.axes)
    count = max(len(kernel), 1)
    for at in range(1, count + 1):
        k, p = (one[-at] if len(one) >= at else one[0] for one in (kernel, padding))
        s = (stride or kernel)[-at] if len(stride or kernel) >= at else (stride or kernel)[0]
        whole = (length(x.axes[-at]) + 2 * p - k) // s + 1
        if site.sizes[rank - at].times != whole:
            raise site.refuse(
                "with `ceil_mode` its last window goes beyond the end", "pad the input, and leave it out"
            )


def max_pool(rank: int, places: bool = False) -> Rule:
    def rule(
        site: Site,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Result:
        if set(dilation) != {1}:
            raise site.refuse("its windows have gaps (`dilation`)")
        if ceil_mode:
            _no_ceiling(site, x, kernel, stride, padding)
        made = _pooled(site, x, f"MaxPool({_window(kernel, stride, padding)})", rank, False)
        return (made, unread(site)) if places else made

    return rule


def avg_pool(rank: int) -> Rule:
    def rule(
        site: Site,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Value:
        if ceil_mode:
            _no_ceiling(site, x, kernel, stride, padding)
        if not count_include_pad and set(padding) != {0}:
            raise site.refuse("its means leave the padding out (`count_include_pad = False`)")
        made = _pooled(site, x, f"AvgPool({_window(kernel, stride, padding)})", rank, True)
        if divisor is None:
            return made
        window = 1
        for at in range(rank):
            window *= kernel[at] if len(kernel) > at else kernel[0]
        return site.each(partial(terms.scaled, window / divisor), made)

    return rule


def adaptive(rank: int, kind: str, places: bool = False) -> Rule:
    def rule(site: Site, x: Value, wanted: Sequence[int]) -> Result:
        inner = x.axes[len(x.axes) - rank :]
        if [measure(axis) for axis in inner] == list(site.sizes[len(site.sizes) - rank :]):
            return (x, unread(site)) if places else x
        if all(one.times == 1 and not one.free for one in site.sizes[len(site.sizes) - rank :]):
            made = per_sample(site, x, rank + 1, partial(terms.call, f"Global{kind}Pool()"), rank + 1)
            channel = len(made.stored) - rank
            made = Value(made.term, made.stored[:channel], made.axes) if not _items(x, rank) else made
        else:
            goal = listed([one.times for one in site.sizes[len(site.sizes) - rank :]])
            made = _pooled(site, x, f"Adaptive{kind}Pool({goal})", rank, kind == "Avg")
        return (made, unread(site)) if places else made

    return rule


def _items(x: Value, rank: int) -> bool:
    outer = x.axes[: len(x.axes) - rank - 1]
    return any(atom is not BATCH and atom in flat(x.stored) for atom in flat(outer))


def upsample(mode: str) -> Rule:
    def rule(site: Site, x: Value, size_: object, *rest: object) -> Value:
        corners = bool(rest[0]) if mode != "nearest" else False
        rank = len(x.axes) - 2
        pairs = [(length(axis), one.times) for axis, one in zip(x.axes[2:], site.sizes[2:])]
        if any(after % before for before, after in pairs):
            raise site.refuse(
                f"it is {pairs[0][1]} from {pairs[0][0]}, which is no multiple", "scale by whole numbers"
            )
        factors = [after // before for before, after in pairs]
        settings = _settings(mode=(f'"{mode}"', '"nearest"'), align_corners=(str(corners).lower(), "false"))
        return per_sample(site, x, rank + 1, partial(terms.call, f"Upsample({listed(factors)}{settings})"))

    return rule


def shuffle(name: str) -> Rule:
    return lambda site, x, factor: per_sample(site, x, 3, partial(terms.call, f"{name}({factor})"))


RULES: dict[str, Rule] = {
    "aten.conv1d.default": convolution,
    "aten.conv2d.default": convolution,
    "aten.conv3d.default": convolution,
    "aten.conv1d.padding": convolution,
    "aten.conv2d.padding": convolution,
    "aten.conv3d.padding": convolution,
    "aten.conv_transpose1d.default": transposed_convolution,
    "aten.conv_transpose2d.input": transposed_convolution,
    "aten.conv_transpose3d.input": transposed_convolution,
    **{f"aten.max_pool{rank}d.default": max_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.max_pool{rank}d_with_indices.default": max_pool(rank, True) for rank in (2, 3)},
    "aten.max_pool1d_with_indices.default": max_pool(1, True),
    **{f"aten.avg_pool{rank}d.default": avg_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{rank}d.default": adaptive(rank, "Avg") for rank in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{rank}d.default": adaptive(rank, "Max", True) for rank in (1, 2, 3)},
    **{f"aten.upsample_nearest{rank}d.vec": upsample("nearest") for rank in (1, 2, 3)},
    **{f"aten._upsample_nearest_exact{rank}d.vec": upsample("nearest") for rank in (1, 2, 3)},
    "aten.upsample_linear1d.vec": upsample("linear"),
    "aten.upsample_bilinear2d.vec": upsample("bilinear"),
    "aten.upsample_trilinear3d.vec": upsample("trilinear"),
    "aten.pixel_shuffle.default": shuffle("PixelShuffle"),
    "aten.pixel_unshuffle.default": shuffle("PixelUnshuffle"),
}
