"""Convolutions over the axes behind the channels, and their transposes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from random_programs.layers import dense
from random_programs.program import (
    GRIDS,
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
def _conv(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    axes, channels = len(shape) - 1, shape[0]
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    width = groups * draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    fits = all(size + 2 * pad >= 2 * (k - 1) + 1 for size, k in zip(shape[1:], kernel))
    dilation = draw(st.integers(1, 2)) if fits else 1
    bias = draw(st.booleans())
    mode = draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"]))
    if pad >= min(shape[1:]):
        mode = "zeros"
    settings = f'stride = {stride}, pad = {pad}, dilation = {dilation}, groups = {groups}, mode = "{mode}"'
    text = f"Conv({width}, ({', '.join(map(str, kernel))},); {settings}, bias = {str(bias).lower()})"
    sizes = tuple((s + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for s, k in zip(shape[1:], kernel))
    if min(sizes) < 1:
        return draw(dense(program, source, shape))
    kind: Callable[..., nn.Module] = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
    name = program.layer(
        text,
        lambda: kind(channels, width, kernel, stride, pad, dilation, groups, bias, mode),
        shape,
    )
    return call(draw, name, source), (width, *sizes), running(name, source)


@st.composite
def _spread(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A transposed convolution."""
    axes, channels = len(shape) - 1, shape[0]
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    width, kernel = groups * draw(st.integers(1, 2)), draw(st.integers(1, 3))
    stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, kernel // 2))
    more = draw(st.integers(0, stride - 1))
    sizes = tuple((size - 1) * stride - 2 * pad + kernel + more for size in shape[1:])
    if min(sizes) < 1 or count(sizes) > 200:
        return draw(dense(program, source, shape))
    bias = draw(st.booleans())
    settings = f"stride = {stride}, pad = {pad}, output_pad = {more}, groups = {groups}"
    text = f"ConvTranspose({width}, {kernel}; {settings}, bias = {str(bias).lower()})"
    kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[axes]
    name = program.layer(text, lambda: kind(channels, width, kernel, stride, pad, more, groups, bias), shape)
    return call(draw, name, source), (width, *sizes), running(name, source)


@st.composite
def _mirror(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A convolution and its transpose, tied."""
    axes, channels = len(shape) - 1, shape[0]
    kernel, stride, width = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    pad = draw(st.integers(0, 1))
    if min(shape[1:]) + 2 * pad < kernel:
        return draw(dense(program, source, shape))
    text = f"Conv({width}, {kernel}; stride = {stride}, pad = {pad})"
    kind: Callable[..., nn.Module] = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
    name = program.layer(text, lambda: kind(channels, width, kernel, stride, pad), shape)

    def run(held: Held, values: Values) -> Tensor:
        layer, x = getattr(held, name), values[source]
        point = torch.zeros_like(x, requires_grad=True)
        with torch.enable_grad():
            made = layer(point)
            return torch.autograd.grad(made, point, torch.tanh(layer(x)), create_graph=True)[0]

    return f"({name}' * tanh({name}*{source}))", shape, run


@st.composite
def _same(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A convolution that keeps the size: of an odd number of cells around, the last one is at the end."""
    channels, sizes = shape[0], shape[1:]
    kernel = tuple(draw(st.integers(1, 4)) for _ in sizes)
    dilation, width = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    reads = [dilation * (k - 1) for k in kernel]
    most = max((cells + 1) // 2 - size for cells, size in zip(reads, sizes))
    mode = draw(
        st.sampled_from(["zeros", "replicate"] + ["reflect"] * (most < 0) + ["circular"] * (most <= 0))
    )
    kind: Callable[..., nn.Module] = {1: nn.Conv1d, 2: nn.Conv2d}[len(sizes)]
    settings = f'pad = "same", dilation = {dilation}, mode = "{mode}"'
    name = program.layer(
        f"Conv({channels} => {width}, {list(kernel)}; {settings})",
        lambda: kind(channels, width, kernel, dilation=dilation),
        shape,
    )
    del program.applied[name]  # the twin pads by itself

    def run(held: Held, values: Values) -> Tensor:
        around = [side for cells in reversed(reads) for side in (cells // 2, cells - cells // 2)]
        padded = F.pad(values[source], around, "constant" if mode == "zeros" else mode)
        convolved: Tensor = getattr(held, name)(padded)
        return convolved

    return call(draw, name, source), (width, *sizes), run


@st.composite
def _depthwise(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Each channel by itself."""
    channels, kernel = shape[0], draw(st.integers(1, 3))
    stride, pad, multiplier = draw(st.integers(1, 2)), draw(st.integers(0, 1)), draw(st.integers(1, 2))
    sizes = tuple((size + 2 * pad - kernel) // stride + 1 for size in shape[1:])
    if min(sizes) < 1:
        return draw(dense(program, source, shape))
    kind: Callable[..., nn.Module] = {1: nn.Conv1d, 2: nn.Conv2d}[len(sizes)]
    width = multiplier * channels
    name = program.layer(
        f"DepthwiseConv({kernel}; stride = {stride}, pad = {pad}, multiplier = {multiplier})",
        lambda: kind(channels, width, kernel, stride, pad, groups=channels),
        shape,
    )
    return call(draw, name, source), (width, *sizes), running(name, source)


MAKERS: Makers = {
    "conv": Maker(_conv, axes=GRIDS, often=2),
    "same": Maker(_same, axes=GRIDS),
    "depthwise": Maker(_depthwise, axes=GRIDS),
    "spread": Maker(_spread, axes=GRIDS),
    "mirror": Maker(_mirror, axes=GRIDS),
}
