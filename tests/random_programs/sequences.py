"""Sequences of vectors: attention, and products of two values."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from random_programs.program import Draw, Held, Made, Maker, Makers, RandomProgram, Shape, Values


@st.composite
def _attend(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Attention of a value to others as wide, written as sums over the heads."""
    wide = [name for name, size in program.shapes.items() if len(size) == 2 and size[1] == shape[1]]
    keys = draw(st.sampled_from(wide))
    values_ = draw(st.sampled_from([n for n in wide if program.shapes[n] == program.shapes[keys]]))
    heads = draw(st.sampled_from([h for h in (1, 2, 3) if shape[1] % h == 0]))
    causal = program.shapes[keys][0] == shape[0] and draw(st.booleans())
    width = shape[1] // heads
    text = f"attend({source}, {keys}, {values_}; heads = {heads}, causal = {str(causal).lower()}"
    mask = draw(
        st.sampled_from(["", *(n for n, s in program.shapes.items() if s == program.shapes[keys][:1])])
    )
    text += f", mask = max({mask}, 0))" if mask else ")"

    def run(held: Held, values: Values) -> Tensor:
        made = []
        for head in range(heads):
            q, k, v = (values[n][..., head * width : (head + 1) * width] for n in (source, keys, values_))
            scores = torch.einsum("btd,bsd->bts", q, k) / width**0.5
            if causal:
                scores = scores + torch.full((shape[0], shape[0]), -torch.inf).triu(1)
            if mask:
                scores = scores.masked_fill((values[mask] <= 0)[:, None, :], -torch.inf)
            weights = torch.softmax(scores, -1).nan_to_num()  # zeros where no key is left
            made.append(torch.einsum("bts,bse->bte", weights, v))
        return torch.cat(made, -1)

    return text, shape, run


@st.composite
def _matmul(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A product with another value, or with a `param` as one."""
    fitting = [name for name, size in program.shapes.items() if len(size) == 2 and size[0] == shape[1]]
    if fitting and draw(st.booleans()):
        other = draw(st.sampled_from(fitting))
        target = (shape[0], program.shapes[other][1])
        return (
            f"matmul(tanh({source}), {other})",
            target,
            lambda _, values: torch.einsum("bij,bjk->bik", torch.tanh(values[source]), values[other]),
        )
    width = draw(st.integers(1, 3))
    name = program.parameter("P", (shape[1], width))
    return (
        f"matmul({source}, {name})",
        (shape[0], width),
        lambda held, values: torch.einsum("bij,jk->bik", values[source], getattr(held, name)),
    )


@st.composite
def _waves(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Encodings of positions: the real and imaginary parts of turning numbers, in turn."""
    base = draw(st.sampled_from([10000.0, 3.5]))
    steps, width = shape

    def run(_: Held, values: Values) -> Tensor:
        k = torch.arange(width) // 2
        angles = torch.arange(steps).double()[:, None] * torch.exp(-(2 * k.double() / width) * math.log(base))
        turning = torch.exp(1j * angles)
        return values[source] + torch.where(torch.arange(width) % 2 == 0, turning.imag, turning.real)

    return f"({source} + sinusoids({source}; base = {base}))", shape, run


MAKERS: Makers = {
    "matmul": Maker(_matmul, axes=(2,)),
    "attend": Maker(_attend, axes=(2,)),
    "waves": Maker(_waves, axes=(2,)),
}
