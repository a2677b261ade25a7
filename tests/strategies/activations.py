"""Activations of several arguments, with parameters, and over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from strategies.cases import Build, Case, Draw, case, joined, plain, shapes


def _group_norm(draw: Draw) -> Case:
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    source = (groups * each, *draw(shapes(0, 3, size=3)))
    if np.prod(source) == groups:
        source = (2 * groups, *source[1:])
    return case(draw, "group_norm", _norm(draw) | {"groups": groups}, source)


def _instance_norm(draw: Draw) -> Case:
    source = (draw(st.integers(1, 3)), *draw(shapes(0, 2, size=3)), draw(st.integers(2, 4)))
    return case(draw, "instance_norm", _norm(draw), source)


def _last_norm(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        source = (*draw(shapes(0, 2)), draw(st.integers(2, 5)))
        return case(draw, kind, _norm(draw) | {"axes": draw(st.integers(1, len(source)))}, source)

    return build


def _norm(draw: Draw) -> dict[str, Any]:
    return {"eps": draw(st.sampled_from((1e-5, 0.1))), "affine": draw(st.booleans())}


def _matmul(draw: Draw) -> Case:
    n, m, d = (draw(st.integers(1, 4)) for _ in range(3))
    return joined(draw, "matmul", {}, *draw(st.sampled_from((((n, m), (m, d)), ((n, n), (n, n))))))


def _attend(draw: Draw) -> Case:
    heads, causal = draw(st.integers(1, 3)), draw(st.booleans())
    d, e = (heads * draw(st.integers(1, 2)) for _ in range(2))
    t, s = (draw(st.integers(1, 4)) for _ in range(2))
    s, e = draw(st.sampled_from(((t if causal else s, e), (t, d))))
    masks = draw(st.sampled_from(((), ((s,),), ((t, s),))))
    return joined(draw, "attend", {"heads": heads, "causal": causal}, (t, d), (s, d), (s, e), *masks)


def _over_axis(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        source = draw(shapes())
        return case(draw, kind, {"dim": draw(st.none() | st.integers(1, len(source)))}, source)

    return build


def _maxout(draw: Draw) -> Case:
    pieces, target = draw(st.integers(1, 3)), draw(shapes())
    dim = draw(st.integers(1, len(target)))
    source = (*target[: dim - 1], pieces * target[dim - 1], *target[dim:])
    return case(draw, "maxout", {"pieces": pieces, "dim": dim}, source)


def _prelu(draw: Draw) -> Case:
    source, init = draw(shapes(0, 3)), draw(st.sampled_from((0.25, -0.5)))
    return case(draw, "prelu", {"per_channel": bool(source) and draw(st.booleans()), "init": init}, source)


def _slopes(draw: Draw) -> Case:
    source = draw(shapes(0, 3))
    each = bool(source) and draw(st.booleans())
    weight = source[:1] if each else (1,)
    return case(draw, "slopes", {"per_channel": each}, (2, *source), weight=weight)


def _two(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        shape = draw(shapes(0, 3))
        return joined(draw, kind, {}, shape, shape)

    return build


BODIES = {
    "swish": (("phi", "sigmoid", (), 0), ("product", 0, 1)),
    "shrink": (("phi", "tanh", (), 0), ("scale", -0.5, 1), ("sum", 0, 2)),
    "bump": (
        ("phi", "sigmoid", (), 0),
        ("constant", 1.0),
        ("scale", -1.0, 1),
        ("sum", 2, 3),
        ("product", 1, 4),
    ),
    "either": (
        ("phi", "relu", (), 0),
        ("scale", 0.25, 0),
        ("constant", -1.0),
        ("sum", 2, 3),
        ("maximum", 1, 4),
    ),
    "both": (("phi", "gelu", (), 0), ("phi", "elu", (("alpha", 0.5),), 0), ("minimum", 1, 2)),
    "squared": (("product", 0, 0), ("phi", "tanh", (), 1)),
}  # functions with bounded slopes, as instructions


def _function(draw: Draw) -> Case:
    name = draw(st.sampled_from(sorted(BODIES)))
    return case(draw, "function", {"name": name, "body": BODIES[name]}, draw(shapes(0, 3)))


OWN: dict[str, Build] = {
    "identity": plain("identity"),
    "leaky_relu": plain("leaky_relu", slope=st.sampled_from((0.01, 0.5, 2.0))),
    "gelu": plain("gelu", approximate=st.booleans()),
    "elu": plain("elu", alpha=st.sampled_from((1.0, 0.5, -0.3, 2.0))),
    "hardtanh": plain("hardtanh", low=st.sampled_from((-1.0, -2.0)), high=st.sampled_from((1.0, 6.0))),
    "power": plain("power", exponent=st.sampled_from((2.0, 3.0, 4.0, 0.5, 1.5, -1.0, -2.0, -0.5))),
    "clamp": lambda draw: case(
        draw,
        "clamp",
        draw(st.sampled_from(({"low": 0.5, "high": None}, {"low": None, "high": -1.0}))),
        (4,),
    ),
    "function": _function,
    "prelu": _prelu,
    "slopes": _slopes,
    "maxout": _maxout,
    "maximum": _two("maximum"),
    "minimum": _two("minimum"),
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _last_norm("layer_norm"),
    "rms_norm": _last_norm("rms_norm"),
    "softmax": _over_axis("softmax"),
    "log_softmax": _over_axis("log_softmax"),
    "product": _two("product"),
    "matmul": _matmul,
    "attend": _attend,
}
