"""What acts entry by entry, or on values of one shape."""

from __future__ import annotations

from functools import reduce

import torch
from hypothesis import strategies as st
from torch import Tensor

from random_programs.program import Draw, Held, Made, Maker, Makers, RandomProgram, Shape, Values


@st.composite
def _scale(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    factor = draw(st.sampled_from([0.5, -1.5, 2.0]))
    text, value = draw(
        st.sampled_from([(f"{factor}*{source}", factor), (f"-{source}", -1.0), (f"{source} / 4", 0.25)])
    )
    return text, shape, lambda _, values: value * values[source]


@st.composite
def _plus(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    number = draw(st.sampled_from([1.0, -0.5, 2.0]))
    if draw(st.booleans()):
        return f"({number} - {source})", shape, lambda _, values: number - values[source]
    return f"({source} + {number})", shape, lambda _, values: values[source] + number


@st.composite
def _sum(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Two or three values of one shape, one of them perhaps subtracted or scaled."""
    fitting = program.of_shape(shape)
    names = [source, *draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2))]
    factors = [draw(st.sampled_from([1.0, -1.0, 0.5, -2.0])) for _ in names]
    text = " + ".join(f"({factor})*{name}" for factor, name in zip(factors, names))
    return (
        f"({text})",
        shape,
        lambda _, values: reduce(torch.add, (f * values[n] for f, n in zip(factors, names))),
    )


@st.composite
def _offset(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    name = program.parameter("b", shape)
    minus = draw(st.booleans())
    sign = -1 if minus else 1
    text = f"({source} {'-' if minus else '+'} {name})"
    return text, shape, lambda held, values: values[source] + sign * getattr(held, name)


@st.composite
def _product(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A gate: one factor is bounded, so that numbers stay small."""
    other = draw(st.sampled_from(program.of_shape(shape)))
    dot = draw(st.sampled_from([".*", "⊙"]))
    if draw(st.booleans()):
        text, gate = f"(σ({source}) {dot} {other})", torch.sigmoid
    else:
        text, gate = f"({other} {dot} tanh({source}))", torch.tanh
    return text, shape, lambda _, values: gate(values[source]) * values[other]


@st.composite
def _weigh(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    name = program.parameter("w", shape)
    text = draw(st.sampled_from([f"{name} .* {source}", f"{source} .* {name}"]))
    return text, shape, lambda held, values: values[source] * getattr(held, name)


@st.composite
def _maximum(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """The larger or smaller of two values, of a value and a number, or of neighbouring channels."""
    kind = draw(st.sampled_from(["values", "number", "maxout"]))
    if kind == "maxout" and shape[0] % 2 == 0:
        return (
            f"maxout({source})",
            (shape[0] // 2, *shape[1:]),
            lambda _, values: torch.maximum(values[source][:, ::2], values[source][:, 1::2]),
        )
    if kind == "number":
        return f"max({source}, 0.5)", shape, lambda _, values: values[source].clamp(min=0.5)
    other = draw(st.sampled_from(program.of_shape(shape)))
    return (
        f"min({source}, {other})",
        shape,
        lambda _, values: torch.where(values[source] < values[other], values[source], values[other]),
    )


@st.composite
def _softmax(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    dim = draw(st.integers(1, len(shape)))
    setting = f"; dim = {dim}" if dim < len(shape) or draw(st.booleans()) else ""

    def logarithm(_: Held, values: Values) -> Tensor:
        return values[source] - values[source].logsumexp(dim, keepdim=True)

    if draw(st.booleans()):
        return f"log_softmax({source}{setting})", shape, logarithm
    return f"softmax({source}{setting})", shape, lambda _, values: logarithm(_, values).exp()


@st.composite
def _maxout(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """The largest of neighbours along an axis that they divide."""
    axis = draw(st.integers(1, len(shape)))
    pieces = draw(st.sampled_from([n for n in (1, 2, 3, 4) if shape[axis - 1] % n == 0]))

    def run(_: Held, values: Values) -> Tensor:
        x = values[source].movedim(axis, -1)
        return torch.stack([x[..., place::pieces] for place in range(pieces)]).amax(0).movedim(-1, axis)

    target = (*shape[: axis - 1], shape[axis - 1] // pieces, *shape[axis:])
    return f"maxout({source}; pieces = {pieces}, dim = {axis})", target, run


MAKERS: Makers = {
    "scale": Maker(_scale),
    "plus": Maker(_plus),
    "sum": Maker(_sum, often=2),
    "offset": Maker(_offset),
    "product": Maker(_product, often=2),
    "weigh": Maker(_weigh),
    "maximum": Maker(_maximum),
    "maxout": Maker(_maxout),
    "softmax": Maker(_softmax),
}
