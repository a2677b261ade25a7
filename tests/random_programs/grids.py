"""Windows and grids behind the channels, without weights: pooling, finer grids, cells around."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

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
    count,
)


@st.composite
def _pool(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    kernel, pad = draw(st.integers(1, 3)), draw(st.integers(0, 1))
    pad = min(pad, kernel // 2)
    stride = draw(st.integers(1, 3))
    kernel = min(kernel, min(shape[1:]))
    pad = min(pad, kernel // 2)
    sizes = tuple((s + 2 * pad - kernel) // stride + 1 for s in shape[1:])
    maximum = draw(st.booleans())
    text = f"{'Max' if maximum else 'Avg'}Pool({kernel}; stride = {stride}, pad = {pad})"
    functions = {
        (1, True): F.max_pool1d,
        (2, True): F.max_pool2d,
        (1, False): F.avg_pool1d,
        (2, False): F.avg_pool2d,
    }
    pool = functions[len(shape) - 1, maximum]
    applied = f"{text}({source})" if maximum else f"{text} * {source}"
    return applied, (shape[0], *sizes), lambda _, values: pool(values[source], kernel, stride, pad)


@st.composite
def _halving(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """What a fused path may replace: max-pooling of a relu, by two."""
    if len(shape) != 3 or any(size % 2 for size in shape[1:]):
        return draw(_pool(program, source, shape))
    first = draw(st.booleans())
    text = f"MaxPool(2)(relu({source}))" if first else f"relu(MaxPool(2)({source}))"
    sizes = tuple(size // 2 for size in shape[1:])
    return text, (shape[0], *sizes), lambda _, values: F.max_pool2d(F.relu(values[source]), 2)


def _global(program: RandomProgram, source: str, shape: Shape) -> st.SearchStrategy[Made]:
    return st.sampled_from(
        [
            (f"GlobalAvgPool() * {source}", shape[:1], lambda _, values: values[source].flatten(2).mean(2)),
            (f"GlobalMaxPool()({source})", shape[:1], lambda _, values: values[source].flatten(2).amax(2)),
        ]
    )


@st.composite
def _adaptive(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Pooling to a size, window by window."""
    sizes = tuple(draw(st.integers(1, 4)) for _ in shape[1:])
    maximum = draw(st.booleans())

    def run(held: Held, values: Values) -> Tensor:
        x = values[source]
        for axis, (size, wanted) in enumerate(zip(shape[1:], sizes), 2):
            parts = []
            for i in range(wanted):
                first, after = math.floor(i * size / wanted), math.ceil((i + 1) * size / wanted)
                part = x.narrow(axis, first, after - first)
                parts.append(part.amax(axis) if maximum else part.mean(axis))
            x = torch.stack(parts, axis)
        return x

    text = f"Adaptive{'Max' if maximum else 'Avg'}Pool([{', '.join(map(str, sizes))}])"
    return f"{text}({source})", (shape[0], *sizes), run


