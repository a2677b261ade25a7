"""Inputs that hold tokens, and the values that they become."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from random_programs.program import Draw, Held, Made, RandomProgram, Values, show


def token_input(draw: Draw, program: RandomProgram, name: str) -> Made:
    """An input of tokens, and vectors for them: a layer's, or the rows of a matrix."""
    shape = draw(st.sampled_from([(3,), (4,), (1,), (2, 3), ()]))
    vocab, width = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    program.inputs[name], program.tokens[name] = shape, vocab
    program.lines.append(f"input {name}{show(shape)} in Tokens({program.number(draw, vocab)})")
    kind = draw(st.sampled_from(["layer", "matrix", "shared"]))
    if kind == "layer":
        text = draw(st.sampled_from([f"Embedding({vocab}, {width})", f"Embedding({width})"]))
        layer = program.layer(text, lambda: nn.Embedding(vocab, width), shape)
        del program.applied[layer]  # it takes no other values
        return f"{layer}({name})", (*shape, width), lambda held, values: getattr(held, layer)(values[name])
    matrix = program.parameter("E", (vocab, width))

    def rows(held: Held, values: Values) -> Tensor:
        wanted = torch.nn.functional.one_hot(values[name], vocab).double()
        return wanted @ getattr(held, matrix)

    if kind == "matrix":
        return f"{matrix}'*{name}", (*shape, width), rows
    return (  # the scores of all tokens, by the same matrix
        f"{matrix} * tanh({matrix}'*{name})",
        (*shape, vocab),
        lambda held, values: torch.tanh(rows(held, values)) @ getattr(held, matrix).T,
    )
