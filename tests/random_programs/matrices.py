"""Matrices of the program, on the last axis."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import Tensor

from random_programs.program import Draw, Held, Made, Maker, Makers, RandomProgram, Shape, Values


@st.composite
def _matrix(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    width, transposed = draw(st.integers(1, 4)), draw(st.booleans())
    name = program.parameter("W", (shape[-1], width) if transposed else (width, shape[-1]))

    def run(held: Held, values: Values) -> Tensor:
        W = getattr(held, name)
        return values[source] @ (W if transposed else W.T)

    return f"{name}{chr(39) if transposed else ''}*{source}", (*shape[:-1], width), run


MAKERS: Makers = {
    "matrix": Maker(_matrix),
}
