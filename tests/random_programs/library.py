"""Blocks of the library, with the twins that its own tests have."""

from __future__ import annotations

from collections.abc import Callable

import torch
import twins_of_std as hand
from hypothesis import strategies as st
from torch import nn

from random_programs.program import Draw, Made, Maker, Makers, RandomProgram, Shape, running

Block = tuple[str, str, str, Shape, Callable[[], nn.Module]]  # file, name, arguments, what it gives, twin


def _blocks(draw: Draw, shape: Shape) -> list[Block]:
    """The blocks that take values of a shape."""
    first, last, more = shape[0], shape[-1], draw(st.integers(1, 3))
    wide = (*shape[:-1], more)
    found: list[Block] = [
        ("basic", "Skip", "(tanh)", shape, lambda: hand.Skip(nn.Tanh())),
        ("basic", "MLP", f"([2, {more}]; act = tanh)", wide, lambda: hand.MLP(last, [2, more], torch.tanh)),
        ("basic", "GLU", f"({more}; gate = silu)", wide, lambda: hand.GLU(last, more, nn.SiLU())),
    ]
    if len(shape) == 1:
        found.append(("basic", "Highway", "(act = tanh)", shape, lambda: hand.Highway(first, nn.Tanh())))
    if len(shape) == 2:
        heads = draw(st.sampled_from([h for h in (1, 2) if last % h == 0]))
        found += [
            ("attention", "SelfAttention", f"({heads})", shape, lambda: hand.Attention(last, heads)),
            ("attention", "FeedForward", "(2)", shape, lambda: hand.FeedForward(last, 2)),
            ("attention", "Positions", "()", shape, lambda: hand.Positions(*shape)),
        ]
    if len(shape) == 3:
        grid = shape[1:]
        found += [
            ("vision", "SqueezeExcite", "(1)", shape, lambda: hand.SqueezeExcite(first, 1)),
            ("vision", "Fire", f"(2, 1, {more})", (1 + more, *grid), lambda: hand.Fire(first, 2, 1, more)),
            ("vision", "ConvNormAct", f"({more})", (more, *grid), lambda: hand.ConvNormAct(first, more)),
            ("vision", "Residual", f"({more})", (more, *grid), lambda: hand.Residual(first, more, 1)),
        ]
    return found


@st.composite
def _library(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    file, block, arguments, target, twin = draw(st.sampled_from(_blocks(draw, shape)))
    if draw(st.booleans()):
        line, called = f"import std.{file}", f"{file}.{block}"
    else:
        line, called = f"import std.{file}: {block} as Std{block}", f"Std{block}"
    if line not in program.head:
        program.head.append(line)
    name = program.layer(called + arguments, twin, shape)
    return (
        draw(st.sampled_from([f"{name}({source})", f"({source} |> {name})"])),
        target,
        running(name, source),
    )


MAKERS: Makers = {"library": Maker(_library, often=2)}