@st.composite
def _upsample(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    factor = tuple(draw(st.integers(1, 3)) for _ in shape[1:])
    sizes = tuple(size * times for size, times in zip(shape[1:], factor))
    if count(sizes) > 200:
        return draw(_global(program, source, shape))

    def run(held: Held, values: Values) -> Tensor:
        x = values[source]
        for axis, times in enumerate(factor, 2):
            x = x.repeat_interleave(times, axis)
        return x

    return f"Upsample([{', '.join(map(str, factor))}]) * {source}", (shape[0], *sizes), run


@st.composite
def _interpolate(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Linear interpolation along each axis: the cells on both sides of a place, by their distances."""
    times, corners = draw(st.integers(1, 3)), draw(st.booleans())
    sizes = tuple(size * times for size in shape[1:])
    if count(sizes) > 200:
        return draw(_global(program, source, shape))

    def run(held: Held, values: Values) -> Tensor:
        x = values[source]
        for axis, (size, wanted) in enumerate(zip(shape[1:], sizes), 2):
            places = torch.arange(wanted, dtype=torch.float64)
            if corners:
                places = places * (size - 1) / max(1, wanted - 1)
            else:
                places = ((places + 0.5) / times - 0.5).clamp(0)
            cells = torch.arange(size, dtype=torch.float64)
            weights = (1 - (places.clamp(max=size - 1)[:, None] - cells).abs()).clamp(0).to(x)
            x = torch.tensordot(x, weights, ([axis], [1])).movedim(-1, axis)
        return x

    mode = draw(st.sampled_from(["linear", ("linear", "bilinear")[len(shape) - 2]]))
    text = f'Upsample({times}; mode = "{mode}", align_corners = {str(corners).lower()}) * {source}'
    return text, (shape[0], *sizes), run


@st.composite
def _around(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Cells around a value: a number of zeros or copies before and after each axis."""
    mode = draw(st.sampled_from(["zeros", "circular", "replicate", "reflect"]))
    most = min(shape[1:]) - (mode == "reflect") if mode != "zeros" else 2
    before, after = (draw(st.integers(0, min(2, most))) for _ in range(2))

    def run(held: Held, values: Values) -> Tensor:
        x = values[source]
        for axis, size in enumerate(shape[1:], 2):
            places = range(-before, size + after)
            wrapped = {
                "zeros": [min(max(at, 0), size - 1) for at in places],
                "circular": [at % size for at in places],
                "replicate": [min(max(at, 0), size - 1) for at in places],
                "reflect": [abs(at) if at < size else 2 * (size - 1) - at for at in places],
            }[mode]
            x = x.index_select(axis, torch.tensor(wrapped))
            if mode == "zeros":
                keep = torch.tensor([0 <= at < size for at in places], dtype=x.dtype)
                x = x * keep.reshape(-1, *[1] * (x.ndim - axis - 1))
        return x

    text = f'Pad({before}; after = {after}, mode = "{mode}") * {source}'
    return text, (shape[0], *(size + before + after for size in shape[1:])), run


@st.composite
def _shuffle(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Channels for a finer grid, or the other way round: the axes of the cells are moved."""
    channels, height, width = shape
    factor = draw(st.sampled_from([1, 2, 2, 3]))
    dividing = [r for r in (2, 3, 4) if height % r == 0 and width % r == 0]
    if dividing and draw(st.booleans()):
        factor = draw(st.sampled_from(dividing))
        high, wide = height // factor, width // factor
        return (
            f"PixelUnshuffle({factor}) * {source}",
            (channels * factor**2, high, wide),
            lambda _, values: (
                values[source]
                .reshape(-1, channels, high, factor, wide, factor)
                .permute(0, 1, 3, 5, 2, 4)
                .flatten(1, 3)
            ),
        )
    fewer = -(-channels // factor**2)
    copies = -(-fewer * factor**2 // channels)
    more = f"cat({', '.join([source] * copies)})[1:{fewer * factor**2}, :, :]" if copies > 1 else source
    if copies == 1 and channels != fewer * factor**2:
        more = f"{source}[1:{fewer * factor**2}, :, :]"

    def run(_: Held, values: Values) -> Tensor:
        x = torch.cat([values[source]] * copies, 1)[:, : fewer * factor**2]
        x = x.reshape(-1, fewer, factor, factor, height, width).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(-1, fewer, height * factor, width * factor)

    return f"PixelShuffle({factor}) * {more}", (fewer, height * factor, width * factor), run


MAKERS: Makers = {
    "pool": Maker(lambda *given: st.one_of(_pool(*given), _halving(*given)), axes=GRIDS),
    "global": Maker(_global, axes=GRIDS),
    "adaptive": Maker(_adaptive, axes=GRIDS),
    "upsample": Maker(_upsample, axes=GRIDS),
    "interpolate": Maker(_interpolate, axes=GRIDS),
    "around": Maker(_around, axes=GRIDS),
    "shuffle": Maker(_shuffle, axes=(3,), often=2),
}
