"""Operators with windows, and those that go the other way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from implicit_dsl.operators import linear_rule
from strategies.cases import Build, Case, Draw, Shape, case, shapes


def _windows(draw: Draw) -> tuple[dict[str, Any], Shape]:
    """The windows of a convolution, and the sizes that they slide over."""
    same, mode = draw(st.booleans()), draw(st.sampled_from(("zeros", "reflect", "circular", "replicate")))
    kernel, stride, pad, dilation, sizes = [], [], [], [], []
    for _ in range(draw(st.integers(1, 3))):
        k, p, d = draw(st.integers(1, 4 if same else 3)), draw(st.integers(0, 3)), draw(st.integers(1, 2))
        reads = -(-d * (k - 1) // 2) if same else p
        least = {"reflect": reads + 1, "circular": reads}.get(mode, 1)
        kernel.append(k)
        stride.append(1 if same else draw(st.integers(1, 3)))
        pad.append(p)
        dilation.append(d)
        sizes.append(max(least, 1, 1 if same else d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 3)))
    settings = {
        "kernel": tuple(kernel),
        "stride": tuple(stride),
        "pad": "same" if same else tuple(pad),
        "dilation": tuple(dilation),
        "bias": draw(st.booleans()),
        "mode": mode,
    }
    return settings, tuple(sizes)


def _conv(draw: Draw) -> Case:
    groups, each, out = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    settings, sizes = _windows(draw)
    settings |= {"width": (None, groups * out), "groups": groups}
    return case(draw, "conv", settings, (groups * each, *sizes))


def _conv_transpose(draw: Draw) -> Case:
    groups, each, out = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, stride, pad, more, dilation, sizes = [], [], [], [], [], []
    for _ in range(draw(st.integers(1, 3))):
        k, s, d = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        kernel.append(k)
        stride.append(s)
        dilation.append(d)
        more.append(draw(st.integers(0, max(s, d) - 1)))
        pad.append(draw(st.integers(0, 2)))
        least = -(-(2 * pad[-1] - d * (k - 1) - more[-1]) // s) + 1
        sizes.append(max(1, least) + draw(st.integers(0, 2)))
    settings = {
        "width": (None, groups * out),
        "kernel": tuple(kernel),
        "stride": tuple(stride),
        "pad": tuple(pad),
        "output_pad": tuple(more),
        "dilation": tuple(dilation),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    return case(draw, "conv_transpose", settings, (groups * each, *sizes))


def _depthwise(draw: Draw) -> Case:
    settings, sizes = _windows(draw)
    settings["multiplier"] = draw(st.integers(1, 2))
    return case(draw, "depthwise_conv", settings, (draw(st.integers(1, 3)), *sizes))


def _pool(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        kernel, pad, sizes = [], [], []
        for _ in range(draw(st.integers(1, 3))):
            k = draw(st.integers(1, 4))
            p = draw(st.integers(0, k // 2))
            kernel.append(k)
            pad.append(p)
            sizes.append(max(1, k - 2 * p) + draw(st.integers(0, 3)))
        strides = st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes)).map(tuple)
        settings = {"kernel": tuple(kernel), "pad": tuple(pad), "stride": draw(st.none() | strides)}
        return case(draw, kind, settings, (draw(st.integers(1, 3)), *sizes))

    return build


def _pad(draw: Draw) -> Case:
    source, mode = draw(shapes(2, 4)), draw(st.sampled_from(("zeros", "reflect", "circular", "replicate")))
    most = {"reflect": -1, "circular": 0}
    sides = [
        tuple(draw(st.integers(0, min(3, size + most[mode]) if mode in most else 3)) for size in source[1:])
        for _ in range(2)
    ]
    after = draw(st.sampled_from((sides[1], None)))
    return case(draw, "pad", {"pad": sides[0], "after": after, "mode": mode}, source)


def _upsample(draw: Draw) -> Case:
    source = draw(shapes(2, 4, size=3))
    factor = tuple(draw(st.integers(1, 7)) for _ in source[1:])
    mode = draw(st.sampled_from(("nearest", "linear", ("linear", "bilinear", "trilinear")[len(factor) - 1])))
    corners = mode != "nearest" and draw(st.booleans())
    return case(draw, "upsample", {"factor": factor, "mode": mode, "align_corners": corners}, source)


def _adaptive(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        source = draw(shapes(2, 4, size=6))
        return case(draw, kind, {"size": tuple(draw(st.integers(1, 6)) for _ in source[1:])}, source)

    return build


def _adjoint(kind: str) -> Callable[[Draw], Case]:
    """The transpose of a constant operator."""

    def build(draw: Draw) -> Case:
        straight = OWN[kind](draw)
        turned = linear_rule(straight.operator).transpose(straight.operator)
        assert turned is not None
        return Case(turned, {}, straight.seed)

    return build


OWN: dict[str, Build] = {
    "conv": _conv,
    "depthwise_conv": _depthwise,
    "conv_transpose": _conv_transpose,
    "avg_pool": _pool("avg_pool"),
    "global_avg_pool": lambda draw: case(draw, "global_avg_pool", {}, draw(shapes(2, 4))),
    "max_pool": _pool("max_pool"),
    "adaptive_avg_pool": _adaptive("adaptive_avg_pool"),
    "adaptive_max_pool": _adaptive("adaptive_max_pool"),
    "global_max_pool": lambda draw: case(draw, "global_max_pool", {}, draw(shapes(2, 4))),
    "pad": _pad,
    "upsample": _upsample,
    "pad_adjoint": _adjoint("pad"),
    "avg_pool_adjoint": _adjoint("avg_pool"),
    "global_avg_pool_adjoint": _adjoint("global_avg_pool"),
    "adaptive_avg_pool_adjoint": _adjoint("adaptive_avg_pool"),
    "upsample_adjoint": _adjoint("upsample"),
}
