"""Layers on values of any shape: dense ones, normalisations, learned slopes."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from random_programs.program import (
    Draw,
    Held,
    Made,
    Maker,
    Makers,
    RandomProgram,
    Shape,
    Values,
    call,
    count,
    running,
)


@st.composite
def dense(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    width, bias = draw(st.integers(1, 5)), draw(st.booleans())
    written = program.number(draw, width)
    head = f"{shape[-1]} => {written}" if draw(st.booleans()) else written
    text = f"Dense({head}; bias = {str(bias).lower()})"
    name = program.layer(text, lambda: nn.Linear(shape[-1], width, bias=bias), shape)
    return call(draw, name, source), (*shape[:-1], width), running(name, source)


@st.composite
def _tied(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A layer that is there already, on another value of the same shape."""
    fitting = [name for name, taken in program.applied.items() if taken == shape]
    if not fitting:
        return draw(dense(program, source, shape))
    name = draw(st.sampled_from(fitting))
    with torch.no_grad():
        given = program.layers[name]().eval()(torch.zeros(1, *shape))
    return f"{name}({source})", tuple(given.shape[1:]), running(name, source)


@st.composite
def _norm(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    affine = draw(st.booleans())
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)]
    text = f"BatchNorm(; affine = {str(affine).lower()})"
    name = program.layer(text, lambda: kind(shape[0], affine=affine), shape)
    return call(draw, name, source), shape, running(name, source)


@st.composite
def _standardise(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """The normalisations of one sample."""
    affine, eps = draw(st.booleans()), draw(st.sampled_from([0.1, 0.5]))
    settings = f"eps = {eps}, affine = {str(affine).lower()}"
    groups = [g for g in (1, 2, 3) if shape[0] % g == 0 and count(shape) > g]
    axes = draw(st.integers(1, len(shape)))
    last = shape[-axes:]
    kinds = ["group"] * bool(groups) + ["layer"] * (count(last) > 1) + ["rms"]
    kinds += ["instance"] * (len(shape) > 1 and count(shape[1:]) > 1)
    kind = draw(st.sampled_from(kinds))
    if kind == "group":
        number = draw(st.sampled_from(groups))
        name = program.layer(
            f"GroupNorm({number}; {settings})",
            lambda: nn.GroupNorm(number, shape[0], eps, affine),
            shape,
        )
    elif kind == "instance":
        made = {2: nn.InstanceNorm1d, 3: nn.InstanceNorm2d}[len(shape)]
        name = program.layer(f"InstanceNorm({settings})", lambda: made(shape[0], eps, affine=affine), shape)
    elif kind == "layer":
        text = f"LayerNorm({settings}, axes = {axes})"
        name = program.layer(text, lambda: nn.LayerNorm(last, eps, affine), shape)
    else:
        text = f"RMSNorm({settings}, axes = {axes})"
        name = program.layer(text, lambda: nn.RMSNorm(last, eps, affine), shape)
    applied = draw(st.sampled_from([f"{name}({source})", f"({source} |> {name})"]))
    return applied, shape, running(name, source)


@st.composite
def _prelu(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    each = draw(st.booleans())
    text = f"PReLU(; per_channel = {str(each).lower()})"
    name = program.layer(text, lambda: nn.PReLU(shape[0] if each else 1), shape)
    return f"{name}({source})", shape, running(name, source)


def _dropout(program: RandomProgram, source: str, shape: Shape) -> st.SearchStrategy[Made]:
    return st.just((f"Dropout(0.25) * {source}", shape, lambda _, values: values[source]))


@st.composite
def _factors(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A factor for each entry along an axis, learned or one for all."""
    axis = draw(st.integers(1, len(shape)))
    if draw(st.booleans()):
        factor = draw(st.sampled_from([0.5, -1.5]))
        return f"Scale({factor}) * {source}", shape, lambda _, values: factor * values[source]
    name = program.fresh("L")
    program.lines.append(f"layer {name} = Scale(; axis = {axis})")
    program.parameters[name] = shape[axis - 1 : axis]
    along = [-1, *[1] * (len(shape) - axis)]
    return (
        call(draw, name, source),
        shape,
        lambda held, values: values[source] * getattr(held, name).reshape(along),
    )


@st.composite
def _without_name(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Layers that are called after their equation."""
    name, inner, outer = program.fresh("d"), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    text = draw(
        st.sampled_from(
            [
                f"{source} |> Dense({inner}) |> tanh |> Dense({outer}; bias = false)",
                f"chain(Dense({inner}), tanh, Dense({outer}; bias = false))({source})",
            ]
        )
    )
    program.lines.append(f"{name} = {text}")
    program.layers[f"{name}_dense"] = lambda: nn.Linear(shape[-1], inner)
    program.layers[f"{name}_dense2"] = lambda: nn.Linear(inner, outer, bias=False)

    def run(held: Held, values: Values) -> Tensor:
        hidden = torch.tanh(getattr(held, f"{name}_dense")(values[source]))
        return hidden @ getattr(held, f"{name}_dense2").weight.T

    program.value(name, (*shape[:-1], outer), run)
    return name, (*shape[:-1], outer), lambda _, values: values[name]


MAKERS: Makers = {
    "dense": Maker(dense),
    "tied": Maker(_tied),
    "norm": Maker(_norm),
    "standardise": Maker(_standardise),
    "prelu": Maker(_prelu),
    "dropout": Maker(_dropout),
    "factors": Maker(_factors),
    "without name": Maker(_without_name),
}
