"""What the tests draw at random.

`CASES` has a strategy for each kind of operator. A rule without one of its own is drawn from what it
says of itself: its formal arguments, and the operator of its example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from implicit_dsl.clock import at
from implicit_dsl.compiler import check
from implicit_dsl.operators import OPERATORS, linear_rule
from implicit_dsl.operators.base import ActivationRule, Formal, Operator, Rule, ShapeError
from implicit_dsl.operators.elementwise import Elementwise
from implicit_dsl.sets import LINEAR, LinearSet
from implicit_dsl.source import Source

Draw = st.DrawFn
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """An operator with the shapes of its tensors by role, and a seed for numbers."""

    operator: Operator
    tensors: dict[str, Shape]
    seed: int

    def numbers(self) -> np.random.Generator:
        """The same random numbers each time."""
        return np.random.default_rng(self.seed)

    def weights(self) -> dict[str, np.ndarray]:
        """Random tensors by role; variances are positive."""
        rng, made = self.numbers(), {}
        for role, shape in self.tensors.items():
            made[role] = rng.uniform(0.5, 2.0, shape) if role == "running_var" else rng.normal(size=shape)
        return made


def shapes(least: int = 1, most: int = 3, size: int = 4) -> st.SearchStrategy[Shape]:
    """Shapes with `least` … `most` axes."""
    return st.lists(st.integers(1, size), min_size=least, max_size=most).map(tuple)


def _case(draw: Draw, kind: str, settings: dict[str, Any], source: Shape, **tensors: Shape) -> Case:
    rule = OPERATORS[kind]
    return _used(draw, rule, rule.operator(settings, source), tensors)


def _used(draw: Draw, rule: Rule, operator: Operator, tensors: dict[str, Shape]) -> Case:
    needed = {spec.role: spec.shape for spec in rule.parameters(operator)} | tensors
    used = tuple((role, f"layer.{role}") for role in needed)
    return Case(replace(operator, parameters=used), needed, draw(st.integers(0, 2**32 - 1)))


def _strategy(build: Callable[[Draw], Case]) -> st.SearchStrategy[Case]:
    return st.composite(build)()


def _dense(draw: Draw) -> Case:
    source = draw(shapes())
    width = (draw(st.sampled_from((None, source[-1]))), draw(st.integers(1, 4)))
    return _case(draw, "dense", {"width": width, "bias": draw(st.booleans())}, source)


def _matrix(draw: Draw) -> Case:
    shape, transposed = draw(shapes(2, 2)), draw(st.booleans())
    source = (*draw(shapes(0, 2)), shape[0] if transposed else shape[1])
    return _case(
        draw, "matrix", {"shape": shape, "transposed": transposed, "name": "W"}, source, weight=shape
    )


def linear_sets(draw: Draw) -> LinearSet:
    """A linear set of matrices, of any shape that it allows."""
    kind = draw(st.sampled_from(sorted(LINEAR)))
    m, n = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    arguments: tuple[Any, ...] = ()
    match kind:
        case "Banded":
            arguments = (draw(st.integers(-3, 1)), draw(st.integers(1, 3)))
        case "BlockBanded":
            blocks = tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=3)))
            m = n = sum(blocks)
            arguments = (blocks, draw(st.integers(-2, 0)), draw(st.integers(0, 2)))
        case "Sparse":
            columns = st.sets(st.integers(0, n - 1)).map(lambda held: tuple(sorted(held)))
            arguments = (tuple(draw(columns) for _ in range(m)),)
        case "Symmetric" | "Circulant":
            n = m
        case "Skew":
            m = n = m + 1
    made = LINEAR[kind](m, n, *arguments)
    assume(made.count > 0)  # the language refuses a set whose only member is zero
    return made


def _structured(draw: Draw) -> Case:
    made, transposed = linear_sets(draw), draw(st.booleans())
    kind = type(made).__name__
    written = (kind, *(getattr(made, field.name) for field in fields(made)))
    source = (*draw(shapes(0, 2)), made.rows if transposed else made.columns)
    settings = {"set": written, "transposed": transposed, "name": "W"}
    return _case(draw, "structured", settings, source, weight=(made.count,))


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
    return _case(draw, "conv", settings, (groups * each, *sizes))


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
    return _case(draw, "conv_transpose", settings, (groups * each, *sizes))


def _depthwise(draw: Draw) -> Case:
    settings, sizes = _windows(draw)
    settings["multiplier"] = draw(st.integers(1, 2))
    return _case(draw, "depthwise_conv", settings, (draw(st.integers(1, 3)), *sizes))


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
        return _case(draw, kind, settings, (draw(st.integers(1, 3)), *sizes))

    return build


def _batch_norm(draw: Draw) -> Case:
    settings = {"eps": draw(st.sampled_from((1e-5, 0.1))), "momentum": 0.1, "affine": draw(st.booleans())}
    return _case(draw, "batch_norm", settings, draw(shapes(1, 4)))


def _reshape(draw: Draw) -> Case:
    source = draw(shapes(0, 3))
    targets = [None, source[::-1], (1, *source), (int(np.prod(source)),), (*source, 1, 1)]
    return _case(draw, "reshape", {"shape": draw(st.sampled_from(targets))}, source)


def _permute(draw: Draw) -> Case:
    source = draw(shapes(1, 4))
    return _case(draw, "permute", {"axes": tuple(draw(st.permutations(range(len(source)))))}, source)


def _pad(draw: Draw) -> Case:
    source, mode = draw(shapes(2, 4)), draw(st.sampled_from(("zeros", "reflect", "circular", "replicate")))
    most = {"reflect": -1, "circular": 0}
    sides = [
        tuple(draw(st.integers(0, min(3, size + most[mode]) if mode in most else 3)) for size in source[1:])
        for _ in range(2)
    ]
    after = draw(st.sampled_from((sides[1], None)))
    return _case(draw, "pad", {"pad": sides[0], "after": after, "mode": mode}, source)


def _select(draw: Draw) -> Case:
    source, slices = draw(shapes(1, 3, size=6)), []
    for size in source:
        first, step = draw(st.integers(0, size - 1)), draw(st.integers(1, 3))
        length = draw(st.integers(1, (size - 1 - first) // step + 1))
        slices.append(draw(st.sampled_from((None, first, (first, step, length)))))
    return _case(draw, "select", {"slices": tuple(slices)}, source)


def _place(draw: Draw) -> Case:
    source = draw(shapes())
    axis, start = draw(st.integers(0, len(source) - 1)), draw(st.integers(0, 3))
    total = start + source[axis] + draw(st.integers(0, 3))
    return _case(draw, "place", {"axis": axis, "start": start, "total": total}, source)


def _offset(draw: Draw) -> Case:
    shape = draw(shapes(0, 3))
    return _case(draw, "offset", {"shape": shape}, (), weight=shape)


def _upsample(draw: Draw) -> Case:
    source = draw(shapes(2, 4, size=3))
    factor = tuple(draw(st.integers(1, 7)) for _ in source[1:])
    mode = draw(st.sampled_from(("nearest", "linear", ("linear", "bilinear", "trilinear")[len(factor) - 1])))
    corners = mode != "nearest" and draw(st.booleans())
    return _case(draw, "upsample", {"factor": factor, "mode": mode, "align_corners": corners}, source)


def _adaptive(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        source = draw(shapes(2, 4, size=6))
        return _case(draw, kind, {"size": tuple(draw(st.integers(1, 6)) for _ in source[1:])}, source)

    return build


def _expand(draw: Draw) -> Case:
    source = draw(shapes(0, 2))
    return _case(draw, "expand", {"shape": (*source, *draw(shapes(0, 2)))}, source)


def _expand_as(draw: Draw) -> Case:
    source = draw(shapes(0, 2))
    return _joined(draw, "expand_as", {}, source, (*source, *draw(shapes(0, 2))))


def _adjoint(kind: str) -> Callable[[Draw], Case]:
    """The transpose of a constant operator."""

    def build(draw: Draw) -> Case:
        case = draw(CASES[kind])
        turned = linear_rule(case.operator).transpose(case.operator)
        assert turned is not None
        return Case(turned, {}, case.seed)

    return build


def _diagonal(draw: Draw) -> Case:
    source = draw(shapes())
    first = draw(st.integers(0, len(source)))
    axes = draw(st.integers(0, len(source) - first))
    own = source[first : first + axes]
    return _case(draw, "diagonal", {"first": first, "axes": axes}, source, weight=own)


def _affine(draw: Draw) -> Case:
    source, bias = draw(shapes()), draw(st.booleans())
    first = draw(st.integers(0, len(source) - 1))
    tensors = {"weight": source[first : first + 1]} | ({"bias": source[first : first + 1]} if bias else {})
    return _case(draw, "affine", {"first": first, "axes": 1, "bias": bias}, source, **tensors)


def _slot(draw: Draw) -> Case:
    several = draw(
        st.one_of(st.lists(shapes(0, 2), min_size=2, max_size=3), shapes(0, 2).map(lambda s: [s] * 3))
    )
    index = draw(st.integers(0, len(several) - 1))
    given = {"index": index, "slots": tuple(several), "empty": draw(st.sampled_from((False, False, True)))}
    return _case(draw, "slot", given, several[index])


def _group_norm(draw: Draw) -> Case:
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    source = (groups * each, *draw(shapes(0, 3, size=3)))
    if np.prod(source) == groups:
        source = (2 * groups, *source[1:])
    return _case(draw, "group_norm", _norm(draw) | {"groups": groups}, source)


def _instance_norm(draw: Draw) -> Case:
    source = (draw(st.integers(1, 3)), *draw(shapes(0, 2, size=3)), draw(st.integers(2, 4)))
    return _case(draw, "instance_norm", _norm(draw), source)


def _last_norm(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        source = (*draw(shapes(0, 2)), draw(st.integers(2, 5)))
        return _case(draw, kind, _norm(draw) | {"axes": draw(st.integers(1, len(source)))}, source)

    return build


def _scaling(draw: Draw) -> Case:
    source = draw(shapes())
    settings = {
        "factor": draw(st.none() | _numbers()),
        "start": 0.5,
        "axis": draw(st.integers(1, len(source))),
    }
    return _case(draw, "scaling", settings, source)


def _dropout(draw: Draw) -> Case:
    channels = draw(st.booleans())
    source = draw(shapes(2, 4) if channels else shapes(0, 3))
    return _case(draw, "dropout", {"p": draw(st.sampled_from((0.0, 0.5))), "channels": channels}, source)


def _norm(draw: Draw) -> dict[str, Any]:
    return {"eps": draw(st.sampled_from((1e-5, 0.1))), "affine": draw(st.booleans())}


def _joined(draw: Draw, kind: str, settings: dict[str, Any], *sources: Shape) -> Case:
    """An activation of several arguments."""
    rule = OPERATORS[kind]
    assert isinstance(rule, ActivationRule)
    return Case(rule.join(settings, sources), {}, draw(st.integers(0, 2**32 - 1)))


def _matmul(draw: Draw) -> Case:
    n, m, d = (draw(st.integers(1, 4)) for _ in range(3))
    return _joined(draw, "matmul", {}, *draw(st.sampled_from((((n, m), (m, d)), ((n, n), (n, n))))))


def _attend(draw: Draw) -> Case:
    heads, causal = draw(st.integers(1, 3)), draw(st.booleans())
    d, e = (heads * draw(st.integers(1, 2)) for _ in range(2))
    t, s = (draw(st.integers(1, 4)) for _ in range(2))
    s, e = draw(st.sampled_from(((t if causal else s, e), (t, d))))
    masks = draw(st.sampled_from(((), ((s,),), ((t, s),))))
    return _joined(draw, "attend", {"heads": heads, "causal": causal}, (t, d), (s, d), (s, e), *masks)


def _over_axis(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        source = draw(shapes())
        return _case(draw, kind, {"dim": draw(st.none() | st.integers(1, len(source)))}, source)

    return build


def _maxout(draw: Draw) -> Case:
    pieces, target = draw(st.integers(1, 3)), draw(shapes())
    dim = draw(st.integers(1, len(target)))
    source = (*target[: dim - 1], pieces * target[dim - 1], *target[dim:])
    return _case(draw, "maxout", {"pieces": pieces, "dim": dim}, source)


def _prelu(draw: Draw) -> Case:
    source, init = draw(shapes(0, 3)), draw(st.sampled_from((0.25, -0.5)))
    return _case(draw, "prelu", {"per_channel": bool(source) and draw(st.booleans()), "init": init}, source)


def _slopes(draw: Draw) -> Case:
    source = draw(shapes(0, 3))
    each = bool(source) and draw(st.booleans())
    weight = source[:1] if each else (1,)
    return _case(draw, "slopes", {"per_channel": each}, (2, *source), weight=weight)


def _two(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        shape = draw(shapes(0, 3))
        return _joined(draw, kind, {}, shape, shape)

    return build


def _embedding(draw: Draw) -> Case:
    vocab, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return _case(draw, "embedding", {"vocab": vocab, "width": width}, (*draw(shapes(0, 2)), vocab))


def _lookup(draw: Draw) -> Case:
    shape, transposed = draw(shapes(2, 2)), draw(st.booleans())
    source = (*draw(shapes(0, 2)), shape[0] if transposed else shape[1])
    settings = {"shape": shape, "transposed": transposed, "name": "E"}
    return _case(draw, "lookup", settings, source, weight=shape)


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
    return _case(draw, "function", {"name": name, "body": BODIES[name]}, draw(shapes(0, 3)))


def _numbers() -> st.SearchStrategy[float]:
    return st.sampled_from((-1.0, 0.0, 0.5, -2.5, 1e-3))


def _plain(kind: str, **settings: st.SearchStrategy[Any]) -> Callable[[Draw], Case]:
    """Operators on any shape."""

    def build(draw: Draw) -> Case:
        drawn = {name: draw(values) for name, values in settings.items()}
        return _case(draw, kind, drawn, draw(shapes(0, 3)))

    return build


def example_of(kind: str) -> Operator:
    """The operator that the example of a rule uses."""
    checked = check(Source(f"model Example\n{OPERATORS[kind].example}\nend\n"))
    assert checked.certified, f"the example of `{kind}` does not compile"
    graph = checked.certified[0].graph
    activations = [node.activation for node in graph.nodes if node.activation is not None]
    used = [*activations, *(operator for edge in graph.edges for operator in edge.chain)]
    return next(operator for operator in used if operator.kind == kind)


def _argument(formal: Formal, written: Any) -> st.SearchStrategy[Any]:
    """What may be given for a formal argument; the choice of the example where any other may be wrong."""
    match formal.kind:
        case "choice":
            return st.sampled_from(formal.choices)
        case "flag":
            return st.booleans()
        case "number":
            return st.sampled_from([number for number in (written, formal.default) if number is not None])
        case "size" | "integer" | "axis":
            return st.integers(1, 3)
        case "pad":
            return st.integers(0, 2)
        case "width":
            return st.integers(1, 4).map(lambda width: (None, width))
        case _:
            return st.just(formal.default if written is None else written)


def _as_documented(kind: str) -> Callable[[Draw], Case]:
    """A rule with random arguments on a random shape, if it takes that; else the operator of its example."""

    def build(draw: Draw) -> Case:
        rule, example = OPERATORS[kind], example_of(kind)
        drawn = {f.name: draw(_argument(f, example.get(f.name, None))) for f in rule.formals}
        axes = len(example.source)
        source = draw(shapes(0, 3) if isinstance(rule, Elementwise) else shapes(axes, axes, size=9))
        try:
            assume(np.prod(source) < 400)
            return _case(draw, kind, dict(example.settings) | drawn, source)
        except ShapeError:
            return _used(draw, rule, example, {})

    return build


def _over_axes(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        source = draw(shapes(1, 4))
        axes = draw(st.sets(st.integers(0, len(source) - 1), min_size=1))
        return _case(draw, kind, {"axes": tuple(sorted(axes))}, source)

    return build


def _timed(kind: str) -> Callable[[Draw], Case]:
    """A number of the time at a time that is known: a sum, a quotient, a power of numbers."""

    def build(draw: Draw) -> Case:
        left, right = draw(_numbers()), draw(_numbers())
        number = (draw(st.sampled_from("+-*")), ("sin", left), right)
        source = draw(shapes(0, 3))
        settings = {"number": number, "largest": abs(at(number, 0.0, 0.0)), "shape": source}
        return _case(draw, kind, settings, source if kind == "timed_scale" else ())

    return build


_OWN: dict[str, Callable[[Draw], Case]] = {
    "dense": _dense,
    "matrix": _matrix,
    "embedding": _embedding,
    "lookup": _lookup,
    "structured": _structured,
    "conv": _conv,
    "depthwise_conv": _depthwise,
    "conv_transpose": _conv_transpose,
    "avg_pool": _pool("avg_pool"),
    "global_avg_pool": lambda draw: _case(draw, "global_avg_pool", {}, draw(shapes(2, 4))),
    "sum": _over_axes("sum"),
    "mean": _over_axes("mean"),
    "max_pool": _pool("max_pool"),
    "adaptive_avg_pool": _adaptive("adaptive_avg_pool"),
    "adaptive_max_pool": _adaptive("adaptive_max_pool"),
    "global_max_pool": lambda draw: _case(draw, "global_max_pool", {}, draw(shapes(2, 4))),
    "batch_norm": _batch_norm,
    "dropout": _dropout,
    "scaling": _scaling,
    "scale": _plain("scale", factor=_numbers()),
    "reshape": _reshape,
    "permute": _permute,
    "pad": _pad,
    "select": _select,
    "place": _place,
    "offset": _offset,
    "constant": lambda draw: _case(
        draw, "constant", {"shape": draw(shapes(0, 3)), "value": draw(_numbers())}, ()
    ),
    "timed_scale": _timed("timed_scale"),
    "timed_constant": _timed("timed_constant"),
    "identity": _plain("identity"),
    "leaky_relu": _plain("leaky_relu", slope=st.sampled_from((0.01, 0.5, 2.0))),
    "gelu": _plain("gelu", approximate=st.booleans()),
    "elu": _plain("elu", alpha=st.sampled_from((1.0, 0.5, -0.3, 2.0))),
    "hardtanh": _plain("hardtanh", low=st.sampled_from((-1.0, -2.0)), high=st.sampled_from((1.0, 6.0))),
    "power": _plain("power", exponent=st.sampled_from((2.0, 3.0, 4.0, 0.5, 1.5, -1.0, -2.0, -0.5))),
    "clamp": lambda draw: _case(
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
    "upsample": _upsample,
    "sinusoids": lambda draw: _case(
        draw, "sinusoids", {"base": draw(st.sampled_from((10000.0, 3.5)))}, draw(shapes(2, 2, size=5))
    ),
    "pad_adjoint": _adjoint("pad"),
    "avg_pool_adjoint": _adjoint("avg_pool"),
    "global_avg_pool_adjoint": _adjoint("global_avg_pool"),
    "adaptive_avg_pool_adjoint": _adjoint("adaptive_avg_pool"),
    "upsample_adjoint": _adjoint("upsample"),
    "expand_as": _expand_as,
    "expand": _expand,
    "diagonal": _diagonal,
    "affine": _affine,
    "slot": _slot,
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

CASES: dict[str, st.SearchStrategy[Case]] = {
    kind: _strategy(_OWN.get(kind) or _as_documented(kind)) for kind in OPERATORS
}
